"""The event loop of a worker process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from enum import StrEnum
from importlib import import_module
from typing import Any, TypeVar

from durably import UsageError

T = TypeVar("T")

_ALLOCATIONS = 10_000
"""Objects that are made, and not freed, between two looks of the garbage collector."""


class Loop(StrEnum):
    """Which event loop to use."""

    AUTO = "auto"
    """uvloop where it is installed, else asyncio's own. It helps on SQLite and does no harm on PostgreSQL (ADR 8)."""
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


def run(work: Coroutine[Any, Any, T], loop: Loop) -> T:
    """Run this to its end. Raises UsageError when uvloop is asked for and not installed.

    What was loaded so far stays, so the garbage collector need not look at it again and again. It need not come often
    either: what a run leaves behind is freed at once, only reference cycles of users' code wait for it.
    """
    try:
        factory = _factory(loop)
    except UsageError:
        work.close()
        raise
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _factory(loop: Loop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop is Loop.ASYNCIO:
        return None
    try:
        uvloop: Any = import_module("uvloop")
    except ImportError as error:
        if loop is Loop.AUTO:
            return None
        raise UsageError("uvloop is not installed: `pip install uvloop`, or use --loop asyncio") from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
