"""Threads that wait for what a `SyncDurably` does."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Executor
from types import FrameType

from durably.sync import portal

_WAITS = portal._answered.__code__  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells


def thread_of(pool: Executor) -> int:
    """Return which thread the only one of this pool is."""
    return pool.submit(threading.get_ident).result()


def until_waiting(thread: int) -> None:
    """Return when this thread has made a call and waits for its answer."""
    frames = sys._current_frames  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells
    while not _is_waiting(frames().get(thread)):  # bounded by the test's timeout
        pass


def _is_waiting(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is _WAITS:
            return True
        frame = frame.f_back
    return False
