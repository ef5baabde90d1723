"""procrastinate: W1 and W3. Its pool has a connection for each job at once (at most 50); jobs stay in the table.

With the argument `worker` after the task it is the idle process of W3, which writes to the file named there.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.latencies import compared, pause
from bench.task import Answer, Stopwatch, Task, drained_async, serve

BATCH = 1000
LEFT_SQL = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status <> 'succeeded'"


def make_app(task: Task) -> Any:  # noqa: ANN401 - a module without types here
    """Return an app on the task's database, not open yet."""
    procrastinate: Any = importlib.import_module("procrastinate")
    pool = min(max(task.concurrency, 2), 50)
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=task.url, min_size=pool, max_size=pool))


async def drain(task: Task) -> Answer:
    """Defer everything, then start the worker and wait for the end."""
    app, watch = make_app(task), Stopwatch(task)

    async def job(number: int) -> int:
        watch.started()
        watch.finished()
        return number

    deferrable = app.task(name="job")(job)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, task.total, BATCH):
            numbers = range(start, min(start + BATCH, task.total))
            await deferrable.batch_defer_async(*({"number": number} for number in numbers))

        async def count_left() -> int:
            return int((await app.connector.execute_query_one_async(LEFT_SQL))["jobs"])

        worker = asyncio.create_task(app.run_worker_async(concurrency=task.concurrency, install_signal_handlers=False))
        answer = await drained_async(watch, count_left)
        worker.cancel()
        await asyncio.wait({worker}, timeout=10)
    return answer


async def latency(task: Task, report: Path) -> Answer:
    """Defer jobs with pauses, for the worker in another process."""
    app = make_app(task)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        deferred = app.configure_task("job")
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.peers.procrastinate", task.to_json(), "worker", str(report)),
            stdout=asyncio.subprocess.PIPE,
        )
        if worker.stdout is not None:
            await asyncio.wait_for(worker.stdout.readline(), 30)
        await asyncio.sleep(1)
        committed: dict[str, float] = {}
        for number in range(task.total):
            await deferred.defer_async(number=number)
            committed[str(number)] = time.monotonic()
            await pause()
        await asyncio.sleep(1)
        worker.terminate()
        await worker.wait()
    return compared(committed, report, warm_up=task.warm_up)


async def work(task: Task) -> dict[str, float]:
    """The idle process of W3, until SIGTERM; returns when each job started, by its input."""
    app = make_app(task)
    started: dict[str, float] = {}

    async def job(number: int) -> int:
        started[str(number)] = time.monotonic()
        return number

    app.task(name="job")(job)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app.open_async():
        worker = asyncio.create_task(app.run_worker_async(concurrency=10, install_signal_handlers=False))
        print("ready", flush=True)
        await stop.wait()
        worker.cancel()
        await asyncio.wait({worker}, timeout=10)
    return started


def measure(task: Task) -> Answer:
    """Measure W1 or W3."""
    answer = asyncio.run(latency(task, Path(sys.argv[2])) if task.kind == "w3" else drain(task))
    return answer | {"version": version("procrastinate")}


if __name__ == "__main__":
    if sys.argv[2:3] == ["worker"]:
        began = asyncio.run(work(Task(**json.loads(sys.argv[1]))))
        Path(sys.argv[3]).write_text(json.dumps(began), encoding="utf-8")
    else:
        serve(measure)
