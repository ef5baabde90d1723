"""`durably worker`: a worker as a process of its own, ended by signals."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durably import DatabaseUnavailable, Durably, Job, Worker
from durably.cli.exits import say
from durably.cli.health import health_server
from durably.cli.pulse import Pulse
from durably.cli.signals import signals

RETRY_SECONDS = 2.0
MAX_SECONDS = 1e9
"""The most that an option in seconds may say: thirty years."""

_logger = logging.getLogger("durably.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the command line says of a worker."""

    concurrency: int | None = None
    grace: float | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    health_port: int | None = None
    pulse_fd: int | None = None
    """A pipe to the process that watches over this one."""


async def run_worker(durably: Durably, jobs: Sequence[Job[Any, Any] | str], options: WorkerOptions) -> None:
    """Work until a signal comes; then let runs end within the grace. A second signal interrupts them now."""
    worker = durably.worker(
        jobs,
        only=options.only,
        exclude=options.exclude,
        max_concurrent_runs=options.concurrency,
        grace=None if options.grace is None else timedelta(seconds=options.grace),
    )
    stop, interrupt = asyncio.Event(), asyncio.Event()
    pulse = Pulse(durably, worker)
    async with AsyncExitStack() as stack:
        stack.enter_context(signals(stop, interrupt))
        stack.push_async_callback(durably.close)
        if (port := stack.enter_context(health_server(options.health_port, pulse.report))) is not None:
            say(f"health: http://127.0.0.1:{port}")
        if options.health_port is not None or options.pulse_fd is not None:
            await stack.enter_async_context(pulse.beating(options.pulse_fd, stop.set))
        if await _unless(stop, start(worker)):
            print(f"worker ready: {', '.join(worker.jobs)} (process {os.getpid()})", file=sys.stderr, flush=True)
            await _unless(stop, worker.ended())
        pulse.is_stopping = True
        await _unless(interrupt, worker.stop())


async def start(worker: Worker) -> None:
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
