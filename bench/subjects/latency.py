"""W3: from the commit of a trigger to the start of its job in another process, which is idle before.

This process triggers, one run after the other with pauses; `latency_worker` runs the jobs. Both read the system's
monotonic clock, which is one for all processes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from bench.latencies import compared, pause
from bench.subjects.ours import url_of
from bench.task import Answer, Task, serve
from durably import Durably, JobRef


async def trigger(task: Task) -> dict[str, float]:
    """Trigger the runs; returns when the commit of each was known, by its input."""
    committed: dict[str, float] = {}
    job = JobRef[int, int]("plain", input=int, output=int)
    async with Durably(url_of(task)) as durably:
        for number in range(task.total):
            run = await durably.trigger(job, number)
            committed[str(number)] = time.monotonic()
            await pause()
            if number == task.total - 1:
                await durably.wait(run, timeout=task.seconds)
    return committed


async def measure(task: Task, report: Path) -> Answer:
    """Start the worker, trigger, and compare the clocks."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.subjects.latency_worker",
        task.to_json(),
        str(report),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if worker.stdout is not None:
            await asyncio.wait_for(worker.stdout.readline(), 30)
        committed = await trigger(task)
    finally:
        worker.terminate()
        await worker.wait()
    return compared(committed, report, warm_up=task.warm_up)


if __name__ == "__main__":
    serve(lambda task: asyncio.run(measure(task, Path(sys.argv[2]))))
