"""`--processes` and `--reload`: worker processes, and the one that watches over them.

It starts them, passes signals on, starts those anew that die, and starts all anew when a source file changes. A pipe
from each tells how it is; when the watching process is gone, however that came, they stop in good order by themselves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress

from durably import SystemEnvironment, UsageError
from durably.cli.exits import ExitCode, say
from durably.cli.health import Report, health_server
from durably.cli.pulse import BLOCKED_SECONDS, load
from durably.cli.signals import signals
from durably.cli.sources import Sources

FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
"""Seconds before a process that died is started anew: doubled each time, back to the first once one lived long."""
LIVED_SECONDS = 60.0
LOOK_SECONDS = 0.3


class Child:
    """One worker process, over all its lives."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._clock = SystemEnvironment()
        self._reading: asyncio.Task[None] | None = None
        self._last: Report | None = None
        self._heard_at = 0.0
        self._born_at = 0.0
        self.process: asyncio.subprocess.Process | None = None
        self.was_ready = False
        self.deaths = 0

    async def start(self) -> None:
        """Start it; returns at once."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)  # its name says it
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                "--pulse-fd",
                str(writing),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(writing,),
                process_group=0,  # Ctrl-C reaches it through us, once
            )
        finally:
            os.close(writing)
        self._last, self.was_ready, self._born_at = None, False, self._clock.monotonic()
        self._reading = asyncio.create_task(self._read(reading))

    async def ended(self) -> int:
        """Return its exit code, once it has ended."""
        if self.process is None:
            return 0
        code = await self.process.wait()
        if self._reading is not None:
            await self._reading
        return code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def report(self) -> Report:
        """How it is."""
        silent = self._clock.monotonic() - max(self._heard_at, self._born_at)
        pid = None if self.process is None else self.process.pid
        if self.process is None or self.process.returncode is not None:
            return Report(is_alive=True, is_ready=False, details={"process": pid, "running": False})
        if self._last is None:
            return Report(is_alive=silent < BLOCKED_SECONDS * 2, is_ready=False, details={"process": pid})
        is_heard = silent < BLOCKED_SECONDS
        return Report(self._last.is_alive and is_heard, self._last.is_ready and is_heard, self._last.details)

    def pause(self) -> float:
        """How long to wait before it is started anew."""
        if self._clock.monotonic() - self._born_at > LIVED_SECONDS:
            self.deaths = 0
        self.deaths += 1
        return min(FIRST_PAUSE * (1 << min(self.deaths - 1, 10)), LAST_PAUSE)

    async def _read(self, pipe: int) -> None:
        reader = asyncio.StreamReader()
        with os.fdopen(pipe, "rb", buffering=0) as file:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
            try:
                while line := await reader.readline():
                    self._last, self._heard_at = load(line), self._clock.monotonic()
                    self.was_ready = self.was_ready or self._last.is_ready
            finally:
                transport.close()


class Supervisor:
    """Watches over worker processes."""

    def __init__(self, command: Sequence[str], *, processes: int, sources: Sources | None) -> None:
        if os.name == "nt":
            raise UsageError("--processes and --reload do not work on Windows: start several workers instead")
        self._children = [Child(command) for _ in range(processes)]
        self._sources = sources
        self._stop = asyncio.Event()
        self._interrupt = asyncio.Event()
        self._is_hopeless: int | None = None
        self._has_worked = False

    async def run(self, health_port: int | None) -> int:
        """Work until a signal comes. Returns the exit code."""
        async with AsyncExitStack() as stack:
            port = stack.enter_context(health_server(health_port, self.report))
            stack.enter_context(signals(self._stop, self._interrupt))
            if port is not None:
                say(f"health: http://127.0.0.1:{port}")
            say(f"watching over {len(self._children)} processes (process {os.getpid()})")
            async with asyncio.TaskGroup() as group:
                lives = [group.create_task(self._live(child)) for child in self._children]
                helpers = [group.create_task(self._pass_on())]
                if self._sources is not None:
                    helpers.append(group.create_task(self._reload(self._sources)))
                await asyncio.wait(lives)
                for helper in helpers:
                    helper.cancel()
        codes = [task.result() for task in lives]
        if self._is_hopeless is not None:
            return self._is_hopeless
        # one that had done its work already may not have heard the second signal as such
        return ExitCode.OK if set(codes) <= {0, -signal.SIGTERM} else ExitCode.ERROR

    def report(self) -> Report:
        """How all of them are: ready when all work, alive while none should be killed."""
        reports = [child.report() for child in self._children]
        return Report(
            is_alive=all(report.is_alive for report in reports),
            is_ready=not self._stop.is_set() and all(report.is_ready for report in reports),
            details={"process": os.getpid(), "processes": [report.details for report in reports]},
        )

    async def _live(self, child: Child) -> int:
        """Start the process again and again, until it is not wanted any more. Returns its last exit code."""
        while True:
            version = None if self._sources is None else self._sources.version
            await child.start()
            code = await child.ended()
            self._has_worked = self._has_worked or child.was_ready
            if self._stop.is_set():
                return code
            if self._sources is not None:
                if self._sources.version == version:
                    say(f"process ended with {code}: waiting for a change")
                await self._unless_stopped(self._sources.changed_since(version or 0))
            elif code > 0 and not self._has_worked:
                self._give_up(code)
                return code
            else:
                pause = child.pause()
                say(f"process ended with {code}: starting it anew in {pause:g} s")
                await self._unless_stopped(asyncio.sleep(pause))
            if self._stop.is_set():
                return 0

    def _give_up(self, code: int) -> None:
        """None of them ever worked: trying again would not help."""
        self._is_hopeless = code
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[object, object, object]) -> None:
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _pass_on(self) -> None:
        """Tell all processes what we are told: to stop, then to interrupt what they do."""
        for event in (self._stop, self._interrupt):
            await event.wait()
            for child in self._children:
                child.send(signal.SIGTERM)

    async def _reload(self, sources: Sources) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if changed := await asyncio.get_running_loop().run_in_executor(None, sources.look):
                say(f"{changed} changed: starting anew")
                for child in self._children:
                    child.send(signal.SIGTERM)
                sources.tell()


def supervise(command: Sequence[str], *, processes: int, health_port: int | None, sources: Sources | None) -> int:
    """Watch over worker processes until a signal comes. Returns the exit code."""

    async def main() -> int:
        return await Supervisor(command, processes=processes, sources=sources).run(health_port)

    return asyncio.run(main())


def worker_command(*arguments: str) -> list[str]:
    """How a worker process is started."""
    return [sys.executable, "-m", "durably.cli", "worker", *arguments]
