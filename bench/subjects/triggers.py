"""W4: how fast runs are triggered: one after the other, from 100 tasks at once, and in batches of 1,000."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.subjects.jobs import timed_job
from bench.subjects.ours import url_of
from bench.task import Answer, Stopwatch, Task, serve
from durably import Durably

TASKS, BATCH = 100, 1000


async def rate(step: Callable[[], Awaitable[object]], size: int, seconds: float) -> float:
    """Do a step, which makes `size` runs, again and again for so long; returns runs a second."""
    await step()
    begin = time.perf_counter()
    done = 0
    while (passed := time.perf_counter() - begin) < seconds:
        await step()
        done += size
    return done / passed


async def measure(task: Task) -> Answer:
    """Trigger in each of the three ways, for a third of the time each."""
    job = timed_job(task, Stopwatch(task))
    third = task.seconds / 3
    async with Durably(url_of(task)) as durably:

        async def one() -> None:
            await durably.trigger(job, 1)

        async def several() -> None:
            await asyncio.gather(*(durably.trigger(job, 1) for _ in range(TASKS)))

        async def batch() -> None:
            await durably.trigger_many(job, range(BATCH))

        return {
            "one": await rate(one, 1, third),
            "tasks": await rate(several, TASKS, third),
            "batches": await rate(batch, BATCH, third),
        }


if __name__ == "__main__":
    serve(lambda task: asyncio.run(measure(task)))
