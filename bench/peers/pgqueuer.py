"""pgqueuer: W1 and the batches of W4, over asyncpg with uvloop installed.

It claims as many jobs at once as the concurrency says, and has no other limit; jobs are deleted when they succeed, and
one row of its log is kept of each. Results are not stored.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from importlib.metadata import version
from typing import Any

from bench.task import Answer, Stopwatch, Task, drained_async, serve

BATCH, JOB = 1000, "job"
LEFT_SQL = "SELECT count(*) FROM pgqueuer"


async def enqueue(queries: Any, count: int) -> None:  # noqa: ANN401 - a module without types here
    """Store jobs in batches."""
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        payloads = [b'{"number": 1}'] * size
        await queries.enqueue([JOB] * size, payloads, [0] * size)


async def drain(task: Task) -> Answer:
    """Enqueue everything, then run the consumer and wait for the end."""
    asyncpg: Any = importlib.import_module("asyncpg")
    pgqueuer: Any = importlib.import_module("pgqueuer")
    driver = importlib.import_module("pgqueuer.db").AsyncpgDriver
    watch = Stopwatch(task)

    async def job(_job: object) -> None:
        watch.started()
        watch.finished()

    connection, other = await asyncpg.connect(task.url), await asyncpg.connect(task.url)
    queries = importlib.import_module("pgqueuer.queries").Queries(driver(other))
    await queries.install()
    if task.kind == "w4":
        return await batches(queries, task.seconds)
    await enqueue(queries, task.total)
    consumer = pgqueuer.PgQueuer(driver(connection))
    consumer.entrypoint(JOB, concurrency_limit=1 if task.concurrency == 1 else 0)(job)

    async def count_left() -> int:
        return int(await other.fetchval(LEFT_SQL))

    worker = asyncio.create_task(consumer.run(batch_size=task.concurrency))
    answer = await drained_async(watch, count_left)
    consumer.shutdown.set()
    await asyncio.wait({worker}, timeout=10)
    return answer


async def batches(queries: Any, seconds: float) -> Answer:  # noqa: ANN401 - a module without types here
    """How many jobs a second are enqueued in batches of 1,000."""
    await enqueue(queries, BATCH)
    begin, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:
        await enqueue(queries, BATCH)
        done += BATCH
    return {"batches": done / passed}


def work(task: Task) -> Answer:
    """Measure W1 or W4."""
    uvloop: Any = importlib.import_module("uvloop")
    return dict(uvloop.run(drain(task))) | {"version": version("pgqueuer")}


if __name__ == "__main__":
    serve(work)
