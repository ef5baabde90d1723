"""How much a purge disturbs: a million ended runs go while a worker executes others. `python -m bench.retention`.

Triggers a run every so often and times it to its end, first alone, then beside the purge. Then says how large the
database is before and after, and what `durably doctor` has to say.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from bench.ballast import fill
from durably import Durably, Level, Step, job
from tools.postgres_server import start_server

PAUSE_SECONDS = 0.02


@job("live")
async def live(step: Step, number: int) -> int:
    """Three steps."""
    for place in range(3):
        await step.run("step", lambda: None, key=place)
    return number


async def latencies(durably: Durably, is_over: Callable[[], bool]) -> list[float]:
    """Milliseconds from a trigger to the end of its run, one run after the other."""
    found: list[float] = []
    while not is_over():
        began = time.perf_counter()
        await durably.trigger_and_wait(live, len(found), timeout=60)
        found.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE_SECONDS)
    return found


def told(name: str, found: list[float]) -> None:
    """Print what was measured."""
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    numbers = f"median {cuts[49]:6.1f}   p99 {cuts[98]:6.1f}   most {max(found):6.1f} ms"
    print(f"{name:28} {len(found):6} runs   {numbers}", flush=True)


async def measure(url: str, runs: int, seconds: float) -> None:
    """Fill, measure alone, purge and measure, and look at what is left."""
    async with Durably(url, retain_events=timedelta(days=7)) as durably:
        await durably.migrate()
        began = time.perf_counter()
        await fill(url, runs)
        print(f"filled with {runs:,} ended runs, 3 steps each, in {time.perf_counter() - began:.0f} s", flush=True)
        await sizes(durably)
        async with durably.worker([live]):
            end = time.perf_counter() + seconds
            told("alone", await latencies(durably, lambda: time.perf_counter() > end))
            began = time.perf_counter()
            purge = asyncio.create_task(durably.purge_runs(older_than=timedelta(days=1)))
            told("beside the purge", await latencies(durably, purge.done))
            took = time.perf_counter() - began
            print(f"purged {purge.result():,} runs in {took:.0f} s: {purge.result() / took:,.0f} a second", flush=True)
        await sizes(durably)
        for finding in await durably.diagnose():
            if finding.level is not Level.OK:
                print(f"doctor: {finding.check}: {finding.message}", flush=True)


async def sizes(durably: Durably) -> None:
    """Print how large the tables are."""
    found = await durably.table_sizes()
    parts = [f"{table.name} {table.bytes / 2**20:,.0f} MiB ({table.dead:,} dead)" for table in found if table.entries]
    print("   ".join(parts), flush=True)


def main(databases: list[str], measured: Callable[[str], Awaitable[None]]) -> None:
    """Measure on each database, on one that is thrown away."""
    for database in databases:
        print(f"--- {database}", flush=True)
        with ExitStack() as stack:
            if database == "postgres":
                url = stack.enter_context(start_server()).create_database()
            else:
                url = f"sqlite:///{Path(stack.enter_context(tempfile.TemporaryDirectory())) / 'jobs.db'}"
            asyncio.run(_run(measured(url)))


async def _run(work: Awaitable[None]) -> None:
    await work


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", choices=["sqlite", "postgres"], action="append")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10, help="how long to measure without a purge")
    given = parser.parse_args()
    main(given.db or ["sqlite", "postgres"], lambda url: measure(url, given.runs, given.seconds))
