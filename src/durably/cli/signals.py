"""What signals do to a process that works: the first stops it in good order, the second interrupts it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

_logger = logging.getLogger("durably.cli")


@contextmanager
def signals(stop: asyncio.Event, interrupt: asyncio.Event) -> Generator[None]:
    """Set `stop` at the first SIGTERM or SIGINT, `interrupt` at the second; leave the third to the system."""
    loop = asyncio.get_running_loop()
    former = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}

    def receive() -> None:
        if not stop.is_set():
            _logger.info("stopping: runs may end; another signal interrupts them")
            stop.set()
            return
        for kind in former:
            signal.signal(kind, signal.SIG_DFL)
        _logger.info("interrupting what still runs")
        interrupt.set()

    for kind in former:
        _handle(loop, kind, receive)
    try:
        yield
    finally:
        for kind, handler in former.items():
            signal.signal(kind, handler or signal.SIG_DFL)


def _handle(loop: asyncio.AbstractEventLoop, kind: signal.Signals, receive: Callable[[], None]) -> None:
    """Call `receive` in the loop when the signal comes."""
    try:
        loop.add_signal_handler(kind, receive)
    except NotImplementedError:  # Windows
        signal.signal(kind, lambda _number, _frame: loop.call_soon_threadsafe(receive))
