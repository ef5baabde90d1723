"""A database that does what a rule asks, at the time that the rule says, and can be broken on purpose."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest.mock import patch

import asyncpg

from durably.store import catalogue
from durably.store import engine as engines
from durably.store.database import Database, open_database
from durably.store.engine import Channel, Engine
from durably.store.guest import Guest
from durably.store.lent import recognise
from durably.store.operation import Operation, Rows, Statement
from durably.store.postgres import PostgresEngine
from durably.store.postgres_bind import Block
from durably.store.sqlite_calls import Parts
from durably.store.url import parse_url
from durably.testing import ManualClock
from tests.support.store import SCHEMA, fill, inner_engine, private

T = TypeVar("T")

_PATIENT = "SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0"
"""On a busy machine a game stands still for seconds, also within a transaction. That is no answer of the store."""
TABLES = ("runs", "steps", "logs", "events", "concurrency_keys")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A block of SQL, broken: a text in it, and what stands in its place."""

    name: str
    block: str
    text: str
    instead: str


@dataclass(frozen=True, slots=True)
class _Timed:
    """An engine whose clock is the bench's, also on PostgreSQL."""

    engine: Engine
    clock: ManualClock

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        now = self.clock.now()
        timed = [replace(statement, params={**statement.params, "now": now}) for statement in statements]
        return await self.engine.transact(timed, channel, readonly=readonly)


class Bench:
    """A database of its own event loop and clock. Time is a parameter of every statement, on both databases."""

    def __init__(self, url: str, mutant: Mutant | None = None) -> None:
        self.clock = ManualClock()
        self._url = url
        self._mutant = mutant
        self._runner = asyncio.Runner()
        self._database: Database
        self._engine: Any
        self._admin: Any = None
        self._no_timeout: Any = patch("durably.store.postgres_connect._ANSWER_WITHIN", None)
        self._guest: Any = Guest(parse_url(url), self.clock, SCHEMA)

    def __enter__(self) -> Self:
        self._no_timeout.start()
        self._runner.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.run(self._close())
        self._runner.close()
        self._no_timeout.stop()

    @property
    def is_postgres(self) -> bool:
        return self._url.startswith("postgres")

    async def _open(self) -> None:
        self._database = open_database(self._url, environment=self.clock)
        self._engine = inner_engine(self._database)
        if self.is_postgres:
            for link in private(self._engine, "_links").values():
                link.settings += f"; {_PATIENT}"
        await self._database.open()
        if self._mutant is not None:
            break_sql(self._engine, self._mutant)
        if self.is_postgres:
            self._admin = await asyncpg.connect(self._url)

    async def _close(self) -> None:
        await self._database.close()
        if self._admin is not None:
            await self._admin.close()

    def do(self, operation: Operation[T], channel: Channel = Channel.KEYED) -> T:
        """The operation in one transaction, now."""
        timed: Any = _Timed(self._engine, self.clock)
        return self._runner.run(engines.run(timed, operation, channel))

    def inside(self, operations: Sequence[Operation[Any]], *, is_committed: bool) -> list[Any]:
        """The operations in a transaction of a user's, over a connection of the user's."""
        return self._runner.run(
            self._inside_postgres(operations, is_committed)
            if self.is_postgres
            else self._inside_sqlite(operations, is_committed)
        )

    async def _inside_sqlite(self, operations: Sequence[Operation[Any]], is_committed: bool) -> list[Any]:  # noqa: FBT001  # see inside
        """There is one connection; nobody else uses it meanwhile."""
        writer = private(self._engine, "_writer")
        raw: sqlite3.Connection = private(writer, "_raw")

        def talk() -> list[Any]:
            lent: Any = recognise(raw)
            answers: list[Any] = []
            raw.execute("BEGIN IMMEDIATE")
            try:
                for operation in operations:
                    said = [self._said(one, "qmark") for one in operation.statements]
                    found = [self._guest._rows([lent.value(*text) for text in texts]) for texts in said]  # noqa: SLF001
                    answers.append(operation.decode(found))
            finally:
                raw.execute("COMMIT" if is_committed else "ROLLBACK")
            return answers

        answers: list[Any] = await writer.call(talk)
        return answers

    def _said(self, statement: Statement, style: str) -> list[tuple[str, Any]]:
        texts: list[tuple[str, Any]] = self._guest._texts(statement, style)  # noqa: SLF001 - as a guest says it
        if self._mutant is None or self._mutant.block != statement.name:
            return texts
        return [(text.replace(self._mutant.text, self._mutant.instead), arguments) for text, arguments in texts]

    async def _inside_postgres(self, operations: Sequence[Operation[Any]], is_committed: bool) -> list[Any]:  # noqa: FBT001  # see inside
        answers: list[Any] = []
        transaction = self._admin.transaction()
        await transaction.start()
        try:
            for operation in operations:
                found = [self._guest._rows(await self._values(one)) for one in operation.statements]  # noqa: SLF001
                answers.append(operation.decode(found))
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.commit() if is_committed else transaction.rollback())
        return answers

    async def _values(self, statement: Statement) -> list[Any]:
        """The values that its texts give, by the bench's clock."""
        now = f"'{self.clock.now().isoformat()}'::timestamptz"
        texts = [(sql.replace("clock_timestamp()", now), rest) for sql, rest in self._said(statement, "dollar")]
        return [await self._admin.fetchval(sql, *arguments) for sql, arguments in texts]

    def advance(self, by: timedelta) -> None:
        self.clock.advance(by)

    def empty(self) -> None:
        """Forget everything but how many events there were."""
        self.sql(*(f"DELETE FROM {{{table}}}" for table in TABLES))

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """What no operation shows of the keys."""
        text = 'SELECT key, active, "limit" FROM {concurrency_keys} ORDER BY key'
        return self._runner.run(self._sql([text]))

    def counts(self) -> tuple[int, int]:
        """How many steps and lines of logs there are, whether their runs are there or not."""
        text = "SELECT (SELECT count(*) FROM {steps}) AS steps, (SELECT count(*) FROM {logs}) AS logs"
        [row] = self._runner.run(self._sql([text]))
        return row["steps"], row["logs"]

    def sql(self, *texts: str) -> None:
        """Statements past the operations."""
        self._runner.run(self._sql(texts))

    async def _sql(self, texts: Sequence[str]) -> list[Mapping[str, Any]]:
        filled = [fill(text, postgres=self.is_postgres) for text in texts]
        if self._admin is not None:
            found: list[Any] = [await self._admin.fetch(text) for text in filled]
            return [dict(row) for row in found[-1]]
        writer = private(self._engine, "_writer")
        raw: sqlite3.Connection = private(writer, "_raw")
        rows: list[sqlite3.Row] = await writer.call(lambda: [raw.execute(text).fetchall() for text in filled][-1])
        return [dict(row) for row in rows]


def break_sql(engine: Any, mutant: Mutant) -> None:
    """Let an engine send the broken text. A text that is not there is an error: the mutant would be none."""
    is_postgres = isinstance(engine, PostgresEngine)
    prefix: str = private(engine, "_prefix") if is_postgres else "durably_"
    whole = catalogue.load("postgres" if is_postgres else "sqlite", prefix)
    sqls = whole[mutant.block]
    broken = tuple(replace(sql, text=sql.text.replace(mutant.text, mutant.instead)) for sql in sqls)
    assert broken != sqls, f"{mutant.name}: {mutant.block} has no {mutant.text!r}"
    broken = tuple(replace(sql, params=catalogue_params(sql.text)) for sql in broken)
    known, opened = private(engine, "_sql"), engine
    if is_postgres:
        opened._sql = {**known, mutant.block: Block(broken)}  # noqa: SLF001 - the point
    else:
        texts = {**known, mutant.block: broken}
        opened._sql, opened._parts = texts, Parts(texts)  # noqa: SLF001 - what becomes a trigger is made of these too


def catalogue_params(text: str) -> tuple[str, ...]:
    """The parameters that a text names, in order."""
    pattern: Any = vars(catalogue)["_PARAM"]
    found: list[str] = pattern.findall(text)
    return tuple(dict.fromkeys(found))
