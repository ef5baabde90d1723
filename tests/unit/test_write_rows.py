"""What writes come to as rows: which have a short way, and that all of them say the same either way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from durably.model import (
    DraftEvent,
    Ending,
    EventType,
    Lease,
    LogEntry,
    Progress,
    RunError,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
)
from durably.store.write_rows import WriteRows

AT = datetime(2026, 1, 2, tzinfo=UTC)
RUN = "00000000-0000-7000-8000-000000000001"
LEASE = Lease(RUN, 1)
COMPLETED = Ending(status=RunStatus.COMPLETED, output_json="1")
PROGRESS = Progress(current=1)


def step(name: str = "a", status: StepStatus = StepStatus.COMPLETED) -> StepRecord:
    return StepRecord(
        run_id=RUN,
        name=name,
        position=3,
        status=status,
        output_json="1",
        error=None,
        generation=1,
        started_at=AT,
        completed_at=AT,
    )


def event(kind: EventType, name: str | None = "a", log: LogEntry | None = None) -> DraftEvent:
    return DraftEvent(type=kind, at=AT, step=name, log=log)


START, DONE = event(EventType.STEP_START), event(EventType.STEP_COMPLETE)
LINE = event(EventType.LOG_WRITE, log=LogEntry(level="info", message="x"))
CHECKPOINT = RunWrite(lease=LEASE, number=1, steps=(step(),), events=(START, DONE))
LATE = RunWrite(lease=LEASE, number=1, steps=(step(),), events=(DONE,))
END = RunWrite(lease=LEASE, number=2, ending=COMPLETED)
OTHERS = {
    "step that failed before": RunWrite(
        lease=LEASE, number=1, steps=(replace(step(), replaces=True),), events=(START, DONE)
    ),
    "with a log line": RunWrite(lease=LEASE, number=1, steps=(step(),), events=(START, LINE, DONE)),
    "only started": RunWrite(lease=LEASE, number=1, events=(START,)),
    "failed": RunWrite(
        lease=LEASE, number=1, steps=(step(status=StepStatus.FAILED),), events=(START, event(EventType.STEP_FAIL))
    ),
    "another one's start": RunWrite(
        lease=LEASE, number=1, steps=(step(),), events=(event(EventType.STEP_START, "b"), DONE)
    ),
    "two steps": RunWrite(
        lease=LEASE, number=1, steps=(step(), step("b")), events=(DONE, event(EventType.STEP_COMPLETE, "b"))
    ),
    "with progress": RunWrite(lease=LEASE, number=1, steps=(step(),), events=(START, DONE), progress=PROGRESS),
    "step and end": RunWrite(lease=LEASE, number=1, steps=(step(),), events=(START, DONE), ending=COMPLETED),
    "keyed end": RunWrite(lease=LEASE, number=1, ending=COMPLETED, concurrency_key="k"),
    "steps not kept": RunWrite(
        lease=LEASE,
        number=1,
        ending=Ending(status=RunStatus.COMPLETED, output_json="1", keep_steps=False),
    ),
    "handed back": RunWrite(lease=LEASE, number=1, ending=Ending(status=RunStatus.PENDING)),
    "failed run": RunWrite(
        lease=LEASE,
        number=1,
        ending=Ending(status=RunStatus.FAILED, error=RunError(type="E", message="m")),
    ),
}


def counts(*writes: RunWrite) -> dict[str, int]:
    rows = WriteRows(writes)
    return {name: len(rows[name].rows) for name in rows if rows[name].rows}


@pytest.mark.parametrize("write", [CHECKPOINT, LATE], ids=["start and end", "end alone"])
def test_a_plain_step_is_one_row(write: RunWrite) -> None:
    assert counts(write) == {"checkpoints": 1, "plain": 1, "lone": 1}
    [row] = WriteRows([write])["checkpoints"].rows
    assert row[:4] == (RUN, 1, 1, len(write.events))
    assert WriteRows([write])["plain"].rows == (row,)


def test_a_plain_completion_is_one_row() -> None:
    assert counts(END) == {"completions": 1, "plain": 1, "lone": 1}
    assert WriteRows([END])["completions"].rows == ((RUN, 1, 2, "1"),)
    assert WriteRows([END])["plain"].rows == ((RUN, 1, 2, 1, None, None, "1", None, None),)


def test_plain_rows_are_those_of_a_batch_that_does_nothing_else() -> None:
    other = replace(CHECKPOINT, lease=Lease("another run", 1))
    assert counts(CHECKPOINT, replace(END, lease=other.lease)) == {
        "checkpoints": 1,
        "completions": 1,
        "plain": 2,
        "many": 2,
    }
    logs = replace(other, events=(LINE,), steps=())
    rows = WriteRows([CHECKPOINT, logs])
    assert not any(rows[name].rows for name in ("plain", "lone", "many"))
    assert len(rows["runs"].rows) == 2


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_more_takes_the_general_way(name: str) -> None:
    rows = WriteRows([OTHERS[name]])
    assert not rows["checkpoints"].rows
    assert not rows["completions"].rows
    for table in ("runs", "steps", "logs", "events", "endings", "slots", "forgotten"):
        assert rows[f"other_{table}"] == rows[table]


def test_a_run_that_writes_twice_in_a_batch_takes_the_general_way() -> None:
    assert counts(CHECKPOINT, END) == {
        "runs": 1,
        "steps": 1,
        "endings": 1,
        "other_runs": 1,
        "other_steps": 1,
        "other_endings": 1,
    }
    assert [row[:4] for row in WriteRows([CHECKPOINT, END])["runs"].rows] == [(RUN, 1, 2, 3)]


def test_events_come_from_the_rows_of_steps_only_where_a_run_has_no_others() -> None:
    line = RunWrite(lease=LEASE, number=2, events=(LINE,))
    rows = WriteRows([CHECKPOINT, line])
    assert [row[1:3] for row in rows["events"].rows] == [(1, "step:start"), (2, "step:complete"), (3, "log:write")]
    [row] = rows["steps"].rows
    assert row[8:10] == (0, None)
    logs = replace(line, lease=Lease("another run", 1))
    [row] = WriteRows([CHECKPOINT, logs])["steps"].rows
    assert row[8:10] == (2, 2)


@pytest.mark.parametrize(("write", "events", "place"), [(CHECKPOINT, 2, 4), (LATE, 1, 3)], ids=["both", "end alone"])
def test_a_row_of_a_step_says_how_many_events_it_stands_for_and_where_they_end(
    write: RunWrite, events: int, place: int
) -> None:
    second = replace(write, number=2, steps=(step("b"),), events=tuple(replace(one, step="b") for one in write.events))
    [row, other] = WriteRows([CHECKPOINT, second])["steps"].rows
    assert (row[8:10], other[8:10]) == ((2, 2), (events, place))
