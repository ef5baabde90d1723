"""A database under test, and short words for what the tests do to it.

`Store` runs the real operations through real `Database` objects; raw SQL is only for what no operation does: letting
time pass, holding locks, and looking at all rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypeAlias, TypeVar

import asyncpg

from durably.environment import SystemEnvironment
from durably.model import (
    Change,
    Changed,
    Disposition,
    DraftEvent,
    Ending,
    Enqueued,
    Event,
    EventType,
    Lease,
    LogEntry,
    NewRun,
    Progress,
    RunError,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
    StoredRun,
    Verdict,
)
from durably.store import actions, catalogue, events, keys, leases, runs, steps
from durably.store.database import Database, open_database
from durably.store.engine import Engine
from durably.store.operation import Lane, Write
from durably.store.sqlite import SqliteEngine
from durably.store.url import parse_url
from tests.support.told import TOLD

T = TypeVar("T")
Row: TypeAlias = Mapping[str, Any]
StoreKind: TypeAlias = Literal["sqlite-memory", "sqlite-file", "postgres"]

STORE_KINDS: tuple[StoreKind, ...] = ("sqlite-memory", "sqlite-file", "postgres")
SCHEMA = "durably"
LEASE = timedelta(minutes=5)
EXPIRED = timedelta(0)
"""A lease that has run out by the time anybody looks."""
AT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
TABLES = ("runs", "steps", "logs", "events", "concurrency_keys")


class Store:
    """One database of a kind, as the tests see it."""

    def __init__(self, kind: StoreKind, url: str) -> None:
        self.kind = kind
        self.url = url
        self.environment = SystemEnvironment()
        self.database = open_database(url, environment=self.environment)
        self._stack = AsyncExitStack()
        self._admin: Any = None

    async def __aenter__(self) -> Self:
        await self.database.open()
        self._stack.push_async_callback(self.database.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def is_postgres(self) -> bool:
        return self.kind == "postgres"

    # --- more connections ---------------------------------------------------------------------------

    async def another(self) -> Database:
        """A second Database on the same data, as another process would have it."""
        if self.kind == "sqlite-memory":
            other = self.database.twin()
        else:
            other = open_database(self.url, environment=self.environment)
        await other.open()
        self._stack.push_async_callback(other.close)
        return other

    async def others(self, count: int) -> list[Database]:
        return [await self.another() for _ in range(count)]

    async def through(self, wrap: Callable[[Engine], Engine]) -> Database:
        """A second Database whose engine is wrapped; on SQLite in memory it has data of its own."""
        database = Database(wrap(self.engine()), self.environment, "auto", self.url, LEASE)
        await database.open()
        self._stack.push_async_callback(database.close)
        return database

    def engine(self) -> Engine:
        """A new engine on the same data, not open."""
        if self.is_postgres:
            from durably.store.postgres import PostgresEngine  # noqa: PLC0415 - as the package itself does

            return PostgresEngine(parse_url(self.url), self.environment, SCHEMA)
        return SqliteEngine(parse_url(self.url), self.environment)

    async def connect(self) -> Any:
        """An asyncpg connection that no operation uses, to hold locks with."""
        connection = await asyncpg.connect(self.url)
        self._stack.callback(connection.terminate)
        return connection

    # --- raw SQL ------------------------------------------------------------------------------------

    async def sql(self, text: str) -> list[Row]:
        """Rows of a statement; {runs} and so on are tables, {hour} is an hour in a column's unit."""
        hour = "interval '1 hour'" if self.is_postgres else "3600000000"
        text = fill(text.replace("{hour}", hour), postgres=self.is_postgres)
        if self.is_postgres:
            return [dict(row) for row in await (await self._admin_connection()).fetch(text)]
        if self.kind == "sqlite-file":
            return await asyncio.to_thread(_file_sql, parse_url(self.url).location, text)
        writer = private(inner_engine(self.database), "_writer")  # the only connection there is
        raw: sqlite3.Connection = private(writer, "_raw")
        found: list[sqlite3.Row] = await writer.call(lambda: raw.execute(text).fetchall())
        return [dict(row) for row in found]

    async def value(self, text: str) -> Any:
        """The first column of the first row."""
        return next(iter((await self.sql(text))[0].values()))

    async def snapshot(self) -> dict[str, list[str]]:
        """Every row of every table, to compare."""
        return {table: sorted(str(row) for row in await self.sql(f"SELECT * FROM {{{table}}}")) for table in TABLES}

    async def _admin_connection(self) -> Any:
        if self._admin is None:
            self._admin = await self.connect()
        return self._admin

    # --- time ---------------------------------------------------------------------------------------

    async def expire(self, *which: StoredRun) -> None:
        """Let leases run out."""
        await self._shift("lease_expires_at", which)

    async def make_due(self, *which: StoredRun) -> None:
        """Let start times pass."""
        await self._shift("available_at", which)

    async def age(self, *which: StoredRun) -> None:
        """Make ends of runs an hour older."""
        await self._shift("completed_at", which)

    async def _shift(self, column: str, which: Sequence[StoredRun]) -> None:
        ids = ", ".join(f"'{run.id}'" for run in which)
        await self.sql(f"UPDATE {{runs}} SET {column} = {column} - 24 * {{hour}} WHERE id IN ({ids})")

    # --- runs ---------------------------------------------------------------------------------------

    def new(self, job: str = "job", *, input: str = "1", **options: Any) -> NewRun:
        """A run to store. Its digest is the input itself."""
        digest = input if "idempotency_key" in options else None
        return NewRun(id=self.environment.new_id(), job=job, input_json=input, input_digest=digest, **options)

    async def enqueue(self, new: NewRun | None = None, **options: Any) -> Enqueued:
        return await self.database.submit(runs.enqueue, new or self.new(**options))

    async def enqueue_batch(self, *items: NewRun) -> list[Enqueued]:
        """Many at once: they share a commit."""
        return list(await asyncio.gather(*(self.database.submit(runs.enqueue, item) for item in items)))

    async def trigger(self, **options: Any) -> StoredRun:
        enqueued = await self.enqueue(**options)
        assert enqueued.disposition is Disposition.CREATED
        return enqueued.run

    async def get(self, run: StoredRun | str) -> StoredRun:
        found = await self.database.read(runs.get_run(run if isinstance(run, str) else run.id))
        assert found is not None
        return found

    async def exists(self, run: StoredRun) -> bool:
        return await self.database.read(runs.get_run(run.id)) is not None

    async def claim(
        self, *jobs: str, limit: int = 10, lease: timedelta = LEASE, database: Database | None = None, **options: Any
    ) -> list[StoredRun]:
        operation = leases.claim(
            jobs or ("job",), limit=limit, owner="me", token=self.environment.new_id(), lease=lease, **options
        )
        return await (database or self.database).run(operation, lane=Lane.FAST)

    async def claim_expired(
        self,
        *jobs: str,
        limit: int = 10,
        max_crashes: int = 100,
        held: Sequence[str] = (),
        database: Database | None = None,
    ) -> list[StoredRun]:
        operation = leases.claim_expired(
            jobs or ("job",),
            limit=limit,
            owner="other",
            token=self.environment.new_id(),
            lease=LEASE,
            max_crashes=max_crashes,
            held=held,
        )
        return await (database or self.database).run(operation, lane=Lane.FAST)

    async def leased(self, **options: Any) -> StoredRun:
        """A run that was triggered and claimed."""
        run = await self.trigger(**options)
        [claimed] = [got for got in await self.claim(run.job) if got.id == run.id]
        return claimed

    async def taken_over(self, run: StoredRun) -> StoredRun:
        """The run after its lease ran out and somebody else claimed it."""
        await self.expire(run)
        [again] = [got for got in await self.claim_expired(run.job) if got.id == run.id]
        return again

    async def fail_crashed(self, *, max_crashes: int, job: str = "job") -> list[StoredRun]:
        found = await self.database.read(leases.crashed([job], max_crashes=max_crashes, limit=100))
        return await self.database.run(leases.fail_crashed(found, max_crashes=max_crashes))

    # --- a lease holder's writes --------------------------------------------------------------------

    async def write(self, run: StoredRun, number: int = 1, **parts: Any) -> Verdict:
        return await self.store(a_write(run, number, **parts))

    async def store(self, write: RunWrite, database: Database | None = None) -> Verdict:
        return await steps.store_write(database or self.database, write, timeout=30)

    async def end(self, run: StoredRun, status: RunStatus = RunStatus.COMPLETED, number: int = 1) -> Verdict:
        return await self.store(an_end(run, status, number))

    async def steps(self, run: StoredRun) -> list[StepRecord]:
        return await self.database.read(steps.load_steps(run.id))

    # --- a user's actions ---------------------------------------------------------------------------

    async def change(self, write: Write[Change, Changed], run: StoredRun, token: str | None = None) -> Changed:
        key = run.concurrency_key
        change = Change(run_id=run.id, concurrency_key=key, token=token or self.environment.new_id())
        return await self.database.submit(write, change)

    async def cancel(self, run: StoredRun, token: str | None = None) -> Changed:
        return await self.change(actions.cancel, run, token)

    async def resume(self, run: StoredRun, token: str | None = None) -> Changed:
        return await self.change(actions.resume, run, token)

    async def delete(self, run: StoredRun, token: str | None = None) -> Changed:
        return await self.change(actions.delete, run, token)

    async def in_status(self, status: RunStatus, **options: Any) -> StoredRun:
        """A run that came into a status as runs do."""
        if status is RunStatus.PENDING:
            return await self.trigger(**options)
        run = await self.leased(**options)
        if status is RunStatus.CANCELLED:
            await self.cancel(run)
        elif status is not RunStatus.LEASED:
            await self.end(run, status)
        return await self.get(run)

    # --- what happened ------------------------------------------------------------------------------

    async def events(self, run: StoredRun) -> list[Event]:
        return await self.database.read(events.run_events(run.id))

    async def event_types(self, run: StoredRun) -> list[str]:
        return [event.type.value for event in await self.events(run)]

    async def is_sound(self) -> bool:
        """No counter drifted, nobody waits beside a free slot, no run's events have a gap or are out of order."""
        return not await self.database.read(keys.find_drift()) and not await self.event_faults()

    async def event_faults(self) -> list[Row]:
        """Runs whose events are not numbered 1, 2, 3, ... in the order of their ids, or not up to the run's seq."""
        return await self.sql(
            "SELECT e.run_id, count(*) FROM (SELECT t.run_id, t.seq, row_number() OVER (PARTITION BY t.run_id"
            f" ORDER BY t.id) AS place FROM {TOLD} t) e WHERE e.seq <> e.place GROUP BY e.run_id UNION ALL"
            " SELECT r.id, r.seq FROM {runs} r WHERE r.seq <>"
            " (SELECT count(*) + count(x.started_at) FROM {events} x WHERE x.run_id = r.id)"
        )


def fill(text: str, *, postgres: bool) -> str:
    """The text with the dialect's names of the tables."""
    return catalogue.fill_tables(text, f'"{SCHEMA}".' if postgres else "durably_")


def inner_engine(database: Database) -> Any:
    """The engine under a database: rows before they are decoded, sessions, settings."""
    return private(database, "_engine")


def private(owner: object, name: str) -> Any:
    """What no operation shows: for looking at rows, plans and connections as they are."""
    value: Any = vars(owner)[name]
    return value


def _file_sql(path: str, text: str) -> list[Row]:
    raw = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        raw.row_factory = sqlite3.Row
        return [dict(row) for row in raw.execute(text).fetchall()]
    finally:
        raw.close()


# --- values -----------------------------------------------------------------------------------------


def lease_of(run: StoredRun) -> Lease:
    return Lease(run.id, run.generation)


def a_step(run: StoredRun, name: str = "step", position: int = 0, output: str = '"out"', **fields: Any) -> StepRecord:
    return StepRecord(
        run_id=run.id,
        name=name,
        position=position,
        status=fields.get("status", StepStatus.COMPLETED),
        output_json=None if "error" in fields else output,
        error=fields.get("error"),
        generation=run.generation,
        started_at=AT,
        completed_at=AT + timedelta(milliseconds=1500),
    )


def a_failed_step(run: StoredRun, name: str = "step", position: int = 0) -> StepRecord:
    return a_step(run, name, position, status=StepStatus.FAILED, error=RunError(type="ValueError", message="no"))


def an_event(kind: EventType = EventType.STEP_START, step: str | None = "step", **fields: Any) -> DraftEvent:
    return DraftEvent(type=kind, at=AT, step=step, **fields)


def a_log(message: str, step: str | None = "step", data: str | None = None) -> DraftEvent:
    entry = LogEntry(level="info", message=message, data_json=data)
    return an_event(EventType.LOG_WRITE, step, log=entry)


def a_write(run: StoredRun, number: int = 1, **parts: Any) -> RunWrite:
    return RunWrite(lease=lease_of(run), number=number, concurrency_key=run.concurrency_key, **parts)


def a_checkpoint(run: StoredRun, number: int = 1, name: str = "step", position: int = 0, **fields: Any) -> RunWrite:
    """A write that stores one completed step with all that comes with it."""
    done = an_event(EventType.STEP_COMPLETE, name, position=position)
    return a_write(
        run,
        number,
        steps=(a_step(run, name, position, **fields),),
        events=(an_event(EventType.STEP_START, name, position=position), a_log(f"in {name}", name), done),
        progress=Progress(current=float(position + 1)),
    )


def an_end(run: StoredRun, status: RunStatus = RunStatus.COMPLETED, number: int = 1) -> RunWrite:
    output = '"result"' if status is RunStatus.COMPLETED else None
    error = RunError(type="ValueError", message="broke", traceback="Trace", step="step")
    ending = Ending(status=status, output_json=output, error=error if status is RunStatus.FAILED else None)
    return a_write(run, number, ending=ending)


def ids(found: Sequence[StoredRun]) -> list[str]:
    return [run.id for run in found]


def with_generation(run: StoredRun, generation: int) -> StoredRun:
    return replace(run, generation=generation)
