"""What a user of durably has in a process of a simulated world: a `Durably`, and database connections of his own."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from durably.app import Durably
from durably.app.core import Core
from durably.environment import Environment
from durably.errors import DatabaseUnavailable
from durably.runtime.settings import Settings
from durably.store import inside
from durably.store.database import Database
from durably.store.engine import Channel, LockTimeout
from durably.store.guest import Guest
from durably.store.operation import Rows, Statement
from durably.store.url import parse_url
from durably.testing.served import Request, SimulatedDatabase
from durably.testing.simulated import SimulatedEnvironment
from durably.testing.world import Process


class SimulatedDurably(Durably):
    """`Durably` in one process of a world. Usable there as it is in any process."""

    def __init__(self, database: SimulatedDatabase, environment: SimulatedEnvironment, settings: Settings) -> None:
        engine = database.connect(environment.process)
        shown = f"simulation in {environment.process.name}"
        typed: Environment = environment

        def make() -> Database:
            return Database(engine, typed, "auto", shown, settings.lease)

        super().__init__("sqlite:///:memory:", environment=environment)
        guest = _Guest(parse_url("sqlite:///simulated"), database.environment, "durably")
        Core.__init__(self, make, environment, settings, source=self._source, guest=guest)
        self._shown = shown


class _Guest(Guest):
    """Talks over connections of users; the time of what it writes is the database's."""

    def check_file(self, here: inside.Here) -> None:
        """See `Guest`. There is one database in a world."""


class SimulatedConnection:
    """A connection of a user's own, of aiosqlite's kind, for `connection=`.

    `begin`, `commit` and `rollback` are awaited, and so is each statement. A fault breaks the connection, which rolls
    back what is open: `sqlite3.OperationalError` says so. After a commit that was lost nobody knows which it was.
    """

    isolation_level = ""

    def __init__(self, database: SimulatedDatabase, process: Process) -> None:
        self._database = database
        self._process = process
        self._is_begun = False
        self._began = 0.0

    @property
    def in_transaction(self) -> bool:
        """Whether something is open."""
        return self._is_begun

    def cursor(self) -> SimulatedCursor:
        """A cursor, for statements of this transaction."""
        return SimulatedCursor(self)

    async def begin(self) -> None:
        """Begin a transaction, as soon as nobody else writes."""
        await self._ask("user_begin", self._begin)

    async def commit(self) -> None:
        """Commit it."""
        await self._ask("user_commit", self._commit)

    async def rollback(self) -> None:
        """Undo it."""
        if self._is_begun:
            await self._ask("user_rollback", self._rollback)

    async def execute(self, sql: str, arguments: Sequence[str | int | None]) -> tuple[object, ...] | None:
        """Run a statement. Returns the first row of what it gives."""
        found: list[tuple[object, ...]] = []

        async def work(_: Request) -> None:
            self._check()
            row = self._database.raw.execute(sql, arguments).fetchone()
            found.extend([] if row is None else [tuple(row)])

        await self._ask("user_statement", work)
        return found[0] if found else None

    async def _ask(self, name: str, work: Callable[[Request], Awaitable[None]]) -> None:
        visit = _Visit(self._database, self._process, name, work, self._break)
        self._database.request(visit)
        try:
            await visit.answer
        except (DatabaseUnavailable, LockTimeout) as error:
            raise sqlite3.OperationalError("the connection broke") from error

    # --- in the loop of the database ------------------------------------------------------------------------

    async def _begin(self, _: Request) -> None:
        await self._database.turn.acquire()
        if not self._process.is_alive:
            self._database.turn.release()
            return
        self._database.raw.execute("BEGIN IMMEDIATE")
        self._is_begun = self._database.is_visited = True
        self._began = self._process.world.now
        self._process.farewells.append(self._died)

    async def _commit(self, request: Request) -> None:
        self._check()
        self._database.raw.execute("COMMIT")
        self._database.transaction += 1
        self._end()
        self._database.observe(request, True)  # noqa: FBT003  # it was committed

    async def _rollback(self, _: Request) -> None:
        self._break()

    def _check(self) -> None:
        if not self._is_begun:
            raise sqlite3.OperationalError("there is no transaction")

    def _died(self) -> None:
        self._database.call(self._break)

    def _break(self) -> None:
        if self._is_begun:
            self._database.raw.execute("ROLLBACK")
            self._end()

    def _end(self) -> None:
        self._is_begun = self._database.is_visited = False
        self._database.visits.append((self._began, self._process.world.now))
        self._process.farewells.remove(self._died)
        self._database.turn.release()


class SimulatedCursor:
    """A cursor of a `SimulatedConnection`."""

    row_factory: object = None

    def __init__(self, connection: SimulatedConnection) -> None:
        self._connection = connection
        self._row: tuple[object, ...] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    async def execute(self, sql: str, arguments: Sequence[str | int | None] = ()) -> None:
        """Run a statement."""
        self._row = await self._connection.execute(sql, arguments)

    async def fetchone(self) -> tuple[object, ...] | None:
        """The first row."""
        return self._row


class _Visit(Request):
    """One call of a user's own connection on its way."""

    def __init__(
        self,
        database: SimulatedDatabase,
        process: Process,
        name: str,
        work: Callable[[Request], Awaitable[None]],
        broken: Callable[[], None],
    ) -> None:
        super().__init__(database, process, (Statement(name, {}),), Channel.KEYED, readonly=False)
        self._work = work
        self._broken = broken

    async def perform(self) -> list[Rows]:
        """See `Request`."""
        await self._work(self)
        return []

    def broken(self) -> None:
        """See `Request`."""
        self._broken()
