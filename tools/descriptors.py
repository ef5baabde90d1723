"""How many files and sockets a process may have open."""

from __future__ import annotations

import resource


def allow_many() -> None:
    """Allow as many as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
