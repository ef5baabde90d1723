"""The measuring: each backlog in a database of its own, and one turn after the other in all of them (A B C A B C).

A turn triggers as many runs as it claims and ends, so a backlog stays as long as it is. The connections are made, and
their statements prepared, while the databases are still empty: a worker that was there before the burst is the hard
case. Commits do not wait for the disk here: they would all wait equally long, which hides what grows.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import asyncpg

from bench.backlog.scenarios import KEYED, SERVED, Dialect, Scenario
from bench.places import Places
from durably import SystemEnvironment
from durably.model import Ending, Lease, NewRun, RunStatus, RunWrite, StoredRun
from durably.store import due, leases, runs, steps
from durably.store.database import Database, open_database
from durably.store.operation import Lane

T = TypeVar("T")

RUNS = 10
"""Runs of a turn."""
LEASE = timedelta(minutes=5)
WARM_UP = 10
"""Turns before the clock counts."""
OPERATIONS: tuple[str, ...] = ("claim", "look", "trigger", "end", "hand over")
TABLES = ("runs", "steps", "logs", "events", "concurrency_keys")
_ENVIRONMENT = SystemEnvironment()

Times = dict[str, list[float]]


@dataclass(slots=True)
class Subject:
    """A database with its backlog, and how long each operation took in it, in milliseconds."""

    scenario: Scenario
    database: Database
    url: str
    dialect: Dialect
    times: Times = field(default_factory=Times)

    async def turn(self) -> None:
        """Trigger, look, claim, end what was claimed; then let the busy key's slot go round."""
        new = [NewRun(id=_ENVIRONMENT.new_id(), job=SERVED[place], input_json="1") for place in range(RUNS)]
        await self.timed("trigger", lambda: self.database.submit_all(runs.enqueue, new))
        await self.timed("look", lambda: self.database.read(due.look(SERVED, max_crashes=3)))
        got = await self.timed("claim", lambda: self._claim(SERVED, RUNS))
        if len(got) != RUNS:
            raise RuntimeError(f"{self.scenario.key}: {len(got)} runs claimed instead of {RUNS}")
        await self.timed("end", lambda: self.database.submit_all(steps.write_fast, [_end(run) for run in got]))
        [holder] = await self._claim((KEYED,), 2)
        await self.timed("hand over", lambda: self.database.submit(steps.write_keyed, _end(holder)))

    async def _claim(self, jobs: Sequence[str], limit: int) -> list[StoredRun]:
        token = _ENVIRONMENT.new_id()
        claim = leases.claim(jobs, limit=limit, owner="bench", token=token, lease=LEASE)
        return await self.database.run(claim, lane=Lane.CLAIM)

    async def timed(self, name: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do it, and note how long it took."""
        begin = time.perf_counter()
        result = await act()
        self.times.setdefault(name, []).append((time.perf_counter() - begin) * 1000)
        return result

    # --- what is around the turns ---------------------------------------------------------------------------

    async def fill(self) -> None:
        """Make the backlog, in the database that others are connected to."""
        await self.execute(*self.scenario.statements(self.dialect), *self._settled())

    async def analyze(self) -> None:
        """Gather statistics, as the database does by itself sooner or later."""
        await self.execute("ANALYZE", *self._settled())

    def _settled(self) -> tuple[str, ...]:
        """Nothing of what was filled is to be written while the clock runs."""
        return ("CHECKPOINT",) if self.dialect == "postgres" else ("PRAGMA wal_checkpoint(TRUNCATE)",)

    async def execute(self, *texts: str) -> None:
        """Run SQL over a connection of its own."""
        if self.dialect == "sqlite":
            with sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None) as raw:
                for text in texts:
                    raw.execute(text).fetchall()
            raw.close()
            return
        connection = await asyncpg.connect(self.url, command_timeout=3600)
        try:
            for text in texts:
                await connection.execute(text)
        finally:
            await connection.close()

    def medians(self) -> dict[str, float]:
        """The median of each operation, and forget the times."""
        found = {name: statistics.median(values[WARM_UP:]) for name, values in self.times.items()}
        self.times = {}
        return found


def _end(run: StoredRun) -> RunWrite:
    ending = Ending(status=RunStatus.COMPLETED, output_json="1")
    lease = Lease(run.id, run.generation)
    return RunWrite(lease=lease, number=1, concurrency_key=run.concurrency_key, ending=ending)


@asynccontextmanager
async def opened(scenario: Scenario, dialect: Dialect, place: str) -> AsyncGenerator[Subject]:
    """A subject with an empty database; on PostgreSQL nothing gathers statistics by itself."""
    url = place if dialect == "postgres" else f"sqlite:///{place}?synchronous=normal"
    database = open_database(url, environment=_ENVIRONMENT)
    await database.open()
    subject = Subject(scenario, database, url.partition("?")[0] if dialect == "sqlite" else url, dialect)
    try:
        yield subject
    finally:
        await database.close()


async def prepare(subject: Subject) -> None:
    """Take turns in the empty database, so that every statement is planned there; then fill it."""
    if subject.dialect == "postgres":
        tables = [f"ALTER TABLE durably.{table} SET (autovacuum_enabled = off)" for table in TABLES]
        await subject.execute(*tables)
    keyed = NewRun(id=_ENVIRONMENT.new_id(), job=KEYED, input_json="1", concurrency_key="warm")
    await subject.database.submit(runs.enqueue, keyed)
    await subject.turn()
    subject.times = {}
    await subject.fill()


async def measure(subjects: Sequence[Subject], turns: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds, by backlog and operation."""
    for number in range(turns + WARM_UP):
        shift = number % len(subjects)
        for subject in (*subjects[shift:], *subjects[:shift]):
            await subject.turn()
    return {subject.scenario.key: subject.medians() for subject in subjects}


def settle(places: Places) -> None:
    """Let commits of the server's databases be answered before they are on the disk."""
    if places.server is not None:
        places.server.execute("ALTER SYSTEM SET synchronous_commit = off")
        places.server.execute("SELECT pg_reload_conf()")
