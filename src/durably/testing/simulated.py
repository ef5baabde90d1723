"""A process's surroundings in a simulated world: its clocks, its chance, its threads, and the database.

All processes share one SQLite database in memory, behind a connection that takes time and breaks as `Faults` say. Its
clock is the world's, as the clock of a database server judges leases; each process has a clock of its own beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, ParamSpec, TypeVar

from durably.app import Durably
from durably.app.core import Core
from durably.environment import Environment, Thread, uuid7_text
from durably.errors import DatabaseUnavailable
from durably.runtime.settings import Settings
from durably.store.database import Database
from durably.store.engine import Channel, Engine, LockTimeout
from durably.store.migrate import Mode
from durably.store.operation import Rows, Statement, Wake
from durably.store.sqlite import SqliteEngine
from durably.store.url import parse_url
from durably.testing.faults import Faults, Loss
from durably.testing.world import Process, ProcessLoop, World

P = ParamSpec("P")
T = TypeVar("T")

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
"""What the clocks of a world show when it begins."""
_UNDONE = {Loss.BEFORE, Loss.LOCKED, Loss.CRASH_BEFORE}
_BEGINNING_US = int(BEGINNING.timestamp()) * 1_000_000


class SimulatedEnvironment:
    """What one process sees of the outside world."""

    def __init__(
        self, process: Process, *, skew: float = 0.0, uptime: float = 0.0, thread_seconds: float = 0.0
    ) -> None:
        """`skew` is how far its wall clock is ahead, `uptime` what its monotonic clock showed at the beginning.

        A call in a thread takes up to `thread_seconds`.
        """
        self.process = process
        self.skew = skew
        self._uptime = uptime
        self._thread_seconds = thread_seconds
        self._world = process.world
        self._chance = Random(f"{process.world.chance.random()} {process.name}")
        self._last_id = 0

    def now(self) -> datetime:
        """See `Environment`."""
        return BEGINNING + timedelta(microseconds=self._micros())

    def now_us(self) -> int:
        """See `Environment`."""
        return _BEGINNING_US + self._micros()

    def monotonic(self) -> float:
        """See `Environment`."""
        return self._uptime + self._world.now

    def new_id(self) -> str:
        """See `Environment`."""
        value = (self.now_us() // 1000) << 74 | self._chance.getrandbits(74)
        if value <= self._last_id:
            value = self._last_id + 1 + self._chance.getrandbits(16)
        self._last_id = value
        return uuid7_text(value)

    def random(self) -> float:
        """See `Environment`."""
        return self._chance.random()

    def executor(self, name: str, threads: int) -> Executor:  # noqa: ARG002  # as many as it takes
        """See `Environment`. A call happens all at once, after a while."""
        return _Threads(self.process, lambda: self._chance.random() * self._thread_seconds)

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """See `Environment`."""
        raise RuntimeError(f"no thread {name!r} for {target!r}: a simulated process has only loops")

    def start_loop(
        self, name: str, main: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]
    ) -> tuple[asyncio.AbstractEventLoop, Thread]:
        """See `Environment`: another loop of the same process."""

        async def work() -> None:
            try:
                with suppress(asyncio.CancelledError):
                    await main()
            finally:
                ended()

        loop = self.process.start(work)
        return loop, _LoopThread(name, loop)

    def _micros(self) -> int:
        return round((self._world.now + self.skew) * 1_000_000)


class _LoopThread:
    """Stands for the thread of a loop."""

    def __init__(self, name: str, loop: ProcessLoop) -> None:
        self.name = name
        self._loop = loop

    def join(self, timeout: float | None = None) -> None:
        """Whoever waits like this would stop the world: the loop ends by itself."""

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not self._loop.is_closed()


class _Threads(Executor):
    """Calls things after a while, one after the other, also while the loops of the process are busy."""

    def __init__(self, process: Process, delay: Callable[[], float]) -> None:
        self._process = process
        self._delay = delay

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`."""
        future: Future[T] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001  # as an executor does
                    future.set_exception(error)

        self._process.world.call_later(self._delay(), call, process=self._process)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # as its base has it
        """See `concurrent.futures.Executor`."""


class _AtOnce(_Threads):
    """Calls things in the place of the caller."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future


class _ServerEnvironment(SimulatedEnvironment):
    """That of the database itself."""

    def executor(self, name: str, threads: int) -> Executor:  # noqa: ARG002  # there is one connection
        """See `Environment`. SQLite answers at once; what takes time is the way there and back."""
        return _AtOnce(self.process, lambda: 0.0)


class SimulatedDatabase:
    """One database for all processes of a world."""

    def __init__(self, world: World, faults: Faults, *, is_parallel: bool = False) -> None:
        """`is_parallel`: transactions of several channels can be under way at once, as on PostgreSQL."""
        self.world = world
        self.faults = faults
        self.is_parallel = is_parallel
        self.transaction = 0
        """The number of the last transaction."""
        self.observe: Callable[[Request, bool], object] = _ignore
        """Called with each transaction, and whether it was committed, at that moment."""
        self._server = world.process("database")
        self.environment = _ServerEnvironment(self._server)
        self.engine = SqliteEngine(parse_url("sqlite:///:memory:"), self.environment)
        self._listeners: list[tuple[Process, asyncio.AbstractEventLoop, Callable[[Wake], None]]] = []
        self._is_open = False
        self._turn = asyncio.Lock()
        self._loop = self._server.start(self._serve)

    def open(self) -> None:
        """Make the tables."""
        self.world.run(until=lambda: self._is_open, limit=self.world.now + 1)

    def connect(self, process: Process) -> SimulatedEngine:
        """An engine for this process."""
        return SimulatedEngine(self, process)

    def request(self, request: Request) -> None:
        """Take a transaction from a process."""
        if request.process.is_alive:
            self._loop.call_soon_threadsafe(self._begin, request)

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
            rows = await self._commit(request)
        except Exception as error:  # noqa: BLE001  # it belongs to the one who waits
            await self._answer(request, None, error)
            return
        if fate.loss is Loss.CRASH_AFTER:
            request.process.die()
        elif fate.loss is Loss.AFTER:
            await self._answer(request, None, DatabaseUnavailable("the connection broke after the commit"))
        else:
            await self._answer(request, rows, None)

    async def _commit(self, request: Request) -> list[Rows]:
        async with self._turn:
            self.transaction += 1
            try:
                rows = await self.engine.transact(request.statements, request.channel, readonly=request.readonly)
            except Exception:
                self.observe(request, False)  # noqa: FBT003  # it was not committed
                raise
            self.observe(request, True)  # noqa: FBT003  # it was committed
            return rows

    async def _lose(self, request: Request) -> None:
        self.observe(request, False)  # noqa: FBT003  # it was not committed
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
        process: Process,
        statements: Sequence[Statement],
        channel: Channel,
        faults: Faults,
        *,
        readonly: bool,
    ) -> None:
        self.process = process
        self.statements = statements
        self.channel = channel
        self.readonly = readonly
        self.fate = faults.transaction(process.name, statements, channel)
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[list[Rows]] = self.loop.create_future()
        self.task: asyncio.Task[None] | None = None


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
        request = Request(self._process, statements, channel, self._database.faults, readonly=readonly)
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


class SimulatedDurably(Durably):
    """`Durably` in one process of a world. Usable there as it is in any process."""

    def __init__(self, database: SimulatedDatabase, environment: SimulatedEnvironment, settings: Settings) -> None:
        engine = database.connect(environment.process)
        shown = f"simulation in {environment.process.name}"
        typed: Environment = environment

        def make() -> Database:
            return Database(engine, typed, "auto", shown, settings.lease)

        super().__init__("sqlite:///:memory:", environment=environment)
        Core.__init__(self, make, environment, settings, source=self._source, guest=self._guest)
        self._shown = shown


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
