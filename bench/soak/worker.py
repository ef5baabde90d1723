"""A worker process of the soak: `durably worker` with these settings, which also says what its claims took.

It runs in uvloop where that is installed, as the command does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from unittest.mock import patch

from bench.soak.jobs import JOBS
from bench.soak.settings import WorkerTask
from durably import Durably
from durably.cli.loops import Loop, run
from durably.cli.worker import WorkerOptions, run_worker
from durably.runtime.claims import Claimed, Claims

_took: list[float] = []
_take = Claims.take


async def _timed_take(self: Claims, limit: int, *, held: Sequence[str] | None = None) -> list[Claimed]:
    """Claim, and note how long it took if there was something."""
    begin = time.perf_counter()
    found = await _take(self, limit, held=held)
    if found:
        _took.append((time.perf_counter() - begin) * 1000)
    return found


async def _tell(seconds: float) -> None:
    """Print milliseconds of claims, again and again."""
    while True:
        await asyncio.sleep(seconds)
        told, _took[:] = [round(value, 3) for value in _took], []
        print(json.dumps(told), flush=True)


async def work(task: WorkerTask) -> None:
    """Work until a signal comes."""
    durably = Durably(
        task.url,
        lease=timedelta(seconds=task.lease_seconds),
        retain_runs=timedelta(seconds=task.retain_seconds),
        retain_events=timedelta(seconds=task.retain_seconds),
    )
    telling = asyncio.ensure_future(_tell(task.tell_seconds))
    try:
        await run_worker(durably, JOBS, WorkerOptions(concurrency=task.concurrency, grace=5))
    finally:
        telling.cancel()


if __name__ == "__main__":
    with patch.object(Claims, "take", _timed_take):
        run(work(WorkerTask(**json.loads(sys.argv[1]))), Loop.AUTO)
