"""A network between workers and PostgreSQL that loses the server's answers: commits are in doubt at will.

What a worker sends always arrives, so it is committed; from `mute` to `cut` nothing comes back. Then all connections
break, and new ones are let through. Or requests are held back, as when a cable is pulled and nobody has noticed; or
nothing comes through in either direction, or all comes late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import urlsplit, urlunsplit

Condition: TypeAlias = Callable[[], Awaitable[bool]]


async def always() -> bool:
    return True


class Proxy:
    """Listens on a port of its own and passes on what comes. `tell` is called when an answer was lost."""

    def __init__(self, url: str, tell: Callable[[], None]) -> None:
        self._target = urlsplit(url)
        self._tell = tell
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loses: Condition | None = None
        self._keeps: Condition | None = None
        self._let_through = asyncio.Event()
        self._asking = asyncio.Lock()
        self._is_black_hole = False
        self.delay = 0.0
        """Seconds that whatever comes is late, in each direction."""
        self.kept = 0
        """Requests that are held back."""
        self.lost = 0
        """Answers that were lost since `mute`."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.let_through()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The database as it is reached through here."""
        if self._server is None:
            raise RuntimeError("the proxy is not open")
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"{self._target.username}@127.0.0.1:{port}"))

    def mute(self, when: Condition | None = None) -> None:
        """Lose what the server answers from now on, but for what comes before `when` is true."""
        self.lost = 0
        self._loses = when or always

    def hold_back(self, when: Condition) -> None:
        """Keep all requests from the first one on that comes when `when` is true."""
        self._keeps = when

    def let_through(self) -> None:
        """Send on what was held back."""
        self._keeps = None
        self._let_through.set()

    def swallow(self) -> None:
        """Let nothing through in either direction, also on new connections, which are accepted; until `cut`."""
        self._is_black_hole = True

    def cut(self) -> None:
        """Break all connections; those that are made now work again."""
        self._loses = self._keeps = None
        self._is_black_hole = False
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            both = {writer, server_writer}
            self._writers |= both
            try:
                await asyncio.gather(
                    self._pass_on(reader, server_writer, is_answer=False),
                    self._pass_on(server_reader, writer, is_answer=True),
                )
            finally:
                self._writers -= both
                for one in both:
                    one.transport.abort()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_answer: bool) -> None:
        """Ends with an error, so that the other direction ends too."""
        while data := await source.read(65536):
            if self.delay:
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=self.delay)
            if self._is_black_hole:
                continue
            if await self._is_so(self._loses if is_answer else self._keeps):
                if is_answer:
                    self.lost += 1
                    self._tell()
                    continue
                self._keeps = always
                self.kept += 1
                self._tell()
                await self._let_through.wait()
            target.write(data)
            await target.drain()
        raise ConnectionResetError

    async def _is_so(self, condition: Condition | None) -> bool:
        """Ask one after the other: a condition may have one connection to look with."""
        if condition is None:
            return False
        async with self._asking:
            return await condition()
