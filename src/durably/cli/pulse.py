"""The sign of life of a worker process: for its own health port, and for the process that watches over it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from durably import Durably, SystemEnvironment, Worker
from durably.cli.health import Report

BEAT_SECONDS = 0.5
LOOK_SECONDS = 2.0
LOOK_WITHIN = 5.0
BLOCKED_SECONDS = 30.0
"""A loop that did not turn for so long should be killed; its leases are renewed meanwhile, from another thread."""


class Pulse:
    """What is known of the worker of this process, a moment ago. `report` may be called from any thread."""

    def __init__(self, durably: Durably, worker: Worker) -> None:
        self._durably = durably
        self._worker = worker
        self._clock = SystemEnvironment()
        self._at = self._clock.monotonic()
        self._is_answered = True
        self.is_stopping = False

    def report(self) -> Report:
        """How this process is."""
        silent = self._clock.monotonic() - self._at
        is_running = self._worker.is_running
        return Report(
            is_alive=silent < BLOCKED_SECONDS,
            is_ready=is_running and self._is_answered and not self.is_stopping,
            details={
                "process": os.getpid(),
                "running": is_running,
                "stopping": self.is_stopping,
                "database": self._is_answered,
                "loop_silent_seconds": round(silent, 1),
            },
        )

    @asynccontextmanager
    async def beating(self, pipe: int | None, orphaned: Callable[[], None]) -> AsyncGenerator[None]:
        """Keep it up to date, and write it into this pipe. `orphaned` is called when nobody reads there any more."""
        tasks = [asyncio.create_task(self._beat(pipe, orphaned)), asyncio.create_task(self._look())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self, pipe: int | None, orphaned: Callable[[], None]) -> None:
        while True:
            self._at = self._clock.monotonic()
            if pipe is not None:
                try:
                    os.write(pipe, dump(self.report()))
                except BlockingIOError:
                    pass  # whoever watches is slow: it has enough to read
                except OSError:
                    orphaned()
                    return
            await asyncio.sleep(BEAT_SECONDS)

    async def _look(self) -> None:
        while True:
            if self._worker.is_running:
                self._is_answered = await self._is_database_there()
            await asyncio.sleep(LOOK_SECONDS)

    async def _is_database_there(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_WITHIN):
                await self._durably.get_runs(limit=1)
        except Exception:  # noqa: BLE001  # the border of a background loop: whatever it is, the answer is no
            return False
        return True


def dump(report: Report) -> bytes:
    """A report as one line."""
    fields = {"is_alive": report.is_alive, "is_ready": report.is_ready, "details": report.details}
    return json.dumps(fields).encode() + b"\n"


def load(line: bytes) -> Report:
    """A report that was read from a pipe."""
    fields: dict[str, Any] = json.loads(line)
    return Report(**fields)
