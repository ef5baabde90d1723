"""Random work on one database from several processes at once, and the audit of what came of it.

Each process triggers runs with random keys, merges and idempotency keys, works on them, crashes, cancels and changes
limits, all through the store's operations. Triggers in the database write down every change of a status, so that the
audit depends on nothing that is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from durably.environment import SystemEnvironment
from durably.model import Change, Disposition, IfPending, LeaseState, NewRun, RunFilter, RunStatus, StoredRun, Verdict
from durably.store import actions, keys, leases, runs
from durably.store.database import Database, open_database
from durably.store.operation import Lane, Wake
from durably.store.steps import store_write
from tests.support.store import EXPIRED, LEASE, Store, a_checkpoint, an_end, lease_of

JOBS = ("a", "b")
KEYS = ("one", "two", "three")
LIMITS: Mapping[str, int] = {"one": 1, "two": 1, "three": 3}
MARKER = "done producing"
PRODUCERS, WORKERS = 3, 3


class Stress:
    """One process's share: producers and workers on one Database."""

    def __init__(self, database: Database, *, seed: int, count: int, processes: int) -> None:
        self.database = database
        self.environment = SystemEnvironment()
        self.rng = random.Random(seed)
        self.seed = seed
        self.count = count
        self.processes = processes
        self.became: Counter[str] = Counter()
        self.woken = asyncio.Event()

    async def run(self) -> dict[str, int]:
        """Do it all. Returns how often what happened."""
        forget = self.database.on_wake(self._wake)
        producing = asyncio.gather(*(self._produce(self.count // PRODUCERS) for _ in range(PRODUCERS)))
        async with asyncio.TaskGroup() as group:
            for place in range(WORKERS):
                group.create_task(self._work(place))
            await producing
            await self._trigger(NewRun(id=self.environment.new_id(), job=MARKER, input_json="1"))
        forget()
        return dict(self.became)

    def _wake(self, _: Wake) -> None:
        self.woken.set()

    async def _trigger(self, new: NewRun) -> None:
        enqueued = await self.database.submit(runs.enqueue, new, timeout=30)
        disposition = enqueued.disposition
        if disposition is Disposition.CREATED and enqueued.run.id != new.id:
            self.became["wrong: created as another run"] += 1
        self.became[disposition or "conflict"] += 1

    async def _produce(self, count: int) -> None:
        while count > 0:
            burst = min(count, self.rng.randint(1, 12))
            count -= burst
            await asyncio.gather(*(self._trigger(self._new()) for _ in range(burst)))

    def _new(self) -> NewRun:
        if_pending: IfPending = self.rng.choice(("queue", "queue", "queue", "skip", "replace", "reject"))
        name = f"i{self.rng.randrange(self.count)}" if self.rng.random() < 0.4 else None
        text = str(self.rng.randrange(2))
        return NewRun(
            id=self.environment.new_id(),
            job=self.rng.choice(JOBS),
            input_json=text,
            input_digest=text if name else None,
            idempotency_key=name,
            concurrency_key=self.rng.choice((*KEYS, None)),
            if_pending=if_pending,
            priority=self.rng.choice((0, 0, 1)),
        )

    async def _work(self, place: int) -> None:
        while True:
            claimed = await self._claim()
            if claimed:
                await asyncio.gather(*(self._execute(run) for run in claimed))
            elif await self._is_over():
                return
            else:
                self.woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.woken.wait(), 0.05)
            if place == 0 and self.rng.random() < 0.05:
                await self.database.run(keys.set_limit("three", self.rng.choice((0, 1, 2, 3))))
                await self.database.run(keys.set_limit("three", 3))

    async def _claim(self) -> list[StoredRun]:
        options: dict[str, Any] = {"owner": f"process {self.seed}", "token": self.environment.new_id()}
        lease = EXPIRED if self.rng.random() < 0.1 else LEASE
        limit = self.rng.randint(1, 6)
        fresh = await self.database.run(leases.claim(JOBS, limit=limit, lease=lease, **options), lane=Lane.FAST)
        options["token"] = self.environment.new_id()
        crashed = leases.claim_expired(JOBS, limit=limit, lease=LEASE, max_crashes=9, **options)
        return fresh + await self.database.run(crashed, lane=Lane.FAST)

    async def _execute(self, run: StoredRun) -> None:
        number = 0
        for _ in range(self.rng.randrange(3)):
            number += 1
            step = a_checkpoint(run, number, f"{run.generation}.{number}", number)
            if await store_write(self.database, step, timeout=30) is Verdict.REFUSED:
                self.became["lost"] += 1
                return
        chance = self.rng.random()
        if chance < 0.05:
            await self._expire(run)
            return
        if chance < 0.15:
            change = Change(run_id=run.id, concurrency_key=run.concurrency_key, token=self.environment.new_id())
            self.became[f"cancelled {(await self.database.submit(actions.cancel, change)).done}"] += 1
        ends = (RunStatus.COMPLETED, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.PENDING)
        status = self.rng.choice(ends)
        verdict = await store_write(self.database, an_end(run, status, number + 1), timeout=30)
        self.became[f"{status} {verdict}"] += 1
        if status is RunStatus.FAILED and verdict is Verdict.STORED and self.rng.random() < 0.5:
            change = Change(run_id=run.id, concurrency_key=run.concurrency_key, token=self.environment.new_id())
            self.became[f"resumed {(await self.database.submit(actions.resume, change)).done}"] += 1

    async def _expire(self, run: StoredRun) -> None:
        """Let the lease run out, as if its process had died; again while another transaction has the run locked."""
        state = LeaseState.BUSY
        while state is LeaseState.BUSY:
            (state,) = await self.database.run(leases.renew([lease_of(run)], lease=EXPIRED))

    async def _is_over(self) -> bool:
        marks = RunFilter(jobs=(MARKER,), limit=100)
        if len(await self.database.read(runs.list_runs(marks))) < self.processes:
            return False
        living = RunFilter(jobs=JOBS, statuses=(RunStatus.PENDING, RunStatus.LEASED), limit=1)
        return not await self.database.read(runs.list_runs(living))


# --- the audit --------------------------------------------------------------------------------------

_SQLITE_AUDIT = (
    "CREATE TABLE audit (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, before TEXT, after TEXT)",
    (
        "CREATE TRIGGER audit AFTER UPDATE OF status ON {runs} WHEN new.concurrency_key IS NOT NULL"
        " BEGIN INSERT INTO audit (key, before, after) VALUES (new.concurrency_key, old.status, new.status); END"
    ),
)
_POSTGRES_AUDIT = (
    "CREATE TABLE audit (n bigserial PRIMARY KEY, key text, before text, after text)",
    (
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.concurrency_key IS NOT NULL THEN"
        " INSERT INTO public.audit (key, before, after) VALUES (new.concurrency_key, old.status, new.status);"
        " END IF; RETURN NULL; END $$"
    ),
    "CREATE TRIGGER audit AFTER UPDATE OF status ON {runs} FOR EACH ROW EXECUTE FUNCTION audit()",
)


async def prepare(store: Store) -> None:
    """Set the limits, and have every change of a status written down."""
    for text in _POSTGRES_AUDIT if store.is_postgres else _SQLITE_AUDIT:
        await store.sql(text)
    for key, limit in LIMITS.items():
        await store.database.run(keys.set_limit(key, limit))


async def overlaps(store: Store) -> list[str]:
    """Moments in which more runs of a key were leased than its limit."""
    leased: Counter[str] = Counter()
    found: list[str] = []
    for row in await store.sql("SELECT key, before, after FROM audit ORDER BY n"):
        key: str = row["key"]
        leased[key] += (row["after"] == "leased") - (row["before"] == "leased")
        if leased[key] > LIMITS[key]:
            found.append(f"{leased[key]} of {key}")
    return found


FAULTS: Mapping[str, str] = {
    "stuck": "SELECT id FROM {runs} WHERE status IN ('pending', 'leased') AND job <> 'done producing'",
    "slots left": "SELECT key FROM {concurrency_keys} WHERE active <> 0",
    "slots on rows": "SELECT id FROM {runs} WHERE slot",
    "doubled keys": (
        "SELECT job, idempotency_key FROM {runs} WHERE idempotency_key IS NOT NULL"
        " GROUP BY job, idempotency_key HAVING count(*) > 1"
    ),
    "two ends": "SELECT e.run_id FROM {events} e GROUP BY e.run_id HAVING"
    " sum(CASE WHEN e.type IN ('run:complete', 'run:cancel') THEN 1 ELSE 0 END) > 1",
    "leases without an event": "SELECT r.id FROM {runs} r WHERE r.generation <>"
    " (SELECT count(*) FROM {events} e WHERE e.run_id = r.id AND e.type = 'run:leased')",
    "steps without an event": "SELECT r.id FROM {runs} r WHERE r.completed_steps <>"
    " (SELECT count(*) FROM {events} e WHERE e.run_id = r.id AND e.type = 'step:complete') OR r.completed_steps <>"
    " (SELECT count(*) FROM {steps} s WHERE s.run_id = r.id)",
}


async def faults(store: Store) -> dict[str, list[Any]]:
    """What must not be, by name; empty when all is well."""
    found: dict[str, list[Any]] = {name: await store.sql(text) for name, text in FAULTS.items()}
    found["overlaps"] = list(await overlaps(store))
    found["events out of order"] = list(await store.event_faults())
    found["drift"] = list(await store.database.read(keys.find_drift()))
    return {name: rows[:3] for name, rows in found.items() if rows}


async def main(url: str, seed: str, count: str, processes: str) -> None:
    """One process's share of a test."""
    database = open_database(url, environment=SystemEnvironment())
    await database.open()
    stress = Stress(database, seed=int(seed), count=int(count), processes=int(processes))
    became = await stress.run()
    await database.close()
    print(json.dumps(became))  # noqa: T201 - read by the test


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
