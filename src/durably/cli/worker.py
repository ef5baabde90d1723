"""`durably worker`: a worker as a process of its own, ended by signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import contextmanager
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any

from durably.app import Durably
from durably.errors import DatabaseUnavailable
from durably.jobs import Job
from durably.runtime.worker import Worker

RETRY_SECONDS = 2.0

_logger = logging.getLogger("durably.cli")


async def run_worker(
    durably: Durably, jobs: Sequence[Job[Any, Any] | str], *, concurrency: int | None, grace: float | None
) -> None:
    """Work until a signal comes; then let runs finish for `grace` seconds. A second signal interrupts them now."""
    worker = durably.worker(
        jobs,
        max_concurrent_runs=concurrency,
        grace=None if grace is None else timedelta(seconds=grace),
    )
    first, second = asyncio.Event(), asyncio.Event()
    with _signals(lambda: second.set() if first.is_set() else first.set()):
        try:
            if await _until(first, _start(worker)):
                print(f"worker ready: process {os.getpid()}, jobs {', '.join(worker.jobs)}", file=sys.stderr, flush=True)
                await first.wait()
            if not await _until(second, worker.stop()):
                await worker.stop(timedelta(0))
        finally:
            await durably.close()
