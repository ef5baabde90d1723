"""durably as users get it: W1 and W2. One process, one worker, default settings but for the concurrency."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial

from bench.subjects.jobs import timed_job
from bench.subjects.without_events import without_events
from bench.task import Answer, Stopwatch, Task, drained_async, serve
from durably import Durably
from durably.cli.loops import Loop, run

REPEATS, ENOUGH_SECONDS = 3, 2.0
"""Short drains are repeated in the same process, until they add up."""


def url_of(task: Task) -> str:
    """The database as durably wants it named."""
    return task.url if task.is_postgres else f"sqlite:///{task.url}"


async def drain(durably: Durably, task: Task) -> Answer:
    """Fill the queue, then drain it with one worker."""
    watch = Stopwatch(task)
    job = timed_job(task, watch)
    for start in range(0, task.total, 1000):
        await durably.trigger_many(job, range(start, min(start + 1000, task.total)))

    async def count_left() -> int:
        return len(await durably.get_runs(job, status=("pending", "leased"), limit=1))

    async with durably.worker([job], max_concurrent_runs=task.concurrency):
        return await drained_async(watch, count_left)


async def repeat(task: Task) -> Answer:
    """The median of some drains."""
    answers: list[Answer] = []
    async with Durably(url_of(task)) as durably:
        while len(answers) < REPEATS and sum(answer["seconds"] for answer in answers) < ENOUGH_SECONDS:
            answers.append(await drain(durably, task))
    return {**answers[-1], "rate": statistics.median(answer["rate"] for answer in answers)}


def work(task: Task, *, events: bool = True) -> Answer:
    """Measure W1 or W2."""
    with ExitStack() as stack:
        if not events:
            stack.enter_context(without_events())
        return run(repeat(task), Loop.ASYNCIO)  # as the worker command does


if __name__ == "__main__":
    serve(partial(work, events=True))
