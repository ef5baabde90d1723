"""W5: one run's events to many subscribers. This process is the server; a worker and the subscribers have their own.

The run's first half of steps follow one another at once: frames a second. After a pause in which all of them are sent,
there is one before each of the others: the time from the commit to the receipt.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from bench.latencies import quantile
from bench.subjects.footprint import memory_mb
from bench.subjects.ours import url_of
from bench.task import Answer, Task, serve
from durably import Durably, JobRef
from durably.cli.loops import Loop, run
from durably.cli.server import Server
from durably.http import create_app
from tools.counting import Counts, counting
from tools.descriptors import allow_many

Received = dict[str, Any]
MANY = 100
"""Streams from which on memory is divided by them."""


@asynccontextmanager
async def listening(app: Any) -> AsyncGenerator[int]:  # noqa: ANN401 - what ASGI servers serve
    """Serve it with uvicorn, as `durably serve` does; gives the port."""
    server = Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=5))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def spread(
    task: Task, port: int, path: str, publish: Callable[[], Coroutine[Any, Any, dict[str, float]]]
) -> Answer:
    """Let the subscribers come, publish the events, and compare when they were committed with when they came.

    `publish` returns when each step was committed, by its index.
    """
    before = memory_mb("VmRSS")
    clients = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.subjects.streams_client", task.to_json(), str(port), path),
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    if clients.stdout is None:
        raise RuntimeError("no output to read")
    try:
        await asyncio.wait_for(clients.stdout.readline(), 60)
        held = memory_mb("VmRSS") - before
        begin, cpu = time.perf_counter(), time.process_time()
        publishing = asyncio.create_task(publish())
        received: Received = json.loads(await clients.stdout.readline())
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        committed = await publishing
    finally:
        if clients.returncode is None:
            clients.kill()
        await clients.wait()
    answer = compared(task, committed, received) | {
        "cpu": cpu / seconds,
        "cpu_us": cpu * 1e6 / (4 * task.jobs * task.concurrency),
        "seconds": seconds,
    }
    return answer | ({"stream_kib": held * 1024 / task.concurrency} if task.concurrency >= MANY else {})


def compared(task: Task, committed: dict[str, float], received: Received) -> Answer:
    """Frames a second of the first half, the delay of the second in milliseconds, and frames that did not come."""
    arrived: dict[str, list[float]] = received["arrived"]
    first = [str(index) for index in range(task.jobs)]
    paced = [str(index) for index in range(task.jobs, 2 * task.jobs)]
    delays = sorted(max(at - committed[index], 0.0) * 1000 for index in paced for at in arrived.get(index, ()))
    last = max(at for index in first for at in arrived[index])
    frames = 2 * sum(len(arrived[index]) for index in first)  # a step's begin comes with each of its ends
    whole = 2 * task.jobs * task.concurrency
    return {
        "rate": frames / (last - received["begun"]),
        "p50": quantile(delays, 0.5),
        "p99": quantile(delays, 0.99),
        "missed": whole - sum(len(times) for times in arrived.values()),
    }


async def measure(task: Task, counts: Counts) -> Answer:
    """Serve the events of one run."""
    async with Durably(url_of(task)) as durably:
        run_id = (await durably.trigger(JobRef[int, None]("streamed", input=int), task.jobs)).id
        async with listening(create_app(durably)) as port:

            async def publish() -> dict[str, float]:
                counts.clear()
                worker = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "bench.subjects.streams_worker", task.to_json()),
                    stdout=asyncio.subprocess.PIPE,
                    limit=2**26,
                )
                output, _ = await worker.communicate()
                committed: dict[str, float] = json.loads(output)
                return committed

            answer = await spread(task, port, f"/subscribe?runId={run_id}", publish)
        return answer | {"queries": sum(counts.statements.values()) / answer["seconds"]}


def work(task: Task) -> Answer:
    """Measure W5."""
    allow_many()
    with counting() as counts:
        return run(measure(task, counts), Loop.ASYNCIO)


if __name__ == "__main__":
    serve(work)
