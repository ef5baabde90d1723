"""Where jobs in other processes tell the test how far they are, and wait until it lets them go on.

The counterpart of `tests/processes/points.py`. The test holds points before the jobs come there; a point that nobody
holds lets everybody pass. All waits end after some seconds with a message that says what did happen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

PATIENCE = 40.0
"""Seconds for what takes a moment on an idle machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A job came to a point."""

    point: str
    run: str
    pid: int
    facts: dict[str, str]
    at: float
    """When, in monotonic seconds."""

    @property
    def made(self) -> str:
        """The value that this execution of a step returns."""
        return self.facts["made"]


@dataclass(slots=True, eq=False)
class Hold:
    """Keeps the visitors of a point until they are released."""

    wants: Callable[[Visit], bool]
    stage: Stage
    left: int
    visits: list[Visit] = field(default_factory=list[Visit])
    word: str = ""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, count: int = 1) -> Visit:
        """Return the visitor number `count` once it is held."""
        await self.stage.until(lambda: len(self.visits) >= count, f"{count} visitors at a held point")
        return self.visits[count - 1]

    def release(self, word: str = "go") -> None:
        """Let those who are held, and those who still come, go on with this word."""
        self.word = word
        self.released.set()


class Stage:
    """Notes who came where, in order."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self._holds: list[Hold] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._visitors: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._receive, "127.0.0.1", 0, backlog=500)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._visitors):
            task.cancel()
        await asyncio.gather(*self._visitors, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        if self._server is None:
            raise RuntimeError("the stage is not open")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    # --- what the test decides ----------------------------------------------------------------------

    def hold(self, point: str, *, run: str | None = None, times: int = 1) -> Hold:
        """Hold the next `times` visitors of this point."""
        hold = Hold(_wanted(point, run, None), self, times)
        self._holds.append(hold)
        return hold

    async def held_at(self, point: str, trigger: Awaitable[T]) -> T:
        """Await the trigger of a run, and return it once the run is held at this point, where it stays."""
        hold = self.hold(point)
        run = await trigger
        await hold.reached()
        return run

    def answer(self, point: str, word: str, *, run: str | None = None, times: int = 1) -> None:
        """Give the next `times` visitors of this point that word at once."""
        self.hold(point, run=run, times=times).release(word)

    # --- what happened ------------------------------------------------------------------------------

    def at(self, point: str, *, run: str | None = None, pid: int | None = None) -> list[Visit]:
        """Who came there so far, in order."""
        wants = _wanted(point, run, pid)
        return [visit for visit in self.visits if wants(visit)]

    async def visited(self, point: str, *, run: str | None = None, pid: int | None = None, count: int = 1) -> Visit:
        """Return visit number `count` of a point, once it has happened."""
        who = "".join([f" of run {run}" if run else "", f" in process {pid}" if pid else ""])
        await self.until(lambda: len(self.at(point, run=run, pid=pid)) >= count, f"visit {count} at {point!r}{who}")
        return self.at(point, run=run, pid=pid)[count - 1]

    async def until(self, is_so: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait until the visits, or what else `notify` tells of, make it so."""
        async with within(seconds, what, self.story):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    def notify(self) -> None:
        """Something happened that somebody may wait for."""
        self._changed.set()

    def story(self) -> str:
        """The last visits, for messages."""
        told = [f"{visit.point} (run {visit.run[-6:]}, process {visit.pid}) {visit.facts}" for visit in self.visits]
        return "visits so far:\n  " + "\n  ".join(told[-40:] or ["none"])

    # --- a visitor ----------------------------------------------------------------------------------

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._visitors.add(task)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                if line := await reader.readline():
                    writer.write((await self._answer(line)).encode() + b"\n")
                    await writer.drain()
        finally:
            writer.close()
            if task is not None:
                self._visitors.discard(task)

    async def _answer(self, line: bytes) -> str:
        visit = Visit(**json.loads(line), at=monotonic())
        self.visits.append(visit)
        hold = next((hold for hold in self._holds if hold.left and hold.wants(visit)), None)
        if hold is not None:
            hold.left -= 1
            hold.visits.append(visit)
        self.notify()
        if hold is None:
            return "go"
        await hold.released.wait()
        return hold.word


def _wanted(point: str, run: str | None, pid: int | None) -> Callable[[Visit], bool]:
    return lambda visit: visit.point == point and run in {None, visit.run} and pid in {None, visit.pid}


@asynccontextmanager
async def within(seconds: float, what: str, story: Callable[[], str] = lambda: "") -> AsyncGenerator[None]:
    """Fail with a telling message when the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise AssertionError(f"waited {seconds:g} s in vain for {what}\n{story()}") from error
