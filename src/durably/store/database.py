"""`Database`: where operations are run. Two lanes of group commit, reads beside them, wake-ups after commits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

from durably.environment import Environment
from durably.errors import DatabaseUnavailable, UsageError
from durably.model import Connections
from durably.store import engine as engines
from durably.store.batch import Answer, Batcher
from durably.store.engine import Channel, Engine, LockTimeout
from durably.store.migrate import Mode, migrations
from durably.store.operation import ItemT, Lane, Operation, ResultT, T, Wake, Write
from durably.store.probe import probe
from durably.store.sqlite import SqliteEngine
from durably.store.url import Connect, DatabaseUrl, parse_url

_FIRST_WAIT, _LAST_WAIT = 0.05, 2.0
_SHORTEST_CONNECT = 1.0
_LEASES = {"sqlite": timedelta(seconds=5), "postgres": timedelta(seconds=30)}


def open_database(
    url: str,
    *,
    environment: Environment,
    migrate: Mode = "auto",
    schema: str = "durably",
    listen_url: str | None = None,
    connect: Connect | None = None,
    lease: timedelta | None = None,
) -> Database:
    """The database that a URL means, not connected yet. Raises ValidationError when the URL or a name is bad.

    A connection is given up after a `lease`, at most 10 seconds: who waits longer is late for what others left behind.
    """
    parsed = parse_url(url, listen_url=listen_url, connect=connect)
    if isinstance(lease, timedelta):
        seconds = min(max(lease.total_seconds(), _SHORTEST_CONNECT), parsed.connect_seconds)
        parsed = replace(parsed, connect_seconds=seconds)
    database = Database(
        _engine(parsed, environment, schema), environment, migrate, parsed.shown, _LEASES[parsed.dialect]
    )
    database.probe = partial(probe, parsed, environment)
    database.newest_schema = migrations(parsed.dialect, "")[-1].version
    return database


def _engine(parsed: DatabaseUrl, environment: Environment, schema: str) -> Engine:
    if parsed.dialect == "sqlite":
        return SqliteEngine(parsed, environment)
    try:
        from durably.store.postgres import PostgresEngine  # noqa: PLC0415  # asyncpg is an extra
    except ModuleNotFoundError as error:
        message = "PostgreSQL needs the extra: pip install 'durably[postgres]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return PostgresEngine(parsed, environment, schema)


class Database:
    """One database, used from one event loop.

    `run`, `submit` and `read` repeat what a lost connection or a busy database left undone, which is safe: ids, tokens
    and write numbers are the caller's. They raise DatabaseUnavailable after `timeout` seconds; None waits for ever.
    After `close` they raise UsageError.
    """

    def __init__(
        self, engine: Engine, environment: Environment, migrate: Mode, shown: str, default_lease: timedelta
    ) -> None:
        self.environment = environment
        self.default_lease = default_lease
        self.shown = shown
        """The URL without its password."""
        self.probe: Callable[[], Awaitable[Connections]] = _nothing_known
        """Tries out how the database is reached. Raises DatabaseUnavailable."""
        self.newest_schema = 0
        """The schema version that this code knows."""
        self._engine = engine
        self._migrate: Mode = migrate
        self._callbacks: list[Callable[[Wake], None]] = []
        self._is_listening = False
        self._is_closed = False
        fast, keyed, claims = (
            Batcher(self._transact, channel, self._committed, environment.random, overlaps=engine.is_parallel)
            for channel in (Channel.FAST, Channel.KEYED, Channel.CLAIM)
        )
        self._lanes = {Lane.FAST: fast, Lane.KEYED: keyed, Lane.CLAIM: claims if engine.is_parallel else fast}

    @property
    def is_shared(self) -> bool:
        """Whether other processes can see the data; False for SQLite in memory."""
        return self._engine.is_shared

    @property
    def is_parallel(self) -> bool:
        """Whether it works beside this process: what is asked early is there early."""
        return self._engine.is_parallel

    async def open(self) -> None:
        """Connect, and bring the tables up to date or check them. Raises SchemaError, DatabaseUnavailable."""
        self._is_closed = False
        await self._engine.open(self._migrate)

    async def close(self) -> None:
        """Wait for the writes that were submitted, then disconnect. Whoever comes later gets a UsageError."""
        self._is_closed = True
        try:
            for lane in self._lanes.values():
                await lane.close()
        finally:
            await self._engine.close()

    async def run(
        self, operation: Operation[T], *, lane: Lane = Lane.KEYED, timeout: float | None = 10.0
    ) -> T:  # becomes DatabaseUnavailable
        """The operation's result, after its commit, which it may share with others of the lane."""
        self._check_open()
        return await self._lanes[lane].run(operation, timeout)

    async def submit(
        self, write: Write[ItemT, ResultT], item: ItemT, *, timeout: float | None = 10.0
    ) -> ResultT:  # becomes DatabaseUnavailable
        """The item's result, after the commit that it shares with what arrived at the same time."""
        self._check_open()
        return await self._lanes[write.lane].submit(write, item, timeout)

    async def submit_all(
        self, write: Write[ItemT, ResultT], items: Sequence[ItemT], *, timeout: float | None = 10.0
    ) -> Sequence[ResultT]:  # becomes DatabaseUnavailable
        """The results of several items, in order. Raises the first error when all were answered."""
        self._check_open()
        return await self._lanes[write.lane].submit_all(write, items, timeout)

    def send(self, write: Write[ItemT, ResultT], item: ItemT, answer: Answer) -> Callable[[], None]:
        """Like `submit`, however long it takes, but `answer` is called with the result or the error.

        Returns the function that gives the write up. Raises UsageError after `close`.
        """
        self._check_open()
        return self._lanes[write.lane].send(write, item, answer)

    async def read(self, operation: Operation[T], *, timeout: float | None = 10.0) -> T:  # becomes DatabaseUnavailable
        """The result of an operation that writes nothing."""
        if timeout is None:
            return await self._read(operation)
        try:
            async with asyncio.timeout(timeout):
                return await self._read(operation)
        except TimeoutError as error:
            raise DatabaseUnavailable(f"no answer within {timeout:g} seconds") from error

    async def read_aside(self, operation: Operation[T], *, timeout: float) -> T:
        """Like `read`, once, for what takes long: on a connection of its own where others would wait for it."""
        self._check_open()
        channel = Channel.ASIDE if self._engine.is_parallel else Channel.READ
        try:
            async with asyncio.timeout(timeout):
                return await engines.run(self._engine, operation, channel)
        except TimeoutError as error:
            raise DatabaseUnavailable(f"no answer within {timeout:g} seconds") from error

    def on_wake(self, callback: Callable[[Wake], None]) -> Callable[[], None]:
        """Call back in this loop after commits of this and of other processes. Returns the function that ends it."""
        if not self._is_listening:
            self._is_listening = True
            self._engine.listen(self._call_back)
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def twin(self) -> Database:
        """A second Database on the same data, for another thread's loop; with connections of its own where it can."""
        return Database(self._engine.twin(), self.environment, "auto", self.shown, self.default_lease)

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("this Durably was closed")

    async def _read(self, operation: Operation[T]) -> T:
        wait = _FIRST_WAIT
        while True:
            self._check_open()
            try:
                return await engines.run(self._engine, operation, Channel.READ)
            except (DatabaseUnavailable, LockTimeout):
                await asyncio.sleep(wait * (0.5 + self.environment.random() / 2))
                wait = min(wait * 2, _LAST_WAIT)

    async def _transact(self, operation: Operation[T], channel: Channel) -> T:
        return await engines.run(self._engine, operation, channel)

    def _committed(self, wake: Wake) -> None:
        if wake:
            self._call_back(wake)
            self._engine.notify(wake)

    def _call_back(self, wake: Wake) -> None:
        for callback in tuple(self._callbacks):
            callback(wake)


async def _nothing_known() -> Connections:
    return Connections()
