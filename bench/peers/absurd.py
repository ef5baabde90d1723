"""absurd: W1 and W2 with its asynchronous client; the worker claims as many tasks as it may execute at once.

Its tables come from its own tool's package. It polls every 10 ms when idle, in place of every 250 ms.
"""

from __future__ import annotations

import asyncio
import importlib
from importlib.metadata import version
from typing import Any

from bench.task import Answer, Stopwatch, Task, drained_async, serve

QUEUE, JOB = "bench", "job"
LEFT_SQL = f"SELECT count(*) FROM absurd.t_{QUEUE} WHERE state <> 'completed'"  # noqa: S608 - a constant


async def measure(task: Task) -> Answer:
    """Spawn everything, then start the worker and wait for the end."""
    sdk: Any = importlib.import_module("absurd_sdk")
    psycopg: Any = importlib.import_module("psycopg")
    watch = Stopwatch(task)
    async with await psycopg.AsyncConnection.connect(task.url, autocommit=True) as connection:
        await connection.execute(importlib.import_module("absurdctl").BUNDLED_SCHEMA_SQL)
        app = sdk.AsyncAbsurd(task.url, queue_name=QUEUE)
        app.register_task(JOB)(make_job(task, watch))
        await app.create_queue(QUEUE)
        for number in range(task.total):
            await app.spawn(JOB, {"number": number})

        async def count_left() -> int:
            row = await (await connection.execute(LEFT_SQL)).fetchone()
            return int(row[0])

        worker = asyncio.create_task(app.start_worker(concurrency=task.concurrency, poll_interval=0.01))
        answer = await drained_async(watch, count_left)
        app.stop_worker()
        await asyncio.wait({worker}, timeout=10)
        worker.cancel()
        await app.close()
    return answer | {"version": version("absurd-sdk")}


def make_job(task: Task, watch: Stopwatch) -> object:
    """The job, as absurd wants it."""

    async def job(params: dict[str, int], context: Any) -> int:  # noqa: ANN401 - its type is not known here
        watch.started()
        for place in range(task.steps):

            async def small_dict(number: int = place) -> dict[str, int]:
                return {"number": number}

            await context.step(f"step-{place}", small_dict)
        watch.finished()
        return params["number"]

    return job


if __name__ == "__main__":
    serve(lambda task: asyncio.run(measure(task)))
