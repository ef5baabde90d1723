"""The worker processes: started, frozen to be looked at, killed, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from demo.app import VARIABLE

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
STOP_SECONDS = 10.0
LAST_WORDS = 2000  # characters


class WorkerDied(Exception):
    """A worker ended that was not told to; the text has its last words."""


class Worker:
    """A process that works, and the file that it writes its log to."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, log: Path) -> None:
        self.number = number
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def freeze(self) -> None:
        """Keep it from going on."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it as a power cut would: it cannot notice. Safe to repeat."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Let it stop in good order."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await self._process.wait()

    async def while_alive(self, work: Coroutine[object, object, T]) -> T:
        """Return what `work` returns. Raises WorkerDied when the worker ends before that."""
        working = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise WorkerDied(f"worker {self.number} ended with code {ending.result()}: {self._last_words()}")
        finally:
            working.cancel()
            ending.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-LAST_WORDS:].strip() or "it wrote nothing"


class Workers:
    """The workers of one demo, by number from 1."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._started: list[Worker] = []

    async def start(self) -> Worker:
        """Start one more."""
        number = len(self._started) + 1
        log = self._folder / f"worker-{number}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "demo.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=os.environ | {VARIABLE: self._url},
            )
        worker = Worker(number, process, log)
        self._started.append(worker)
        return worker

    async def kill_all(self) -> None:
        """End those that still run."""
        for worker in self._started:
            await worker.kill()


@asynccontextmanager
async def workers_on(url: str, folder: Path) -> AsyncGenerator[Workers]:
    """Give the workers of one demo; none of them outlives it, however it ends."""
    workers = Workers(url, folder)
    try:
        yield workers
    finally:
        await workers.kill_all()
