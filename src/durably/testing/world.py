"""Several processes in one thread: each with event loops of its own, all under one clock and one seed.

The world gives the processes turns. A turn of a loop lasts until nothing in it can go on at that moment. A process can
be frozen (SIGSTOP), its main loop be blocked by code that does not return, and it can die (SIGKILL): then none of its
loops gets a turn any more. Whoever comes first among those that could go on at the same moment is decided by chance,
that is, by the seed.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from itertools import count
from random import Random
from types import CoroutineType
from typing import Any, Protocol, TypeVarTuple, Unpack

from durably.testing.virtual_time import Poll, VirtualTimeLoop

Ts = TypeVarTuple("Ts")

NEVER = float("inf")
MOST_ROUNDS = 20_000
"""Rounds of a loop within one turn, after which it counts as spinning."""


class World:
    """A clock, and the processes that live by it."""

    def __init__(self, seed: int | str) -> None:
        self.chance = Random(f"world {seed}")
        self.now = 0.0
        """Seconds since the world began."""
        self.processes: list[Process] = []
        self.trace: list[str] = []
        self._loops: list[ProcessLoop] = []
        self._calls: list[tuple[float, float, int, Process | None, Callable[[], object]]] = []
        self._numbers = count()
        self.turns = 0

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:12.6f} {text}")

    def process(self, name: str) -> Process:
        """A new process, without anything in it."""
        process = Process(self, name)
        self.processes.append(process)
        return process

    def call_at(self, when: float, call: Callable[[], object], *, process: Process | None = None) -> None:
        """Call `call` at this moment. What belongs to a process waits while it is frozen, and dies with it."""
        heapq.heappush(self._calls, (when, self.chance.random(), next(self._numbers), process, call))

    def call_later(self, seconds: float, call: Callable[[], object], *, process: Process | None = None) -> None:
        """Call `call` after so many seconds."""
        self.call_at(self.now + seconds, call, process=process)

    def run(self, *, until: Callable[[], bool], limit: float) -> bool:
        """Give turns until `until()` says so, or the clock shows `limit`. Returns whether `until` was met."""
        while not until():
            loop = self._next_loop()
            due = NEVER if loop is None else loop.ready_at()
            call_due = self._calls[0][0] if self._calls else NEVER
            if min(due, call_due) > limit:
                self.now = max(self.now, limit)
                return False
            self.turns += 1
            if call_due <= due:
                self._call()
            elif loop is not None:
                self.now = max(self.now, due)
                loop.turn()
        return True

    def add_loop(self, loop: ProcessLoop) -> None:
        """Give turns to this loop from now on."""
        self._loops.append(loop)

    def remove_loop(self, loop: ProcessLoop) -> None:
        """Give it no more."""
        with suppress(ValueError):
            self._loops.remove(loop)

    def close(self) -> None:
        """End all processes."""
        self._calls.clear()
        for process in self.processes:
            process.at_death = None
            process.die()
        for process in self.processes:
            for thread in tuple(process.threads):
                thread.bury()
        for process in self.processes:
            for loop in process.loops:
                loop.bury()

    def _call(self) -> None:
        when, _, _, process, call = heapq.heappop(self._calls)
        self.now = max(self.now, when)
        if process is None:
            call()
        elif process.frozen_until > self.now:
            self.call_at(process.frozen_until, call, process=process)
        elif process.is_alive:
            call()

    def _next_loop(self) -> ProcessLoop | None:
        first, first_due, rivals = None, NEVER, 1
        for loop in self._loops:
            due = loop.ready_at()
            if due < first_due:
                first, first_due, rivals = loop, due, 1
            elif due == first_due and due < NEVER:
                rivals += 1
                if self.chance.random() * rivals < 1:
                    first = loop
        return first


class Mortal(Protocol):
    """What is ended with its world."""

    def bury(self) -> None:
        """End it."""
        ...


class Process:
    """One process of a world: its loops go on only while it does."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.frozen_until = 0.0
        self.blocked_until = 0.0
        """Until when its main loop does not return from the code that it runs."""
        self.loops: list[ProcessLoop] = []
        self.threads: list[Mortal] = []
        """Those that have not ended."""
        self.farewells: list[Callable[[], object]] = []
        """Called when it dies: what others notice of it."""
        self.at_death: Callable[[], object] | None = None
        """Called after that."""

    def __repr__(self) -> str:
        return f"Process({self.name!r})"

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> ProcessLoop:
        """Run `main()` in a new loop. The first loop of a process is its main one."""
        loop = ProcessLoop(self, is_main=not self.loops)
        self.loops.append(loop)
        self.world.add_loop(loop)
        loop.main = loop.create_task(main())
        return loop

    def freeze(self, seconds: float) -> None:
        """Stop everything in it for so long."""
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)

    def block(self, seconds: float) -> None:
        """Let its main loop hang for so long; its other loops go on."""
        self.blocked_until = max(self.blocked_until, self.world.now + seconds)

    def die(self) -> None:
        """End it at once: nothing of it goes on, nothing is cleaned up."""
        if self.is_alive:
            self.is_alive = False
            for loop in self.loops:
                loop.abandon()
            for farewell in tuple(self.farewells):
                farewell()
            if self.at_death is not None:
                self.at_death()


class ProcessLoop(VirtualTimeLoop):
    """An event loop of one process. It runs only when the world gives it a turn."""

    def __init__(self, process: Process, *, is_main: bool) -> None:
        self.process = process
        self.is_main = is_main
        self.main: asyncio.Task[None] | None = None
        self._world = process.world
        self._due = self._world.now
        self._rounds = 0
        self._is_buried = False
        self._tasks: list[asyncio.Task[Any]] = []
        """All of them: what a dead process left is not to be cleaned up whenever memory is."""
        super().__init__()
        self.set_exception_handler(self._failed)
        self.failures: list[str] = []

    def time(self) -> float:
        """The world's clock: loops measure, they do not tell the time."""
        return self._world.now

    def ready_at(self) -> float:
        """When it can go on; NEVER if only another loop can wake it."""
        due, process, now = self._due, self.process, self._world.now
        if due < process.frozen_until:  # noqa: PLR1730  # max() would be a call, for each loop before each turn
            due = process.frozen_until
        if due < process.blocked_until and self.is_main:
            due = process.blocked_until
        return now if due < now else due  # noqa: FURB136  # the same

    def turn(self) -> None:
        """Go on until nothing can go on at this moment."""
        self._due = NEVER
        self._rounds = 0
        self.run_forever()
        if self.main is not None and self.main.done():
            self._world.remove_loop(self)
            self.bury()

    def idle(self, timeout: float | None, poll: Poll) -> list[tuple[selectors.SelectorKey, int]]:  # noqa: ARG002  # there are no sockets here
        """End the turn when nothing can go on."""
        self._rounds += 1
        if self._rounds > MOST_ROUNDS:
            raise RuntimeError(f"process {self.process.name} spins: it goes on and on without waiting for anything")
        if timeout is None or timeout > 0:
            self._due = min(self._due, NEVER if timeout is None else self._world.now + timeout)
            self.stop()
        elif not self.process.is_alive:
            self.stop()
        return []

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.AbstractEventLoop`. Here this is how one loop reaches another."""
        self._due = self._world.now
        return self.call_soon(callback, *args, context=context)

    def has_made(self, task: asyncio.Task[Any]) -> None:
        """Keep it."""
        self._tasks.append(task)

    def abandon(self) -> None:
        """Never go on."""
        self._world.remove_loop(self)
        self.stop()

    def bury(self) -> None:
        """Close it with all that was under way in it: nothing of that is to speak up when its memory is freed."""
        self._is_buried = True
        for task in self._tasks:
            if not task.done():
                _end(task.get_coro())
        self._tasks.clear()
        for handle in vars(self)["_ready"]:  # what a thread has handed over, and no turn came for it
            for cell in getattr(getattr(handle, "_callback", None), "__closure__", None) or ():
                _end(cell.cell_contents)
        self.close()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self.process.is_alive and not self._is_buried:
            self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")


def _end(value: object) -> None:
    """Close a coroutine, with those that it was given and has not awaited."""
    if isinstance(value, CoroutineType):
        given = [] if value.cr_frame is None else list(value.cr_frame.f_locals.values())
        with suppress(BaseException):  # whatever the end of its world makes it raise
            value.close()
        for one in given:
            _end(one)
