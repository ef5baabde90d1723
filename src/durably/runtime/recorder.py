"""What one run writes, in order: one write under way at a time, numbered from 1.

Step starts, logs and progress are not awaited: they ride on the run's next checkpoint, or go on their own within
20 ms, and no write overtakes them. What arrives while a write is under way goes together with the next one.
The recorder decides nothing about the run: whoever stores learns the verdict.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from durably.model import (
    DraftEvent,
    Ending,
    EventType,
    Lease,
    LogEntry,
    Progress,
    RunWrite,
    StepRecord,
    Verdict,
)

FLUSH_SECONDS = 0.02
MAX_ENTRIES = 500
"""Entries that one write takes at most."""
MAX_WAITING_LOGS = 10_000
"""Log lines that may wait while the database is away; further ones are dropped, and the log says so."""


@dataclass(slots=True, eq=False)
class Entry:
    """One thing to write: an event, with the step that it finishes or the progress that it reports."""

    event: DraftEvent
    step: StepRecord | None = None
    progress: Progress | None = None
    stored: asyncio.Future[Verdict] | None = None
    """Set for those who wait for the commit."""


Store = Callable[[RunWrite], Awaitable[Verdict]]


class Recorder:
    """The writes of one lease. `announce` gets what was stored, `refused` is awaited when the lease turns out void."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        concurrency_key: str | None,
        announce: Callable[[Entry], None],
        refused: Callable[[], Awaitable[None]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._lease = lease
        self._concurrency_key = concurrency_key
        self._announce = announce
        self._refused = refused
        self._failed = failed
        self._entries: deque[Entry] = deque()
        self._progress: Entry | None = None
        self._logs = 0
        self._dropped = 0
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pump: asyncio.Task[None] | None = None
        self._verdict = Verdict.STORED

    def add(self, entry: Entry) -> None:
        """Let this ride on the next write. Order is kept."""
        if self._verdict is Verdict.REFUSED:
            return
        if entry.event.log is not None:
            self._logs += 1
            if self._logs > MAX_WAITING_LOGS:
                self._logs -= 1
                self._dropped += 1
                return
        if entry.progress is not None and self._progress is not None:
            self._progress.event, self._progress.progress = entry.event, entry.progress
            return
        if entry.progress is not None:
            self._progress = entry
        self._entries.append(entry)
        if self._pump is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start)

    def store(self, entry: Entry) -> asyncio.Future[Verdict]:
        """Write this as soon as possible. The future has the verdict once the write is committed or refused."""
        stored: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        if self._verdict is Verdict.REFUSED:
            stored.set_result(self._verdict)
            return stored
        entry.stored = stored
        self._entries.append(entry)
        self._start()
        return stored

    async def end(self, ending: Ending) -> Verdict:
        """Write what is left, and with the last of it the end of the run. Nothing else may be added after that."""
        await self._idle()
        while len(self._entries) > MAX_ENTRIES and self._verdict is Verdict.STORED:
            await self._write_next()
        if self._verdict is Verdict.REFUSED:
            return self._verdict
        return await self._write_next(ending)

    async def settled(self, seconds: float) -> None:
        """Return when no write is under way and its verdict was heard, at the latest after so many seconds."""
        if self._pump is not None:
            await asyncio.wait({self._pump}, timeout=seconds)
        await asyncio.sleep(0)  # callbacks of what was answered just now come first

    async def discard(self) -> None:
        """Drop what is left: nothing may be written any more. A write under way is given up, it could wait for long."""
        _answer(self._drop(), Verdict.REFUSED)
        if self._pump is not None:
            self._pump.cancel()
        await self._idle()

    async def _idle(self) -> None:
        """Wait until no write is under way, and keep the timer from starting one."""
        self._stop_timer()
        while (pump := self._pump) is not None:
            await asyncio.wait({pump})
            if self._pump is pump:  # cancelled before it began, so it could not say that it ended
                self._pump = None
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._stop_timer()
        if self._pump is None and self._entries:
            self._pump = asyncio.get_running_loop().create_task(self._run(), name=f"durably-write-{self._lease.run_id}")

    async def _run(self) -> None:
        """Write until nobody waits any more. What rides without haste is left to the timer."""
        try:
            await self._write_next()
            while any(entry.stored is not None for entry in self._entries):
                await self._write_next()
        except Exception as error:  # noqa: BLE001 - the border of a background task: reported, not lost
            self._failed(error)
        finally:
            self._pump = None
            if self._entries and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start)

    async def _write_next(self, ending: Ending | None = None) -> Verdict:
        entries = self._take()
        self._number += 1
        write = RunWrite(
            lease=self._lease,
            number=self._number,
            concurrency_key=self._concurrency_key,
            # a step that failed and ran again is one row
            steps=tuple({entry.step.name: entry.step for entry in entries if entry.step is not None}.values()),
            events=tuple(entry.event for entry in entries),
            progress=next((entry.progress for entry in reversed(entries) if entry.progress is not None), None),
            ending=ending,
        )
        try:
            verdict = await self._store(write)
        except BaseException as error:
            _fail(entries, error)
            raise
        await self._settle(entries, verdict, is_ending=ending is not None)
        return verdict

    def _take(self) -> list[Entry]:
        entries = [self._entries.popleft() for _ in range(min(len(self._entries), MAX_ENTRIES))]
        self._logs -= sum(1 for entry in entries if entry.event.log is not None)
        if self._progress is not None and self._progress in entries:
            self._progress = None
        if self._dropped and entries:
            entries.append(Entry(_dropped_logs(entries[-1].event, self._dropped)))
            self._dropped = 0
        return entries

    async def _settle(self, entries: list[Entry], verdict: Verdict, *, is_ending: bool) -> None:
        if verdict is Verdict.REFUSED:
            entries.extend(self._drop())
            if not is_ending:
                await self._refused()
        else:
            for entry in entries:
                self._announce(entry)
        _answer(entries, verdict)

    def _drop(self) -> list[Entry]:
        """From now on nothing is written; returns what was waiting."""
        self._verdict = Verdict.REFUSED
        self._stop_timer()
        dropped, self._entries = list(self._entries), deque()
        return dropped


def _answer(entries: list[Entry], verdict: Verdict) -> None:
    for entry in entries:
        if entry.stored is not None and not entry.stored.done():
            entry.stored.set_result(verdict)


def _fail(entries: list[Entry], error: BaseException) -> None:
    for entry in entries:
        if entry.stored is None or entry.stored.done():
            continue
        if isinstance(error, Exception):
            entry.stored.set_exception(error)
        else:
            entry.stored.cancel()


def _dropped_logs(last: DraftEvent, count: int) -> DraftEvent:
    message = f"{count} log lines were dropped here: they came faster than the database took them"
    return DraftEvent(type=EventType.LOG_WRITE, at=last.at, log=LogEntry(level="warning", message=message))
