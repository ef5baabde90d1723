"""Wake-ups between processes through LISTEN and NOTIFY, off the commit path.

A NOTIFY in every transaction serialises commits, so one is sent after them, for all that committed meanwhile. Through a
pooler LISTEN is deaf without an error: a note to ourselves that does not come back within a second says so, and the
workers' polling, which stays behind it in any case, has to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from durably.environment import Environment
from durably.errors import DatabaseRefused, DatabaseUnavailable
from durably.store.operation import Wake
from durably.store.postgres_connect import connect
from durably.store.url import DatabaseUrl

_log = logging.getLogger("durably.store")

_ALL = Wake.WORK | Wake.EVENTS | Wake.CANCEL
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.04
"""Between two notifications: it grows while one is due after each, so that steady work is announced seldom."""
_FIRST_RETRY, _LAST_RETRY = 0.5, 15.0
_PROBE_WITHIN = 1.0
_CHECK_EVERY = 30.0

Send = Callable[..., Awaitable[None]]


class PostgresWaker:
    """Sends and receives wake-ups for one schema, from one event loop."""

    def __init__(self, url: DatabaseUrl, schema: str, environment: Environment) -> None:
        self._url = url
        self._channel = f"durably_{schema}"
        self._name = environment.new_id()
        self._due = Wake.NOBODY
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """Call back when another process committed, and after every reconnect, since something may have been missed."""
        self._listening = asyncio.get_running_loop().create_task(self._listen(callback))

    def notify(self, wake: Wake, send: Send) -> None:
        """Send soon over a lane's connection; what comes meanwhile goes together."""
        self._due |= wake
        if self._due and (self._sending is None or self._sending.done()):
            self._sending = asyncio.get_running_loop().create_task(self._send(send))

    async def close(self) -> None:
        """Send what is due, and stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):  # asyncpg swallows or complains of a cancel while it connects
                await self._idle.wait()
        while self._listening is not None and not self._listening.done():
            self._listening.cancel()
            await asyncio.wait({self._listening}, timeout=0.1)
        if self._sending is not None:
            with suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(self._sending, 2)

    async def _send(self, send: Send) -> None:
        pause = _FIRST_PAUSE
        if Wake.WORK not in self._due:
            await asyncio.sleep(0)  # what was committed here goes on first; nobody waits for it elsewhere
        while self._due:
            wake, self._due = self._due, Wake.NOBODY
            with suppress(DatabaseUnavailable, DatabaseRefused):  # they poll
                await send("SELECT pg_notify($1, $2)", self._channel, f"{self._name} {wake.value}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    async def _listen(self, callback: Callable[[Wake], None]) -> None:
        wait = _FIRST_RETRY
        while True:
            try:
                connection = await self._connect()
                try:
                    is_lost = asyncio.Event()
                    connection.add_termination_listener(lambda _connection, is_lost=is_lost: is_lost.set())
                    await connection.add_listener(self._channel, self._receiver(callback))
                    await self._probe(connection)
                    callback(_ALL)
                    wait = _FIRST_RETRY
                    await self._watch(connection, is_lost)
                finally:
                    connection.terminate()
            except Exception as error:  # noqa: BLE001 - the border of a background loop; asyncpg has errors without a root
                _log.debug("listening for wake-ups failed, polling meanwhile: %s", type(error).__name__)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LAST_RETRY)

    async def _watch(self, connection: asyncpg.Connection[asyncpg.Record], is_lost: asyncio.Event) -> None:
        """Return when the connection is lost; ask now and then, for one that a network lost says nothing."""
        while not is_lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY):
                    await is_lost.wait()
            if not is_lost.is_set():
                await connection.execute("SELECT 1")

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        self._idle.clear()
        try:
            return await connect(self._url, listening=True, statement_cache_size=0)
        finally:
            self._idle.set()

    def _receiver(self, callback: Callable[[Wake], None]) -> Callable[..., None]:
        def receive(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            sender, _, value = payload.partition(" ")
            self._heard.set()
            if sender != self._name and value.isdigit() and (wake := Wake(int(value) & _ALL.value)):
                callback(wake)

        return receive

    async def _probe(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._heard.clear()
        async with connection.transaction():  # behind a pooler it is prepared and executed in one session
            await connection.execute("SELECT pg_notify($1, $2)", self._channel, f"{self._name} probe")
        try:
            async with asyncio.timeout(_PROBE_WITHIN):
                await self._heard.wait()
        except TimeoutError:
            _log.warning(
                "LISTEN hears nothing on this connection, probably because of a pooler: workers only poll. "
                "Give a direct connection as listen_url."
            )
