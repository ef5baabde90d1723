"""`durably worker`: a worker as a process of its own, ended by signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from durably import DatabaseUnavailable, Durably, Job, Worker

RETRY_SECONDS = 2.0

_logger = logging.getLogger("durably.cli")


async def run_worker(
    durably: Durably, jobs: Sequence[Job[Any, Any] | str], *, concurrency: int | None, grace: float | None
) -> None:
    """Work until a signal comes; then let runs end within `grace` seconds. A second signal interrupts them now."""
    worker = durably.worker(
        jobs, max_concurrent_runs=concurrency, grace=None if grace is None else timedelta(seconds=grace)
    )
    stop, interrupt = asyncio.Event(), asyncio.Event()
    with _signals(stop, interrupt):
        try:
            if await _unless(stop, _start(worker)):
                print(f"worker ready: {', '.join(worker.jobs)} (process {os.getpid()})", file=sys.stderr, flush=True)
                await _unless(stop, worker.ended())
            await _unless(interrupt, worker.stop())
        finally:
            await durably.close()


async def _start(worker: Worker) -> None:
    """Start, as soon as there is a database."""
    while True:
        try:
            await worker.start()
        except DatabaseUnavailable as error:
            _logger.warning("%s: trying again", error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, but cancel it when the event comes first. Returns whether it was done; raises what it raises."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        is_done = working.done()
        if not is_done:
            working.cancel()
        with suppress(asyncio.CancelledError):
            await working
    finally:
        waiting.cancel()
    return is_done


@contextmanager
def _signals(stop: asyncio.Event, interrupt: asyncio.Event) -> Generator[None]:
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
