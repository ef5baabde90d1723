"""`Guest`: runs operations in a transaction of the user's, over the connection that the user lends (`connection=`).

What is said over the connection is a `Talk`: a generator of operations that gets their results. So blocking and awaited
connections share every line of it. Nothing is committed, rolled back or caught here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Generator, Sequence
from functools import cache
from typing import Any, TypeAlias, TypeVar

from durably.environment import Environment
from durably.errors import UsageError
from durably.store import catalogue, inside
from durably.store.lent import Arguments, Bridge, Lent, LentAsync, Style, recognise
from durably.store.migrate import migrations, pending
from durably.store.operation import Operation, Rows, Statement
from durably.store.url import DatabaseUrl

T = TypeVar("T")

Talk: TypeAlias = Generator[Operation[Any], Any, T]
"""What is said over a connection: yields operations, gets their results, returns what came of it."""

_PARAM = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


class Guest:
    """Talks over connections of users to one database."""

    def __init__(self, url: DatabaseUrl, environment: Environment, schema: str) -> None:
        """`schema` is that of the tables on PostgreSQL."""
        self._url = url
        self._environment = environment
        self._prefix = "durably_" if url.dialect == "sqlite" else f'"{schema}".'
        self._channel = f"durably_{schema}"
        self.born: Callable[[], int | None] = lambda: None
        """Says when the tables of this Durably were made, where that is known."""
        self._checked: dict[str | None, int | None] = {}
        """The tables that were met and fit, and when they were made."""

    def run(self, connection: object, talk: Talk[T]) -> T:
        """What comes of it, over a connection that blocks. Raises UsageError for others, and without transaction."""
        lent = recognise(connection)
        if isinstance(lent, Bridge | LentAsync):
            talk.close()
            raise UsageError(
                "connection: this one is asynchronous; SyncDurably takes blocking ones, Durably takes both"
            )
        return self._run(lent, talk)

    async def run_async(self, connection: object, talk: Talk[T]) -> T:
        """The same, over a connection of either kind.

        One that blocks is used in a thread where it may be, for it may have to wait for a row that this process has
        locked and gives free in its event loop. One of SQLite belongs to the thread that made it and is used there:
        nothing stays locked in SQLite for the event loop to give free.
        """
        lent = recognise(connection)
        if isinstance(lent, Bridge):
            return await lent.run(lambda blocking: self._run(blocking, talk))
        if isinstance(lent, LentAsync):
            return await self._run_awaited(lent, talk)
        if lent.is_bound:
            return self._run(lent, talk)
        return await self._run_in_thread(lent, talk)

    async def _run_in_thread(self, lent: Lent, talk: Talk[T]) -> T:
        executor = self._environment.executor("durably-lent", 1)
        work = asyncio.get_running_loop().run_in_executor(executor, self._run, lent, talk)
        executor.shutdown(wait=False)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})  # the caller gets its connection back when nobody else uses it
            raise

    def _run(self, lent: Lent, talk: Talk[T]) -> T:
        spoken = self._with_checks(lent, talk)
        answer: object = None
        while True:
            try:
                operation = spoken.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            found = [
                self._rows([lent.value(sql, arguments) for sql, arguments in self._texts(statement, lent.style)])
                for statement in operation.statements
            ]
            answer = operation.decode(found)

    async def _run_awaited(self, lent: LentAsync, talk: Talk[T]) -> T:
        spoken = self._with_checks(lent, talk)
        answer: object = None
        while True:
            try:
                operation = spoken.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            found: list[Rows] = []
            for statement in operation.statements:
                texts = self._texts(statement, lent.style)
                found.append(self._rows([await lent.avalue(sql, arguments) for sql, arguments in texts]))
            answer = operation.decode(found)

    def _with_checks(self, lent: Lent | LentAsync, talk: Talk[T]) -> Talk[T]:
        """Look before the first write whether it can work, for a failed statement would spoil the transaction."""
        if lent.dialect != self._url.dialect:
            raise UsageError(
                f"connection: it is of {_NAMES[lent.dialect]}, and this Durably is on {_NAMES[self._url.dialect]}"
            )
        if self._url.location == ":memory:":
            raise UsageError("connection: SQLite in memory has one connection, its own: use a file")
        here: inside.Here = yield inside.look()
        if not lent.has_transaction():
            raise UsageError(
                "connection: it is in autocommit mode, so there is no transaction to be part of: begin one first"
            )
        self.check_file(here)
        if not here.has_tables:
            raise UsageError(
                "connection: its database has no tables of durably: open() this Durably once before, or run "
                "`durably migrate`"
            )
        if here.place not in self._checked:
            schema: inside.Schema = yield inside.version()
            pending(migrations(self._url.dialect, self._prefix), schema.applied, "check")
            self._checked[here.place] = schema.born
        ours = self.born()
        if ours is not None and self._checked[here.place] != ours:
            raise UsageError(
                f"connection: it leads to the tables of another database than {self._url.shown}, which this Durably "
                "is on; if they were made anew, close() this Durably first"
            )
        return (yield from talk)

    def check_file(self, here: inside.Here) -> None:
        """Raise UsageError where a connection of SQLite leads to another file."""
        if here.file is not None and not _is_same_file(self._url.location, here.file):
            raise UsageError(
                f"connection: its database is {here.file or 'in memory'}, and that of this Durably {self._url.shown}"
            )

    def _texts(self, statement: Statement, style: Style) -> list[tuple[str, Arguments]]:
        params: dict[str, Any] = {"channel": self._channel, **statement.params}
        if self._url.dialect == "sqlite":
            params["now"] = self._environment.now_us()
        else:
            params = {name: value if value is None else str(value) for name, value in params.items()}
        sqls = catalogue.load(self._url.dialect, self._prefix)[statement.name]
        texts = (_placed(sql.text, style) for sql in sqls)
        return [(text, [params[name] for name in names]) for text, names in texts]

    def _rows(self, values: Sequence[object]) -> Rows:
        """The JSON of the last statement."""
        value = values[-1]
        if not isinstance(value, str | bytes | bytearray) or not value:
            return ()
        found: Any = json.loads(value)
        several: Sequence[Any] = (found,) if hasattr(found, "keys") else found
        return several


@cache
def _placed(sql: str, style: Style) -> tuple[str, tuple[str, ...]]:
    """The statement with the driver's placeholders, and which parameter belongs to which."""
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        name = match[1]
        if style == "dollar":
            if name not in names:
                names.append(name)
            return f"${names.index(name) + 1}"
        names.append(name)
        return "?" if style == "qmark" else "%s"

    return _PARAM.sub(place, sql), tuple(names)


def _is_same_file(ours: str, theirs: str) -> bool:
    return os.path.exists(ours) and os.path.exists(theirs) and os.path.samefile(ours, theirs)  # noqa: PTH110, PTH121  # plain strings of SQLite's
