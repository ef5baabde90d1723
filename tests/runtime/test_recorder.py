"""The writes of one run: in order, each with a higher number, few."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest

from durably.model import (
    DraftEvent,
    Ending,
    EventType,
    Lease,
    LogEntry,
    Progress,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
    Verdict,
)
from durably.runtime.flusher import Flusher
from durably.runtime.recorder import MAX_ENTRIES, MAX_WAITING_LOGS, Entry, Recorder
from tests.support.bench import eventually

AT = datetime(2024, 1, 1, tzinfo=UTC)
COMPLETED = Ending(status=RunStatus.COMPLETED, output_json="1")


class Book:
    """What a recorder wrote, and its author; `answers` are the verdicts or errors of the next writes."""

    def __init__(self) -> None:
        self.writes: list[RunWrite] = []
        self.announced: list[str] = []
        self.failed: list[Exception] = []
        self.refusals = 0
        self.given_up = 0
        self.explained: asyncio.Event | None = None
        self.is_dumb = False
        self.answers: list[Verdict | Exception] = []
        self.held: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self.recorder = Recorder(
            self._send, Lease("r", 1), concurrency_key="k", author=self, flusher=Flusher(), loop=loop
        )

    def _send(self, write: RunWrite, answer: Callable[[Verdict | None, Exception | None], None]) -> Callable[[], None]:
        self.writes.append(write)
        task = asyncio.create_task(self._answer(answer))
        return lambda: self._give_up(task)

    async def _answer(self, answer: Callable[[Verdict | None, Exception | None], None]) -> None:
        if self.held is not None:
            await asyncio.shield(self.held)
        word = self.answers.pop(0) if self.answers else Verdict.STORED
        if isinstance(word, Exception):
            answer(None, word)
        else:
            answer(word, None)

    def _give_up(self, task: asyncio.Task[None]) -> None:
        self.given_up += 1
        task.cancel()

    def announce(self, entries: Sequence[Entry]) -> None:
        if self.is_dumb:
            raise RuntimeError("cannot tell")
        self.announced += [entry.event.type for entry in entries]

    async def refused(self) -> None:
        self.refusals += 1
        if self.explained is not None:
            await self.explained.wait()

    def write_failed(self, error: Exception) -> None:
        self.failed.append(error)

    def shape(self) -> list[tuple[int, list[str], int]]:
        return [(write.number, [event.type for event in write.events], len(write.steps)) for write in self.writes]


def start(name: str = "s") -> Entry:
    return Entry(DraftEvent(type=EventType.STEP_START, at=AT, step=name))


def line(text: str = "x") -> Entry:
    return Entry(DraftEvent(type=EventType.LOG_WRITE, at=AT, log=LogEntry(level="info", message=text)))


def progress(current: int) -> Entry:
    event = DraftEvent(type=EventType.RUN_PROGRESS, at=AT, payload_json=f'{{"current":{current}}}')
    return Entry(event, progress=Progress(current=current))


def done(name: str = "s", status: StepStatus = StepStatus.COMPLETED) -> Entry:
    record = StepRecord(
        run_id="r", name=name, position=0, status=status, output_json="1", error=None, generation=1, started_at=AT,
        completed_at=AT,
    )  # fmt: skip
    return Entry(DraftEvent(type=EventType.STEP_COMPLETE, at=AT, step=name), step=record)


async def test_what_is_not_awaited_rides_on_the_next_write() -> None:
    book = Book()
    book.recorder.add(start())
    book.recorder.add(line())
    assert await book.recorder.store(done()) is Verdict.STORED
    assert book.shape() == [(1, ["step:start", "log:write", "step:complete"], 1)]
    assert book.announced == ["step:start", "log:write", "step:complete"]


async def test_it_goes_on_its_own_when_nothing_follows() -> None:
    book = Book()
    book.recorder.add(start())
    await eventually(lambda: bool(book.writes))
    assert book.shape() == [(1, ["step:start"], 0)]


async def test_parallel_steps_share_a_write_and_one_write_is_under_way_at_a_time() -> None:
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    first = book.recorder.store(done("a"))
    await asyncio.sleep(0)
    others = [book.recorder.store(done(name)) for name in "bcd"]
    await asyncio.sleep(0)
    assert len(book.writes) == 1
    book.held.set_result(None)
    assert await asyncio.gather(first, *others) == [Verdict.STORED] * 4
    assert [write.number for write in book.writes] == [1, 2]
    assert [step.name for step in book.writes[1].steps] == ["b", "c", "d"]


async def test_progress_is_coalesced_to_the_last_value() -> None:
    book = Book()
    for current in range(5):
        book.recorder.add(progress(current))
    assert await book.recorder.end(COMPLETED) is Verdict.STORED
    [write] = book.writes
    assert [event.payload_json for event in write.events] == ['{"current":4}']
    assert write.progress == Progress(current=4)
    assert write.ending == COMPLETED


async def test_progress_after_a_write_is_a_new_one() -> None:
    book = Book()
    book.recorder.add(progress(1))
    await book.recorder.store(done())
    book.recorder.add(progress(2))
    await book.recorder.end(COMPLETED)
    assert [write.progress and write.progress.current for write in book.writes] == [1, 2]


async def test_the_end_waits_for_the_write_under_way_and_comes_last() -> None:
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    stored = book.recorder.store(done())
    await asyncio.sleep(0)
    book.recorder.add(line())
    ending = book.recorder.end(COMPLETED)
    await asyncio.sleep(0)
    book.held.set_result(None)
    assert [await stored, await ending] == [Verdict.STORED, Verdict.STORED]
    assert book.shape() == [(1, ["step:complete"], 1), (2, ["log:write"], 0)]


async def test_a_step_that_failed_and_ran_again_is_one_row() -> None:
    book = Book()
    book.recorder.add(done(status=StepStatus.FAILED))
    await book.recorder.store(done())
    [write] = book.writes
    assert [step.status for step in write.steps] == [StepStatus.COMPLETED]
    assert len(write.events) == 2


async def test_a_refused_write_tells_everybody_and_nothing_is_written_after_it() -> None:
    book = Book()
    book.answers = [Verdict.REFUSED]
    assert await book.recorder.store(done()) is Verdict.REFUSED
    book.recorder.add(line())
    assert await book.recorder.store(done("t")) is Verdict.REFUSED
    assert await book.recorder.end(COMPLETED) is Verdict.REFUSED
    assert (len(book.writes), book.refusals, book.announced) == (1, 1, [])


async def test_a_refused_end_is_told_to_its_author_alone() -> None:
    book = Book()
    book.answers = [Verdict.REFUSED]
    assert await book.recorder.end(COMPLETED) is Verdict.REFUSED
    assert book.refusals == 0


async def test_an_error_reaches_who_waits_and_its_number_is_not_used_again() -> None:
    book = Book()
    book.answers = [ValueError("bad row")]
    with pytest.raises(ValueError, match="bad row"):
        await book.recorder.store(done())
    await book.recorder.store(done("t"))
    assert [write.number for write in book.writes] == [1, 2]
    assert [str(error) for error in book.failed] == ["bad row"]


async def test_an_error_of_what_nobody_waits_for_is_reported() -> None:
    book = Book()
    book.answers = [ValueError("bad line")]
    book.recorder.add(line())
    await eventually(lambda: bool(book.failed))
    assert await book.recorder.end(COMPLETED) is Verdict.STORED


async def test_a_flood_of_lines_is_written_in_pieces_and_what_is_dropped_is_counted() -> None:
    book = Book()
    for number in range(MAX_WAITING_LOGS + 7):
        book.recorder.add(line(str(number)))
    await book.recorder.end(COMPLETED)
    assert max(len(write.events) for write in book.writes) <= MAX_ENTRIES + 1
    assert [write.number for write in book.writes] == list(range(1, len(book.writes) + 1))
    logs = [event.log.message for write in book.writes for event in write.events if event.log is not None]
    assert len(logs) == MAX_WAITING_LOGS + 1
    assert sum(text.startswith("7 log lines were dropped") for text in logs) == 1


async def test_discarding_gives_up_a_write_under_way() -> None:
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    stored = book.recorder.store(done())
    await asyncio.sleep(0)
    book.recorder.discard()
    assert stored.cancelled()
    assert book.given_up == 1


async def test_discarding_drops_what_was_not_sent() -> None:
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    under_way, waiting = book.recorder.store(done("a")), book.recorder.store(done("b"))
    book.recorder.discard()
    assert under_way.cancelled()
    assert await waiting is Verdict.REFUSED
    assert len(book.writes) == 1


async def test_a_wait_that_was_cancelled_can_be_taken_up_again() -> None:
    """The write goes on; its verdict comes to the new future."""
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    first, second = done("a"), done("b")
    for entry in (first, second):  # one is under way, one waits for it
        book.recorder.store(entry).cancel()
    again = [book.recorder.again(entry) for entry in (first, second)]
    book.held.set_result(None)
    assert await asyncio.gather(*again) == [Verdict.STORED, Verdict.STORED]
    assert await book.recorder.again(first) is Verdict.STORED


async def test_an_end_during_a_write_is_not_told_before_it_is_stored() -> None:
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    stored = book.recorder.store(done())
    end = book.recorder.end(COMPLETED)
    book.held.set_result(None)
    assert await stored is Verdict.STORED
    assert not end.done()
    assert await end is Verdict.STORED
    assert [write.ending for write in book.writes] == [None, COMPLETED]


async def test_what_is_stored_is_told_to_those_who_wait_even_if_it_cannot_be_announced() -> None:
    book = Book()
    book.is_dumb = True
    assert await book.recorder.store(done()) is Verdict.STORED
    assert [str(error) for error in book.failed] == ["cannot tell"]


async def test_who_writes_while_a_refusal_is_being_explained_waits_for_that() -> None:
    """Else the author would be told of a lost lease where the run was cancelled."""
    book = Book()
    book.answers, book.explained = [Verdict.REFUSED], asyncio.Event()
    first = book.recorder.store(done("a"))
    await eventually(lambda: book.refusals == 1)
    later = done("b")
    second = book.recorder.store(later)
    await asyncio.sleep(0)
    assert not first.done()
    assert not second.done()
    second.cancel()
    again = book.recorder.again(later)
    book.explained.set()
    assert [await first, await again] == [Verdict.REFUSED, Verdict.REFUSED]
    assert book.refusals == 1


async def test_a_verdict_that_comes_in_the_moment_of_a_cancel_is_not_lost() -> None:
    """The future is cancelled before its task runs again; the store answers in between."""
    book = Book()
    stored, refused = done("a"), done("b")
    book.recorder.store(stored).cancel()
    await eventually(lambda: bool(book.announced))
    assert await book.recorder.again(stored) is Verdict.STORED
    end = book.recorder.end(COMPLETED)
    end.cancel()
    await eventually(lambda: stored.outcome is not None and len(book.writes) == 2)
    await asyncio.sleep(0)
    async with asyncio.timeout(40):
        assert await book.recorder.end_again() is Verdict.STORED
    other = Book()
    other.answers = [Verdict.REFUSED]
    other.recorder.store(refused).cancel()
    await eventually(lambda: refused.outcome is not None)
    assert await other.recorder.again(refused) is Verdict.REFUSED


async def test_an_end_whose_wait_is_cancelled_behind_another_write_is_stored_all_the_same() -> None:
    book = Book()
    book.held = asyncio.get_running_loop().create_future()
    book.recorder.store(done())
    book.recorder.end(COMPLETED).cancel()
    book.held.set_result(None)
    await eventually(lambda: len(book.writes) == 2)
    async with asyncio.timeout(40):
        assert await book.recorder.end_again() is Verdict.STORED
    assert book.writes[1].ending == COMPLETED
