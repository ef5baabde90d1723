"""Worker processes: `durably worker` as users start it, with real signals, and never left behind.

A worker is the leader of a process group of its own, so a signal meets nobody else; what it writes to standard error is
read as it comes, so a test can wait for a line. It ends when its standard input closes, that is also when the test's
process is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

from durably import Durably, EventType, Run
from tests.processes.points import SETTINGS, STAGE
from tests.support.stage import PATIENCE, Stage, within

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
DURABLY = "tests.processes.app:durably"
JOBS = ("tests.processes.jobs",)
READY = "worker ready"
STOPPING = "stopping: runs may end"
LOOK_SECONDS = 0.02
QUICK: dict[str, Any] = {"lease": 1.0, "poll_interval": 0.2}


class WorkerProcess:
    """One worker and what it said."""

    def __init__(self, process: asyncio.subprocess.Process, stage: Stage) -> None:
        self._process = process
        self._stage = stage
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The id of the process, and of its group."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def said(self, text: str) -> list[str]:
        """The lines with this text."""
        return [line for line in self.lines if text in line]

    async def says(self, text: str, *, count: int = 1, seconds: float = PATIENCE) -> str:
        """Return line number `count` with this text, once it was written."""
        what = f"line {count} with {text!r} of worker {self.pid}"
        await self._stage.until(lambda: len(self.said(text)) >= count or self._has_ended(), what, seconds)
        assert len(self.said(text)) >= count, f"worker {self.pid} ended without {what}:\n{self.story()}"
        return self.said(text)[count - 1]

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def freeze(self) -> None:
        """Stop it where it is, as a suspended machine does. Returns when none of its threads runs any more."""
        self.send(signal.SIGSTOP)
        await until(self._is_stopped, f"the stop of worker {self.pid}")

    def thaw(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """End it as a power cut does, with all that it may have started. Safe to repeat."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.ended()

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Return its exit code, once it has ended."""
        await self._stage.until(self._has_ended, f"the end of worker {self.pid}", seconds)
        return await self._process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = PATIENCE) -> int:
        """Tell it to stop. Returns its exit code."""
        self.send(number)
        return await self.ended(seconds)

    def story(self) -> str:
        """What it said, for messages."""
        return f"worker {self.pid} ({self._process.returncode}):\n  " + "\n  ".join(self.lines[-60:])

    async def _is_stopped(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG)  # noqa: ASYNC222 - WNOHANG does not wait
        return pid != 0 and os.WIFSTOPPED(status)

    def _has_ended(self) -> bool:
        return self._reading.done() and self._process.returncode is not None

    async def _read(self) -> None:
        stream = self._process.stderr
        while stream is not None and (line := await stream.readline()):
            self.lines.append(line.decode(errors="replace").rstrip())
            self._stage.notify()
        await self._process.wait()
        asyncio.get_running_loop().call_soon(self._stage.notify)  # when this task is done


class Workers:
    """The workers of one test, all on one database unless told otherwise."""

    def __init__(
        self,
        url: str,
        stage: Stage,
        *,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`environment` is added to the workers', `prefix` is the command that starts them, as `nice` is."""
        self._url = url
        self._stage = stage
        self._environment = environment or {}
        self._prefix = tuple(prefix)
        self._started: list[WorkerProcess] = []

    async def start(self, **options: Any) -> WorkerProcess:
        """Start a worker and wait until it works. Options are those of `launch`."""
        worker = await self.launch(**options)
        await worker.says(READY)
        return worker

    async def start_several(self, count: int, **options: Any) -> list[WorkerProcess]:
        """Start workers at once and wait until all work."""
        several = [await self.launch(**options) for _ in range(count)]
        for worker in several:
            await worker.says(READY)
        return several

    async def launch(
        self,
        *,
        jobs: Sequence[str] = JOBS,
        concurrency: int | None = None,
        grace: float | None = None,
        **settings: Any,
    ) -> WorkerProcess:
        """Start a worker. `settings` are those of `Durably`, times in seconds.

        Besides, `clock_shift` (seconds) makes its wall clock wrong, and with `waits_when_loaded` it comes to the point
        "loaded" before it connects.
        """
        options = [("--concurrency", concurrency), ("--grace", grace)]
        arguments = [str(part) for name, value in options if value is not None for part in (name, value)]
        process = await asyncio.create_subprocess_exec(
            *(*self._prefix, sys.executable),
            *("-m", "durably.cli", "worker", DURABLY, *jobs, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=os.environ
            | {STAGE: self._stage.address, SETTINGS: json.dumps({"url": self._url} | QUICK | settings)}
            | self._environment,
            start_new_session=True,
        )
        worker = WorkerProcess(process, self._stage)
        self._started.append(worker)
        return worker

    def of(self, pid: int) -> WorkerProcess:
        """The worker with this process id."""
        return next(worker for worker in self._started if worker.pid == pid)

    def others(self, *without: WorkerProcess) -> list[WorkerProcess]:
        """The living workers but these."""
        return [worker for worker in self._started if worker.is_alive and worker not in without]

    def story(self) -> str:
        """What all said, for messages."""
        return "\n".join(worker.story() for worker in self._started)

    async def close(self) -> None:
        """End all that still run; none outlives this."""
        for worker in self._started:
            await worker.kill()


async def until(is_so: Callable[[], Awaitable[T]], what: str, seconds: float = PATIENCE) -> T:
    """Return what the function returns, once that is true; it is asked again and again.

    Only for what nobody tells of, such as a lease that is renewed.
    """
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with within(seconds, what):
        while not (found := await is_so()):
            await asyncio.wait([never], timeout=LOOK_SECONDS)
    return found


async def step_started(durably: Durably, run: Run[Any], step: str) -> None:
    """Return when it is stored that a step began, which nobody awaits: then its run has nothing left to write."""
    async with within(PATIENCE, f"the start of step {step!r}"), aclosing(durably.events(run=run)) as events:
        async for event in events:
            if event.type is EventType.STEP_START and event.step == step:
                return
