"""What is measured: durably, the floor, the database alone, and the peers; where each lives and how it is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.settings import CONCURRENCIES, SUBSCRIBERS

Role = Literal["ours", "floor", "variant", "peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One of them."""

    key: str
    title: str
    role: Role
    module: str
    """Run with `python -m` in its environment; a `.mjs` file is run with Node."""
    measures: dict[str, tuple[str, ...]]
    """Databases by workload."""
    environment: str = ""
    """The folder of its own environment; the benchmark's own if it is empty."""
    concurrencies: tuple[int, ...] = CONCURRENCIES
    settings: str = ""
    """What was set, for the report."""


BOTH = ("postgres", "sqlite")
POSTGRES, SQLITE = ("postgres",), ("sqlite",)

SYSTEMS = (
    System(
        key="ours",
        title="durably",
        role="ours",
        module="bench.subjects.ours",
        measures={"w1": BOTH, "w2": BOTH},
        settings="defaults, events on; max_concurrent_runs = the concurrency",
    ),
    System(
        key="floor",
        title="floor",
        role="floor",
        module="bench.subjects.floor",
        measures={"w1": BOTH, "w2": BOTH},
        settings="bare engine: one writer, group commit, fence; no events, leases, validation",
    ),
    System(
        key="ours-without-events",
        title="durably without events",
        role="variant",
        module="bench.subjects.ours_without_events",
        measures={"w1": BOTH, "w2": BOTH},
        concurrencies=(100,),
        settings="the inserts of events cut out of the SQL: what they cost",
    ),
    System(
        key="ours-uvloop",
        title="durably on uvloop",
        role="variant",
        module="bench.subjects.ours_uvloop",
        measures={"w1": BOTH, "w2": BOTH},
        concurrencies=(1, 100),
        settings="as durably, in uvloop's event loop",
    ),
    System(key="ours", title="durably", role="ours", module="bench.subjects.latency", measures={"w3": BOTH}),
    System(key="ours", title="durably", role="ours", module="bench.subjects.triggers", measures={"w4": BOTH}),
    System(
        key="ours",
        title="durably",
        role="ours",
        module="bench.subjects.streams",
        measures={"w5": BOTH},
        concurrencies=SUBSCRIBERS,
    ),
    System(
        key="floor",
        title="floor",
        role="floor",
        module="bench.subjects.streams_floor",
        measures={"w5": BOTH},
        concurrencies=SUBSCRIBERS,
    ),
    System(key="ours", title="durably", role="ours", module="bench.subjects.footprint", measures={"w6": BOTH}),
    System(
        key="commits",
        title="the database alone",
        role="floor",
        module="bench.subjects.commits",
        measures={"w1": BOTH, "w2": BOTH},
        concurrencies=(1,),
        settings="commits of one row, one after the other",
    ),
    System(
        key="durably-ts",
        title="durably (TypeScript)",
        role="peer",
        module="run.mjs",
        environment=".venv-bench-durably-ts",
        measures={"w1": BOTH, "w2": BOTH},
        settings="polls every 10 ms, pool of 20; SQLite: better-sqlite3, WAL, synchronous=NORMAL",
    ),
    System(
        key="dbos",
        title="dbos",
        role="peer",
        module="bench.peers.dbos",
        environment=".venv-bench-dbos",
        measures={"w1": POSTGRES, "w2": POSTGRES},
        settings="queue polled every 10 ms, pool of 10 to 50, plain functions in threads",
    ),
    System(
        key="absurd",
        title="absurd",
        role="peer",
        module="bench.peers.absurd",
        environment=".venv-bench-absurd",
        measures={"w1": POSTGRES, "w2": POSTGRES},
        settings="asynchronous client, polls every 10 ms, claims as many as it may execute",
    ),
    System(
        key="procrastinate",
        title="procrastinate",
        role="peer",
        module="bench.peers.procrastinate",
        environment=".venv-bench-procrastinate",
        measures={"w1": POSTGRES, "w3": POSTGRES},
        settings="LISTEN, pool of 2 to 50, jobs kept; stores no result",
    ),
    System(
        key="pgqueuer",
        title="pgqueuer",
        role="peer",
        module="bench.peers.pgqueuer",
        environment=".venv-bench-pgqueuer",
        measures={"w1": POSTGRES, "w4": POSTGRES},
        settings="asyncpg and uvloop, batches as large as the concurrency; deletes its jobs, stores no result",
    ),
    System(
        key="huey",
        title="huey",
        role="peer",
        module="bench.peers.huey",
        environment=".venv-bench-huey",
        measures={"w1": SQLITE},
        settings="SqliteHuey(fsync=True), threads, polls every 1 to 10 ms",
    ),
)


def systems_for(workload: str, database: str, *, peers: bool) -> list[System]:
    """Those that measure a workload on a database, in the order in which they take turns."""
    return [
        system
        for system in SYSTEMS
        if database in system.measures.get(workload, ()) and (peers or system.role != "peer")
    ]
