"""One scenario on one database: workers, customers, faults, and what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from chaos import audit
from chaos.checker import check
from chaos.disks import Disk
from chaos.load import Load, Order
from chaos.places import Place
from chaos.record import Ended, Fault, Record
from chaos.recovery import measure_takeovers
from chaos.witness import WITNESS, Witness
from durably import Durably
from tests.support.processes import WorkerProcess, Workers, until
from tests.support.stage import Stage
from tests.support.store import Store
from tests.support.stress import FAULTS
from tests.support.told import TOLD

JOBS = ("chaos.jobs",)
FOR_EVER = float("inf")
NO_CRASH_LIMIT = 1000
MAX_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long, and how strictly."""

    seconds: float
    """Of faults under load."""
    slack: float = 2.0
    """Recovery must be within a lease and so many seconds."""
    patience: float = 60.0
    """Seconds after which something that should happen is taken for stuck."""
    lease: float = 3.0
    poll: float = 0.5
    may_lose_leases: bool = False
    """See `Record`."""

    @property
    def bound(self) -> float:
        """Seconds within which all must go on, on a machine that has time."""
        return self.lease + self.slack


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a scenario."""

    scenario: str
    database: str
    findings: Sequence[str]
    faults: int
    recoveries: Sequence[float]
    """Seconds, one for each fault after which something had to go on."""
    runs: int
    steps: int
    takeovers: int
    events: int
    seconds: float
    bound: float
    """Seconds within which each recovery had to be."""
    note: str


@dataclass(slots=True)
class Arena:
    """What a scenario plays with."""

    place: Place
    rules: Rules
    folder: Path
    stage: Stage
    witness: Witness
    durably: Durably
    load: Load
    workers: Workers
    faults: list[Fault] = field(default_factory=list[Fault])
    living: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    limits: dict[str, int] = field(default_factory=dict[str, int])
    troubles: list[str] = field(default_factory=list[str])
    small_disk: Disk | None = None
    note: str = ""
    """What else is worth saying in the report."""

    def disk(self) -> Disk:
        """The small disk that the database is on. Raises RuntimeError where it is on any."""
        if self.small_disk is None:
            raise RuntimeError("this database is on no small disk")
        return self.small_disk

    # --- workers --------------------------------------------------------------------------------------------

    async def start_workers(self, count: int, *, slots: int = 10, url: str | None = None, **settings: Any) -> None:  # noqa: ANN401 - those of `Durably`
        """Start more workers and wait until they work. `url` is another way to the database."""
        options = self.settings(**settings) | ({} if url is None else {"url": url})
        self.living += await self.workers.start_several(count, concurrency=slots, jobs=JOBS, **options)
        self.stage.notify()

    def settings(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - those of `Durably`
        """The settings of a worker."""
        rules = self.rules
        return {"lease": rules.lease, "poll_interval": rules.poll, "max_crashes": NO_CRASH_LIMIT, **changes}

    async def kill(self, worker: WorkerProcess) -> None:
        """End a worker as a power cut does. If others live, they take over in time."""
        self.living.remove(worker)
        what = f"SIGKILL of worker {worker.pid}"
        fault = Fault(what, time.time(), FOR_EVER, worker.pid, is_measured=bool(self.living))
        self.faults.append(fault)
        await worker.kill()

    # --- faults and recovery --------------------------------------------------------------------------------

    @asynccontextmanager
    async def fault(self, what: str, *, pid: int | None = None) -> AsyncGenerator[Fault]:
        """Something that is done to all, or to one worker, from the beginning of the block to its end."""
        fault = Fault(what, time.time(), FOR_EVER, pid, is_measured=pid is None)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.over = time.time()

    async def recovered(self, fault: Fault, workers: Sequence[WorkerProcess] | None = None) -> float:
        """Return how many seconds after the end of the fault every living worker had executed a step."""
        pids = {worker.pid for worker in (self.living if workers is None else workers)}
        began = fault.over

        def working() -> dict[int, float]:
            first: dict[int, float] = {}
            for deed in self.witness.deeds[self._since(began) :]:
                if deed.kind == "start":
                    first.setdefault(deed.pid, deed.at)
            return first

        await self.stage.until(
            lambda: pids <= working().keys(), f"work of {len(pids)} workers after {fault.what}", self.rules.patience
        )
        found = working()
        fault.recovery = max((found[pid] for pid in pids), default=began) - began
        return fault.recovery

    def _since(self, moment: float) -> int:
        """From which deed on all are later."""
        place = len(self.witness.deeds)
        while place and self.witness.deeds[place - 1].at >= moment - 1:
            place -= 1
        while place < len(self.witness.deeds) and self.witness.deeds[place].at < moment:
            place += 1
        return place

    async def busy(self, steps: int) -> None:
        """Return when so many more steps were executed."""
        wanted = len(self.witness.deeds) + 3 * steps
        await self.stage.until(lambda: len(self.witness.deeds) >= wanted, f"{steps} more steps", self.rules.patience)

    async def pause(self, seconds: float) -> None:
        """Let the load go on for a while."""
        await asyncio.sleep(seconds)

    async def pending(self, count: int) -> bool:
        """Whether so many runs have not ended: none, or at least so many."""
        found: int = await self.place.value("SELECT count(*) FROM {runs} WHERE status IN ('pending', 'leased')")
        return found >= count if count else not found

    async def disconnect(self) -> None:
        """Let the customers and the subscriber go, until `connect`."""
        self.load.is_open.clear()
        await self.durably.close()

    def connect(self) -> None:
        """Let them come again."""
        self.load.is_open.set()

    # --- the end --------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """End the load, and wait until every run has ended."""
        self.load.close_the_shop()
        try:
            async with asyncio.timeout(self.rules.patience):
                await self.load.over()
            await until(lambda: self.pending(0), "the end of all runs", self.rules.patience)
            await until(self._has_heard_all, "the subscriber to hear the last event", self.rules.patience)
        except (TimeoutError, AssertionError) as error:
            self.troubles.append(f"end: not over after {self.rules.patience:g} s: {str(error).splitlines()[0:1]}")
        await self.load.leave()

    async def _has_heard_all(self) -> bool:
        stored: int = await self.place.value("SELECT count(*) + count(started_at) FROM {events}")
        return len(self.load.heard) >= stored

    async def record(self) -> Record:
        """All that is known, when all is over."""
        runs = await self.place.sql(
            "SELECT cast(id AS text) AS id, job, status, generation, completed_steps AS steps FROM {runs}"
        )
        events = await self.place.sql(f"SELECT cast(run_id AS text) AS run, seq, type FROM {TOLD} t ORDER BY id")  # noqa: S608  # SQL of ours
        counts: dict[str, Counter[str]] = {}
        for row in events:
            counts.setdefault(row["run"], Counter())[row["type"]] += 1
        record = Record(
            changes=[audit.change_of(row) for row in await self.place.sql(audit.READ)],
            deeds=tuple(self.witness.deeds),
            runs={row["id"]: Ended(**row) for row in runs},
            events=counts,
            stored_events=[(row["run"], row["seq"]) for row in events],
            heard=list(self.load.heard),
            acknowledged=dict(self.load.acknowledged),
            keys=dict(self.load.keys),
            resumed=set(self.load.resumed),
            to_cancel=set(self.load.to_cancel),
            cancelled=dict(self.load.cancelled),
            faults=self.faults,
            limits=self.limits,
            lease=self.rules.lease,
            slack=self.rules.slack * stretch(),
            may_lose_leases=self.rules.may_lose_leases,
            troubles=self.troubles,
        )
        measure_takeovers(record)
        record.troubles += await self._queries()
        return record

    async def _queries(self) -> list[str]:
        """What the tables say is wrong, by the queries of the stress tests."""
        found: list[str] = []
        async with Store("sqlite-file" if self.place.server is None else "postgres", self.place.url) as store:
            for name, text in FAULTS.items():
                found += [f"tables: {name}: {dict(row)}" for row in await store.sql(text)]
            found += [f"tables: events out of order: {dict(row)}" for row in await store.event_faults()]
            drift = (
                "SELECT k.key FROM {concurrency_keys} k WHERE k.active <> (SELECT count(*) FROM {runs} r"
                " WHERE r.concurrency_key = k.key AND r.slot)"
            )
            found += [f"G7: the slots of a key were miscounted: {dict(row)}" for row in await store.sql(drift)]
        return found


@asynccontextmanager
async def arena_on(
    place: Place, rules: Rules, folder: Path, orders: Sequence[Order], *, prefix: Sequence[str] = ()
) -> AsyncGenerator[Arena]:
    """Give an arena on an empty database, with a subscriber to all events; nothing of it is left behind."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(Stage())
        witness = Witness(folder / "witness", stage.notify)
        await witness.open()
        stack.callback(witness.close)
        durably = Durably(place.url, lease=timedelta(seconds=rules.lease))
        stack.push_async_callback(durably.close)
        await durably.get_runs(limit=1)
        await place.begin_audit()
        load = Load(durably, orders)
        listening = asyncio.create_task(load.listen())
        stack.push_async_callback(_cancel, listening)
        stack.push_async_callback(load.leave)
        workers = Workers(place.url, stage, environment={WITNESS: str(witness.path)}, prefix=prefix)
        stack.push_async_callback(workers.close)
        arena = Arena(place, rules, folder, stage, witness, durably, load, workers)
        yield arena


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def stretch() -> float:
    """By how much what takes a moment takes longer here, because others want the processors too.

    1 as long as there are not more than two processes for each: so many are our own.
    """
    return max(1.0, os.getloadavg()[0] / (2 * len(os.sched_getaffinity(0))))


def verdict_of(arena: Arena, record: Record, name: str, seconds: float) -> Verdict:
    """Judge a record."""
    findings = check(record)
    steps = sum(run.steps for run in record.runs.values())
    takeovers = sum(
        change.kind == "run" and change.old is not None and change.old["status"] == "leased"
        and change.new is not None and change.new["status"] == "leased"
        for change in record.changes
    )  # fmt: skip
    return Verdict(
        scenario=name,
        database=arena.place.name,
        findings=findings,
        faults=len(record.faults),
        recoveries=record.recoveries(),
        runs=len(record.runs),
        steps=steps,
        takeovers=takeovers,
        events=len(record.stored_events),
        seconds=seconds,
        bound=record.lease + record.slack,
        note=arena.note,
    )


def dump(record: Record, path: Path) -> None:
    """Write a record down, to look for the cause of a finding."""
    with path.open("w") as file:
        for change in record.changes:
            file.write(
                json.dumps(["row", change.at, change.txn, change.kind, change.run, change.old, change.new]) + "\n"
            )
        for deed in record.deeds:
            file.write(json.dumps(["code", deed.at, deed.pid, deed.kind, deed.run, deed.generation, deed.step]) + "\n")
