"""An open database, in one event loop of one process; opened when it is first needed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from durably.environment import Environment
from durably.errors import UsageError
from durably.runtime.tail import Tail
from durably.store.care import read_schema
from durably.store.database import Database
from durably.store.rows import micros_of_time

_logger = logging.getLogger("durably.session")


class Session:
    """A database and its tail. Usable in the event loop in which it was made."""

    def __init__(self, database: Database, environment: Environment) -> None:
        self.database = database
        self.tail = Tail(database, environment)
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self.lock = asyncio.Lock()
        self.is_open = False
        self.is_closed = False
        self.born: int | None = None
        """When the tables were made, in microseconds since 1970; None where databases are told apart by their file."""
        self.users = 0
        self.is_scoped = False
        """Whether somebody entered it as a context manager: then the last user closes it."""
        self._error: Exception | None = None

    async def open(self) -> bool:
        """Open the database once, however many ask. Returns False when the session was closed meanwhile."""
        async with self.lock:
            if not self.is_open and not self.is_closed:
                await self._open()
        if self._error is not None:
            raise self._error
        return not self.is_closed

    async def _open(self) -> None:
        """After a failure the session is closed: who waited for it gets the error, the next use makes another one."""
        try:
            await self.database.open()
            if self.database.is_parallel:
                first = min((each.applied_at for each in await self.database.read(read_schema())), default=None)
                self.born = None if first is None else micros_of_time(first)
        except BaseException as error:
            self._error = error if isinstance(error, Exception) else None
            self.is_closed = True
            await self.database.close()
            raise
        self.is_open = True

    async def close(self) -> None:
        """Close both. Waits for an `open` under way."""
        async with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.is_open = False
            try:
                await self.tail.close()
            finally:
                await self.database.close()


class Sessions:
    """Gives the session of the running event loop, one at a time."""

    def __init__(self, make: Callable[[], Database], environment: Environment) -> None:
        self._make = make
        self._environment = environment
        self._session: Session | None = None
        self._inherited: list[Session] = []

    async def get(self) -> Session:
        """Return the open session. Raises UsageError in another event loop than the one that opened it.

        After a fork the child gets a session of its own; what it inherited is neither used nor closed, because
        the connections belong to the parent. What was left open in a loop that has been closed is closed first.
        """
        while True:
            if self._is_left_behind():
                await self.close()
            session = self._current()
            if session.is_open or await session.open():
                return session

    def use(self, *, scoped: bool) -> AbstractAsyncContextManager[Session]:
        """Keep the session open for as long as it is used. The last one to leave closes it if anybody was `scoped`."""
        return _Use(self, is_scoped=scoped)

    def _is_left_behind(self) -> bool:
        """Whether the loop of the session has ended, as after `asyncio.run`: nobody can close it there any more."""
        session = self._session
        return session is not None and session.process == os.getpid() and session.loop.is_closed()

    def _current(self) -> Session:
        session = self._session
        if session is not None and session.process != os.getpid():
            self._inherited.append(session)
            session = None
        if session is None or session.is_closed:
            session = self._session = Session(self._make(), self._environment)
        elif session.loop is not asyncio.get_running_loop():
            raise UsageError(
                "this Durably is open in another event loop: close() it there first, or make one for each loop"
            )
        return session

    def loop_in_use(self) -> asyncio.AbstractEventLoop | None:
        """The running event loop in which a session of this process is open, or None."""
        session = self._session
        if session is None or session.is_closed or session.process != os.getpid() or not session.loop.is_running():
            return None
        return session.loop

    def born(self) -> int | None:
        """When the tables of the open database were made; None where that is not known."""
        session = self._session
        return session.born if session is not None and session.is_open else None

    def signal(self, run_id: str) -> None:
        """Wake who waits for a run that ended in this process, sooner than the feed would."""
        if self._session is not None:
            self._session.tail.signal(run_id)

    async def close(self) -> None:
        """Close what is open; the next use opens it again."""
        session = self._session
        if session is None or session.process != os.getpid():
            return
        if session.loop is not asyncio.get_running_loop() and not session.loop.is_closed():
            raise UsageError("this Durably is open in another event loop: close() it there")
        self._session = None
        if not session.loop.is_closed():
            await session.close()
            return
        try:
            await session.close()
        except Exception:  # a connection cannot say goodbye in a loop that is no more: it goes with its last reference
            _logger.debug("what was left open in an event loop that has ended could not be closed", exc_info=True)


class _Use:
    """A session in use. No generator: a loop that ends closes those in any order, and its users may be some."""

    def __init__(self, sessions: Sessions, *, is_scoped: bool) -> None:
        self._sessions = sessions
        self._is_scoped = is_scoped
        self._used: list[Session] = []

    async def __aenter__(self) -> Session:
        session = await self._sessions.get()
        session.users += 1
        session.is_scoped = session.is_scoped or self._is_scoped
        self._used.append(session)
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session = self._used.pop()
        session.users -= 1
        if session.is_scoped and not session.users:
            await session.close()
