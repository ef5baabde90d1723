"""Whether the server in this process was told to stop: open streams would keep it waiting."""

from __future__ import annotations

import signal


def server_is_stopping() -> bool:
    """Say whether uvicorn, whose handler takes the signals of this process, has been told to stop.

    It tells applications only after their last answer has ended, and a stream does not end by itself.
    """
    handlers = (signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
    owners = (getattr(handler, "__self__", None) for handler in handlers)
    return any(getattr(owner, "should_exit", False) is True for owner in owners)
