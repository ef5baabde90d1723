"""The database of a simulated world: one SQLite in memory for all, behind connections that take time and break.

Its clock is a clock of its own, which judges leases as that of a database server does, and which can be set.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress

from durably.errors import DatabaseUnavailable
from durably.store.engine import Channel, Engine, LockTimeout
from durably.store.migrate import Mode
from durably.store.operation import Rows, Statement, Wake
from durably.store.sqlite import SqliteEngine
from durably.store.url import parse_url
from durably.testing.faults import Faults, Loss
from durably.testing.memory import Memory
from durably.testing.simulated import SimulatedEnvironment
from durably.testing.threads import AtOnce
from durably.testing.world import Process, World

_UNDONE = {Loss.BEFORE, Loss.LOCKED, Loss.CRASH_BEFORE}


class _ServerEnvironment(SimulatedEnvironment):
    """That of the database itself."""

    def executor(self, name: str, threads: int) -> AtOnce:  # noqa: ARG002  # there is one connection
        """See `Environment`. SQLite answers at once; what takes time is the way there and back."""
        return AtOnce(self.process, lambda: 0.0)


class SimulatedDatabase:
    """One database for all processes of a world."""

    def __init__(
        self, world: World, faults: Faults, *, is_parallel: bool = False, memory: Memory | None = None
    ) -> None:
        """`is_parallel`: transactions of several channels can be under way at once, as on PostgreSQL.

        With `memory` the database is given to the next world by `close`, which saves most of the time to make one.
        """
        self.world = world
        self.faults = faults
        self.is_parallel = is_parallel
        self.transaction = 0
        """The number of the last transaction."""
        self.observe: Callable[[Request, bool], object] = _ignore
        """Called with each transaction, and whether it was committed, at that moment."""
        self.turn = asyncio.Lock()
        """There is one writer at a time."""
        self.is_visited = False
        """Whether a transaction of a user's own is open."""
        self.visits: list[tuple[float, float]] = []
        """From when to when such transactions were open."""
        self._server = world.process("database")
        self.environment = _ServerEnvironment(self._server)
        """`environment.skew` sets its clock."""
        self._memory = memory or Memory()
        self._is_kept = memory is not None
        self._loan = self._memory.lend(lambda: self.transaction + self.is_visited)
        self.engine = SqliteEngine(parse_url("sqlite:///:memory:"), self.environment, connect=self._loan.connect)
        self._listeners: list[tuple[Process, asyncio.AbstractEventLoop, Callable[[Wake], None]]] = []
        self._is_open = False
        self._loop = self._server.start(self._serve)

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection that all share, to look into the database. Raises LookupError before it is open."""
        return self._loan.raw

    def open(self) -> None:
        """Make the tables."""
        self.world.run(until=lambda: self._is_open, limit=self.world.now + 1)
        self._loan.prepare()

    def close(self) -> None:
        """Let it go, after the end of its world."""
        self._loan.give_back()
        if not self._is_kept:
            self._memory.close()

    def connect(self, process: Process) -> SimulatedEngine:
        """An engine for this process."""
        return SimulatedEngine(self, process)

    def request(self, request: Request) -> None:
        """Take a transaction from a process."""
        if request.process.is_alive:
            self.call(lambda: self._begin(request))

    def call(self, fn: Callable[[], object]) -> None:
        """Call `fn` in the loop of the database."""
        with suppress(RuntimeError):  # the world has ended
            self._loop.call_soon_threadsafe(fn)

    def listen(self, process: Process, callback: Callable[[Wake], None]) -> None:
        """Wake this process from now on, in the loop that is running."""
        self._listeners.append((process, asyncio.get_running_loop(), callback))

    def notify(self, sender: Process, wake: Wake) -> None:
        """Wake the other processes."""
        for process, loop, callback in self._listeners:
            delay = self.faults.wake(process.name) if process is not sender and process.is_alive else None
            if delay is not None:
                self.world.call_later(delay, _Delivery(loop, callback, wake), process=process)

    async def _serve(self) -> None:
        await self.engine.open("auto")
        self._is_open = True
        await asyncio.get_running_loop().create_future()

    def _begin(self, request: Request) -> None:
        request.task = self._loop.create_task(self._transact(request))

    async def _transact(self, request: Request) -> None:
        fate = request.fate
        await _pause(fate.there)
        if fate.loss in _UNDONE:
            await self._lose(request)
            return
        try:
            rows = await request.perform()
        except Exception as error:  # noqa: BLE001  # it belongs to the one who waits
            await self._answer(request, None, error)
            return
        if fate.loss is Loss.CRASH_AFTER:
            request.process.die()
        elif fate.loss is Loss.AFTER:
            request.broken()
            await self._answer(request, None, DatabaseUnavailable("the connection broke after the commit"))
        else:
            await self._answer(request, rows, None)

    async def _lose(self, request: Request) -> None:
        self.observe(request, False)  # noqa: FBT003  # it was not committed
        request.broken()
        if request.fate.loss is Loss.CRASH_BEFORE:
            request.process.die()
        elif request.fate.loss is Loss.LOCKED:
            await self._answer(request, None, LockTimeout())
        else:
            await self._answer(request, None, DatabaseUnavailable("the connection broke"))

    async def _answer(self, request: Request, rows: list[Rows] | None, error: Exception | None) -> None:
        await _pause(request.fate.back)
        if request.process.is_alive:
            with suppress(RuntimeError):  # its loop is closed
                request.loop.call_soon_threadsafe(_tell, request.answer, rows, error)


class Request:
    """A transaction on its way."""

    def __init__(
        self,
        database: SimulatedDatabase,
        process: Process,
        statements: Sequence[Statement],
        channel: Channel,
        *,
        readonly: bool,
    ) -> None:
        self.database = database
        self.process = process
        self.statements = statements
        self.channel = channel
        self.readonly = readonly
        self.fate = database.faults.transaction(process.name, statements, channel)
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[list[Rows]] = self.loop.create_future()
        self.task: asyncio.Task[None] | None = None

    async def perform(self) -> list[Rows]:
        """Do it, in the loop of the database."""
        database = self.database
        async with database.turn:
            database.transaction += 1
            try:
                rows = await database.engine.transact(self.statements, self.channel, readonly=self.readonly)
            except Exception:
                database.observe(self, False)  # noqa: FBT003  # it was not committed
                raise
            database.observe(self, True)  # noqa: FBT003  # it was committed
            return rows

    def broken(self) -> None:
        """Its connection broke: what was open is rolled back."""


class SimulatedEngine:
    """The way of one process to the database."""

    is_shared = True

    def __init__(self, database: SimulatedDatabase, process: Process) -> None:
        self.is_parallel = database.is_parallel
        self._database = database
        self._process = process

    async def open(self, mode: Mode) -> None:
        """See `Engine`."""

    async def close(self) -> None:
        """See `Engine`."""

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        """See `Engine`."""
        request = Request(self._database, self._process, statements, channel, readonly=readonly)
        self._database.request(request)
        return await request.answer

    def twin(self) -> Engine:
        """See `Engine`."""
        return SimulatedEngine(self._database, self._process)

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """See `Engine`."""
        self._database.listen(self._process, callback)

    def notify(self, wake: Wake) -> None:
        """See `Engine`."""
        self._database.notify(self._process, wake)


def _ignore(_request: Request, _is_committed: bool) -> None:  # noqa: FBT001  # see `observe`
    """Nobody observes."""


class _Delivery:
    """A wake-up on its way to a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[Wake], None], wake: Wake) -> None:
        self._call = loop, callback, wake

    def __call__(self) -> None:
        loop, callback, wake = self._call
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback, wake)


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _tell(answer: asyncio.Future[list[Rows]], rows: list[Rows] | None, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    elif rows is not None:
        answer.set_result(rows)
