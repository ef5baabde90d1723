"""W6: what a worker takes while it is idle and while it is busy: memory, connections, queries, processor time."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.subjects.jobs import timed_job
from bench.subjects.ours import url_of
from bench.task import Answer, Stopwatch, Task, serve
from durably import Durably
from tools.counting import Counts, counting

SETTLE_SECONDS = 3.0
CONCURRENCY = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """What a database server says about one of its databases."""

    connections: int
    commits: int


async def look(url: str) -> Seen:
    """Ask the server, over a connection to another database than the one that is watched."""
    parts = urlsplit(url)
    name = parts.path.removeprefix("/")
    connection = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
    try:
        row = await connection.fetchrow(
            "SELECT numbackends, xact_commit + xact_rollback AS commits FROM pg_stat_database WHERE datname = $1", name
        )
    finally:
        await connection.close()
    return Seen(0, 0) if row is None else Seen(row["numbackends"], row["commits"])


def memory_mb(field: str) -> float:
    """A line of the kernel's about this process, in MiB; 0 where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    lines = (line.split() for line in status.read_text().splitlines())
    return next((int(words[1]) / 1024 for words in lines if words[0] == f"{field}:"), 0.0)


async def idle(task: Task, counts: Counts) -> Answer:
    """Watch a worker that has nothing to do."""
    await asyncio.sleep(SETTLE_SECONDS)
    before = await look(task.url) if task.is_postgres else Seen(0, 0)
    counts.clear()
    begin, cpu, usage = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.sleep(task.seconds)
    seconds = time.perf_counter() - begin
    cpu_share = (time.process_time() - cpu) / seconds
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - usage.ru_nvcsw
    answer: Answer = {
        "idle_transactions": sum(counts.transactions.values()) / seconds,
        "idle_queries": sum(counts.statements.values()) / seconds,
        "idle_names": dict(counts.statements),
        "idle_cpu": cpu_share,
        "idle_switches": switches / seconds,
        "idle_memory": memory_mb("VmRSS"),
    }
    if task.is_postgres:
        after = await look(task.url)
        answer |= {"idle_commits": (after.commits - before.commits) / seconds, "idle_connections": after.connections}
    return answer


async def busy(durably: Durably, task: Task) -> Answer:
    """Drain W2 and look at the middle of it."""
    load = Task(kind="w2", url=task.url, jobs=task.jobs, concurrency=CONCURRENCY)
    watch = Stopwatch(load)
    job = timed_job(load, watch)
    done = asyncio.Event()
    watch.on_done = done.set
    runs = await durably.trigger_many(job, range(load.total))
    async with durably.worker([job], max_concurrent_runs=CONCURRENCY):
        await durably.wait(runs[len(runs) // 2])
        seen = await look(task.url) if task.is_postgres else None
        await done.wait()
    return {"busy_memory": memory_mb("VmHWM")} | ({"busy_connections": seen.connections} if seen else {})


async def measure(task: Task, counts: Counts) -> Answer:
    """Watch one worker while it is idle, then another one while it is busy."""
    before = memory_mb("VmRSS")
    async with Durably(url_of(task)) as durably:
        job = timed_job(task, Stopwatch(task))
        async with durably.worker([job], max_concurrent_runs=CONCURRENCY):
            answer = await idle(task, counts)
        return {"start_memory": before} | answer | await busy(durably, task)


def work(task: Task) -> Answer:
    """Measure W6."""
    with counting() as counts:
        return asyncio.run(measure(task, counts))


if __name__ == "__main__":
    serve(work)
