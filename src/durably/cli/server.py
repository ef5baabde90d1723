"""uvicorn's server, whose signals are somebody else's."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import uvicorn


class Server(uvicorn.Server):
    """Stops when it is told to, not by signals: a worker in the same process stops beside it."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield
