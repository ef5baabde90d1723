"""What one run writes, in order: one write under way at a time, numbered from 1.

Step starts, logs and progress are not awaited: they ride on the run's next checkpoint, or go on their own within
20 ms, and no write overtakes them. What arrives while a write is under way goes together with the next one.
The recorder decides nothing about the run: whoever stores learns the verdict. It has no task of its own: the store
calls it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

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
from durably.runtime.flusher import Flusher

MAX_ENTRIES = 500
"""Entries that one write takes at most."""
MAX_WAITING_LOGS = 10_000
"""Log lines that may wait while the database is away; further ones are dropped, and the log says so."""

Stored: TypeAlias = "asyncio.Future[Verdict]"
Outcome: TypeAlias = Verdict | Exception
Send: TypeAlias = Callable[[RunWrite, Callable[[Verdict | None, Exception | None], None]], Callable[[], None]]
"""Stores a write and calls back after its commit. Returns the function that gives the write up."""


@dataclass(slots=True, eq=False)
class Entry:
    """One thing to write: an event, with the step that it finishes or the progress that it reports."""

    event: DraftEvent
    step: StepRecord | None = None
    progress: Progress | None = None
    stored: Stored | None = None
    """Set for those who wait for the commit."""
    outcome: Outcome | None = None
    """What became of it, for one whose wait was cancelled in the same moment."""


class Author(Protocol):
    """Whose writes these are."""

    def announce(self, entries: Sequence[Entry]) -> None:
        """These are stored now."""
        ...

    async def refused(self) -> None:
        """The lease turned out to be void. Those who wait for a verdict get it after this."""
        ...

    def write_failed(self, error: Exception) -> None:
        """A write, or what followed it, raised what trying again would not cure."""
        ...


class _Nobody:
    """The author of an execution that is over."""

    def announce(self, entries: Sequence[Entry]) -> None: ...

    async def refused(self) -> None: ...

    def write_failed(self, error: Exception) -> None: ...


_NOBODY = _Nobody()


class Recorder:
    """The writes of one lease."""

    # what most runs never need is not set for each of them
    _progress: Entry | None = None
    _logs = 0
    _dropped = 0
    _waiting = 0
    """Entries that somebody waits for."""
    _number = 0
    _under_way: list[Entry] | None = None
    _give_up: Callable[[], None] | None = None
    _refusal: asyncio.Task[None] | None = None
    """Finds out why a write was refused."""
    _refused: Sequence[Entry] = ()
    """Those who wait for that."""
    _ending: Ending | None = None
    _is_last = False
    """Whether the write under way carries the end."""
    _end: Stored | None = None
    _end_outcome: Outcome | None = None
    _quiet: asyncio.Future[None] | None = None
    _verdict = Verdict.STORED

    def __init__(
        self,
        send: Send,
        lease: Lease,
        *,
        concurrency_key: str | None,
        author: Author,
        flusher: Flusher,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._send = send
        self._lease = lease
        self._concurrency_key = concurrency_key
        self._author: Author = author
        self._flusher = flusher
        self._loop = loop
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Let this ride on the next write. Order is kept."""
        if self._verdict is Verdict.REFUSED:
            return
        if entry.event.log is not None:
            if self._logs >= MAX_WAITING_LOGS:
                self._dropped += 1
                return
            self._logs += 1
        if entry.progress is not None:
            if self._progress is not None:
                self._progress.event, self._progress.progress = entry.event, entry.progress
                return
            self._progress = entry
        self._entries.append(entry)
        if self._under_way is None:
            self._flusher.add(self)

    def store(self, entry: Entry) -> Stored:
        """Write this as soon as possible. The future has the verdict once the write is committed or refused."""
        stored = entry.stored = self._loop.create_future()
        if self._verdict is Verdict.REFUSED:
            if self._refusal is None:
                stored.set_result(self._verdict)
            else:
                self._refused = [*self._refused, entry]
            return stored
        self._entries.append(entry)
        self._waiting += 1
        if self._under_way is None:
            self._write()
        return stored

    def again(self, entry: Entry) -> Stored:
        """Another future for an entry whose future was cancelled with the task that waited for it."""
        stored = entry.stored
        if stored is None or stored.cancelled():
            is_waiting = any(entry in entries for entries in (self._entries, self._under_way or (), self._refused))
            stored = entry.stored = self._loop.create_future()
            if entry.outcome is not None:
                _tell(stored, entry.outcome)
            elif not is_waiting:
                stored.cancel() if self._verdict is Verdict.STORED else stored.set_result(self._verdict)
        return stored

    def end(self, ending: Ending) -> Stored:
        """Write what is left, and with the last of it the end of the run. Nothing else may be added after that."""
        self._end = self._loop.create_future()
        self._ending = ending
        if self._verdict is Verdict.REFUSED:
            self._conclude(self._verdict)
        elif self._under_way is None:
            self._write()
        return self._end

    def end_again(self) -> Stored:
        """Another future for the end, whose future was cancelled with the task that waited for it."""
        if self._end is None or self._end.cancelled():
            self._end = self._loop.create_future()
            if self._end_outcome is not None:
                _tell(self._end, self._end_outcome)
        return self._end

    def flush(self) -> None:
        """Write what rides without haste, now."""
        if self._under_way is None and self._entries:
            self._write()

    async def settled(self, seconds: float) -> None:
        """Return when no write is under way and its verdict was heard, at the latest after so many seconds."""
        if self._under_way is not None or self._refusal is not None:
            self._quiet = self._loop.create_future()
            await asyncio.wait({self._quiet}, timeout=seconds)
        await asyncio.sleep(0)  # callbacks of what was answered just now come first

    def discard(self) -> None:
        """Drop what is left: nothing may be written any more. A write under way is given up, it could wait for long."""
        _answer(self._drop(), Verdict.REFUSED)
        if self._give_up is not None:
            self._give_up()
        under_way, self._under_way, self._give_up = self._under_way, None, None
        for entry in under_way or ():
            if entry.stored is not None:
                entry.stored.cancel()
        if self._end is not None:
            self._end.cancel()

    def release(self) -> None:
        """Forget the author, who is done: as a cycle the two would wait for the garbage collector."""
        self._author = _NOBODY

    # --- the course of a write ------------------------------------------------------------------------------

    def _write(self) -> None:
        """Send what waits, with the end if it is all that is left."""
        entries, progress = self._take()
        self._number += 1
        self._is_last = self._ending is not None and not self._entries
        write = RunWrite(
            lease=self._lease,
            number=self._number,
            concurrency_key=self._concurrency_key,
            steps=_steps(entries),
            events=tuple([entry.event for entry in entries]),
            progress=progress,
            ending=self._ending if self._is_last else None,
        )
        self._under_way = entries
        try:
            self._give_up = self._send(write, self._answered)
        except Exception as error:  # noqa: BLE001 - told to those who wait, as if the store had said it
            self._loop.call_soon(self._answered, None, error)

    def _take(self) -> tuple[list[Entry], Progress | None]:
        """What goes with the next write, and the progress in it."""
        self._flusher.drop(self)
        self._waiting = 0
        entries, self._entries = self._entries, []
        if len(entries) > MAX_ENTRIES:
            entries, self._entries = entries[:MAX_ENTRIES], entries[MAX_ENTRIES:]
            self._waiting = sum(entry.stored is not None for entry in self._entries)
        if self._logs:
            self._logs -= sum(1 for entry in entries if entry.event.log is not None)
        progress = None
        if self._progress is not None and self._progress in entries:
            progress, self._progress = self._progress.progress, None
        if self._dropped and entries:
            entries.append(Entry(_dropped_logs(entries[-1].event, self._dropped)))
            self._dropped = 0
        return entries, progress

    def _answered(self, verdict: Verdict | None, error: Exception | None) -> None:
        """The store's word on the write under way."""
        entries, self._under_way, self._give_up = self._under_way, None, None
        if entries is None:
            return
        if error is not None:
            self._failed(entries, error)
        elif verdict is Verdict.REFUSED:
            self._refuse([*entries, *self._drop()])
        else:
            self._announce(entries)
            _answer(entries, Verdict.STORED)
            if self._is_last:
                self._conclude(Verdict.STORED)
        self._go_on()

    def _announce(self, entries: list[Entry]) -> None:
        """It is stored, whatever becomes of telling so: those who wait must hear of it."""
        try:
            self._author.announce(entries)
        except Exception as error:  # noqa: BLE001 - the border of a callback: reported, not lost
            self._author.write_failed(error)

    def _go_on(self) -> None:
        if self._under_way is not None:
            return
        is_end_due = self._ending is not None and self._end_outcome is None and self._verdict is Verdict.STORED
        if self._waiting or is_end_due:
            self._write()
            return
        if self._entries:
            self._flusher.add(self)
        if self._quiet is not None and self._refusal is None:
            self._quiet.set_result(None)
            self._quiet = None

    def _failed(self, entries: list[Entry], error: Exception) -> None:
        _answer(entries, error)
        if self._is_last:
            self._conclude(error)
        else:
            self._author.write_failed(error)

    def _conclude(self, outcome: Outcome) -> None:
        """Tell who waits for the end."""
        self._end_outcome = outcome
        if self._end is not None:
            _tell(self._end, outcome)

    def _refuse(self, entries: list[Entry]) -> None:
        """Let the author find out why before those who wait go on."""
        if self._is_last:
            _answer(entries, Verdict.REFUSED)
            self._conclude(Verdict.REFUSED)
        else:
            self._refused = entries
            self._refusal = self._loop.create_task(self._explain())

    async def _explain(self) -> None:
        try:
            await self._author.refused()
        except Exception as error:  # noqa: BLE001 - the border of a background task: reported, not lost
            self._author.write_failed(error)
        finally:
            self._refusal = None
            refused, self._refused = self._refused, ()
            _answer(refused, Verdict.REFUSED)
            self._conclude(Verdict.REFUSED)
            self._go_on()

    def _drop(self) -> list[Entry]:
        """From now on nothing is written; returns what was waiting."""
        self._verdict = Verdict.REFUSED
        self._flusher.drop(self)
        self._waiting = 0
        dropped, self._entries = self._entries, []
        return dropped


def _steps(entries: list[Entry]) -> tuple[StepRecord, ...]:
    """The steps of these entries; one that failed and ran again is one row."""
    steps = [entry.step for entry in entries if entry.step is not None]
    if len(steps) > 1:
        steps = list({step.name: step for step in steps}.values())
    return tuple(steps)


def _answer(entries: Sequence[Entry], outcome: Outcome) -> None:
    for entry in entries:
        if entry.stored is not None:
            entry.outcome = outcome
            _tell(entry.stored, outcome)


def _tell(waiting: Stored, outcome: Outcome) -> None:
    if waiting.done():
        return
    if isinstance(outcome, Exception):
        waiting.set_exception(outcome)
    else:
        waiting.set_result(outcome)


def _dropped_logs(last: DraftEvent, count: int) -> DraftEvent:
    message = f"{count} log lines were dropped here: they came faster than the database took them"
    return DraftEvent(type=EventType.LOG_WRITE, at=last.at, log=LogEntry(level="warning", message=message))
