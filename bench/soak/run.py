"""One soak on one database: workers, load, faults, a look every few seconds, and what is left at the end."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.soak.fleet import Fleet
from bench.soak.load import Load
from bench.soak.probes import PostgresProbe, Probe, SqliteProbe, Values, memory, open_files, own_memory
from bench.soak.settings import Soak, WorkerTask
from bench.soak.verdict import Judgement, Point, judge_all
from durably import Durably, SystemEnvironment
from durably.store.database import open_database
from durably.store.keys import find_drift
from tools.postgres_server import start_server

SERVER = {
    "checkpoint_timeout": "30s",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "autovacuum_naptime": "5s",
    "shared_buffers": "32MB",
}
"""Hours in minutes: checkpoints and vacuums come as often, relative to a soak, as they do in a day."""
DRAIN_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a soak saw."""

    database: str
    run: str
    minutes: float
    warm_up: float
    about: dict[str, str]
    points: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    findings: list[str] = field(default_factory=list[str])
    """What must not be: runs that never end, counters that drifted, workers that died by themselves."""

    def judge(self) -> list[Judgement]:
        """Flat or growing, line by line."""
        return judge_all(self.points, warm_up=self.warm_up)


@dataclass(slots=True)
class _Place:
    """A database to soak."""

    url: str
    probe: Probe
    version: str
    settings: str


@contextmanager
def _place(database: str, folder: Path) -> Generator[_Place]:
    """A new database, and how to look at it."""
    if database == "sqlite":
        import sqlite3  # noqa: PLC0415 - only its version is wanted here

        file = folder / "soak.db"
        version = f"SQLite {sqlite3.sqlite_version}"
        yield _Place(f"sqlite:///{file}", SqliteProbe(file), version, "journal_mode=WAL, synchronous=FULL")
        return
    with start_server(SERVER) as server:
        url = server.create_database()
        version = f"PostgreSQL {server.execute('SHOW server_version').split()[0]}"
        yield _Place(url, PostgresProbe(url), version, ", ".join(f"{name}={value}" for name, value in SERVER.items()))


async def soak(settings: Soak, database: str, tell: Callable[[float, Values], None]) -> Outcome:
    """Keep the load for so many minutes; `tell` is given minutes and values every few seconds."""
    with tempfile.TemporaryDirectory(prefix="durably-soak-") as name, _place(database, Path(name)) as place:
        outcome = Outcome(
            database=database,
            run=datetime.now(UTC).isoformat(timespec="seconds"),
            minutes=settings.minutes,
            warm_up=settings.warm_up_minutes,
            about={"database": place.version, "settings": place.settings, "machine": machine.describe()},
        )
        running = _Running(settings, place, Path(name), outcome, tell)
        await running.run()
        if outcome.findings:
            outcome.findings += running.last_words()
        return outcome


class _Running:
    """A soak under way."""

    def __init__(
        self,
        settings: Soak,
        place: _Place,
        folder: Path,
        outcome: Outcome,
        tell: Callable[[float, Values], None],
    ) -> None:
        self._settings = settings
        self._place = place
        self._folder = folder
        self._outcome = outcome
        self._tell = tell
        self._fleet = Fleet(WorkerTask(url=place.url), settings.workers, folder)
        self._chance = random.Random(settings.seed)
        self._ends = 0

    async def run(self) -> None:
        """Work, wait until everything has ended, look what is wrong."""
        settings, fleet = self._settings, self._fleet
        async with Durably(self._place.url) as durably, asyncio.TaskGroup() as group:
            load = Load(durably, rate=settings.rate, seed=settings.seed)
            fleet.start(group)
            if await fleet.begun():
                async with _background(load.follow()):
                    async with _background(self._look(load)), _background(self._hurt()):
                        await load.run(settings.minutes * 60)
                    await self._drain()
                await self._check()
            else:
                self._outcome.findings.append("no worker works")
            await fleet.stop()
        self._count(load)
        self._outcome.findings += fleet.deaths

    # --- what is done to it ---------------------------------------------------------------------------------

    async def _hurt(self) -> None:
        """One fault after the other."""
        probe, fleet, chance = self._place.probe, self._fleet, self._chance
        while True:
            for fault in ("kill", "terminate", "kill", "freeze"):
                await asyncio.sleep(self._settings.fault_every)
                if fault == "terminate" and isinstance(probe, PostgresProbe):
                    await probe.terminate()
                elif fault == "freeze":
                    await fleet.freeze(chance, seconds=min(5.0, self._settings.fault_every))
                else:
                    fleet.kill(chance)

    # --- what is seen ---------------------------------------------------------------------------------------

    async def _look(self, load: Load) -> None:
        """A look every few seconds."""
        loop = asyncio.get_running_loop()
        begin = before = loop.time()
        while True:
            await asyncio.sleep(self._settings.every - (loop.time() - begin) % self._settings.every)
            values = await self._place.probe.look()
            now = loop.time()
            values |= self._values(load, now - before)
            minutes = (now - begin) / 60
            for name, value in values.items():
                self._outcome.points.setdefault(name, []).append((round(minutes, 3), round(value, 3)))
            self._tell(minutes, values)
            before = now

    def _values(self, load: Load, seconds: float) -> Values:
        """What processes take, and how late and slow everything was since the last look."""
        ends, self._ends = load.did["ends"] - self._ends, load.did["ends"]
        steady = self._fleet.steady
        found: dict[str, float | None] = {
            "worker_memory": memory(steady),
            "worker_files": open_files(steady),
            "client_memory": own_memory(),
            "rate": ends / seconds,
        }
        if claims := self._fleet.take_claims():
            found["claim"] = statistics.median(claims)
        if lags := load.take_lags():
            found |= {"lag": statistics.median(lags), "worst_lag": max(lags)}
        return {name: value for name, value in found.items() if value is not None}

    # --- the end --------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait until every run has ended."""
        left = -1
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left := await self._place.probe.left():  # noqa: ASYNC110 - other processes end them
                    await asyncio.sleep(0.2)
        except TimeoutError:
            self._outcome.findings.append(f"{left} runs did not end within {DRAIN_SECONDS:g} s of the last trigger")

    async def _check(self) -> None:
        """Counters of keys, and numbers of events."""
        findings = self._outcome.findings
        database = open_database(self._place.url, environment=SystemEnvironment())
        await database.open()
        try:
            if drift := await database.read(find_drift()):
                findings.append(f"counters of keys drifted, or runs wait beside a free slot: {', '.join(drift)}")
        finally:
            await database.close()
        if gaps := await self._place.probe.gaps():
            findings.append(f"the events of {gaps} runs are not numbered without a gap")

    def _count(self, load: Load) -> None:
        counts = Counter({"triggers": load.triggered, "workers killed": self._fleet.killed})
        counts["workers frozen"] = self._fleet.frozen
        if isinstance(self._place.probe, PostgresProbe):
            counts["connections terminated"] = self._place.probe.terminated
        self._outcome.counts = dict(counts + load.did)

    def last_words(self) -> list[str]:
        """The last lines of the workers' logs, to begin to look."""
        files = sorted(self._folder.glob("worker-*.log"))
        return [f"{file.stem}: {line}" for file in files for line in file.read_text("utf-8").splitlines()[-5:]]


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Inside, this goes on. What it raises ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()
