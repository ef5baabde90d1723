"""The named SQL: which parts of a statement are sent, and how a batch becomes arguments for PostgreSQL."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from durably.model import Ending, EventType, Lease, LogEntry, RunStatus, RunWrite, StepRecord, StepStatus
from durably.model.written import DraftEvent
from durably.store import catalogue, steps
from durably.store.catalogue import Sql, chosen, conditions
from durably.store.operation import Batch
from durably.store.postgres_bind import Block

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
RUN = "00000000-0000-7000-8000-000000000001"

NESTED = """SELECT :a
-- if: one
, :b
-- if: two or three
, :c
-- end
-- end
FROM x"""


def sql(text: str, only_if: str | None = None) -> Sql:
    return Sql(text, (), only_if)


@pytest.mark.parametrize(
    ("filled", "params"),
    [
        ([], ("a",)),
        (["two"], ("a",)),
        (["one"], ("a", "b")),
        (["one", "three"], ("a", "b", "c")),
        (["one", "two", "three"], ("a", "b", "c")),
    ],
)
def test_parts_of_a_statement_are_there_when_their_batch_has_rows(filled: list[str], params: tuple[str, ...]) -> None:
    found = chosen(sql(NESTED), filled)
    assert found is not None
    assert found.params == params
    assert "--" not in found.text


def test_a_statement_depends_on_the_batches_that_it_names() -> None:
    assert conditions(sql(NESTED)) == {"one", "two", "three"}
    assert conditions(sql("SELECT 1", only_if="four")) == {"four"}


def test_a_whole_statement_may_depend_on_a_batch() -> None:
    assert chosen(sql("SELECT 1", only_if="one"), []) is None
    assert chosen(sql("SELECT 1", only_if="one"), ["one"]) is not None


@pytest.mark.parametrize("text", ["SELECT 1\n-- if: one", "SELECT 1\n-- end", "-- if: one\n-- end\n-- end"])
def test_parts_that_do_not_end_are_noticed(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        chosen(sql(text), ["one"])


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_part_of_every_statement_ends(dialect: str) -> None:
    for block in catalogue.load(dialect, "").values():
        for each in block:
            assert "--" not in getattr(chosen(each, conditions(each)), "text", "--")


# --- what is sent for a write ------------------------------------------------------------------------


def step(status: StepStatus = StepStatus.COMPLETED) -> StepRecord:
    return StepRecord(
        run_id=RUN,
        name="a",
        position=0,
        status=status,
        output_json="1",
        error=None,
        generation=1,
        started_at=AT,
        completed_at=AT,
    )


def event(kind: EventType, log: LogEntry | None = None) -> DraftEvent:
    return DraftEvent(type=kind, at=AT, step="a", log=log)


def sent(*writes: RunWrite) -> str:
    [statement] = steps.write_fast.build(writes).statements
    [(text, arguments)] = Block(catalogue.load("postgres", "")["write_runs"]).bind(statement.params)
    assert len(arguments) == len(set(re.findall(r"\$\d+", text)))
    return text


def writes(text: str) -> list[str]:
    return re.findall(r"(?:INSERT INTO|UPDATE|DELETE FROM) [a-z_]+", text.replace("FOR NO KEY UPDATE", ""))


STARTED_AND_DONE = (event(EventType.STEP_START), event(EventType.STEP_COMPLETE))
END = Ending(status=RunStatus.COMPLETED, output_json="1")


def test_a_plain_checkpoint_does_no_more_than_it_has_to() -> None:
    text = sent(RunWrite(lease=Lease(RUN, 1), number=1, steps=(step(),), events=STARTED_AND_DONE))
    assert writes(text) == ["UPDATE runs", "INSERT INTO steps", "INSERT INTO events"]
    changed = text[text.index("SET") : text.index("FROM")]
    assert not re.findall(r"\b(?:status|slot|completed_at|lease_\w+|output) =", changed)


def test_a_plain_end_writes_the_run_and_its_event() -> None:
    text = sent(RunWrite(lease=Lease(RUN, 1), number=1, ending=END))
    assert writes(text) == ["UPDATE runs", "INSERT INTO events"]
    assert "completed_steps" not in text


def test_several_plain_writes_are_one_statement() -> None:
    checkpoint = RunWrite(lease=Lease(RUN, 1), number=1, steps=(step(),), events=STARTED_AND_DONE)
    end = RunWrite(lease=Lease("another run", 1), number=1, ending=END)
    assert writes(sent(checkpoint, end)) == ["UPDATE runs", "INSERT INTO steps", "INSERT INTO events"]


def test_progress_writes_the_run_alone() -> None:
    assert writes(sent(RunWrite(lease=Lease(RUN, 1), number=1))) == ["UPDATE runs"]


def test_what_else_a_write_holds_is_written_too() -> None:
    line = event(EventType.LOG_WRITE, LogEntry(level="info", message="m", data_json=None))
    forgetting = Ending(status=RunStatus.COMPLETED, output_json="1", keep_steps=False)
    write = RunWrite(
        lease=Lease(RUN, 1), number=1, steps=(step(),), events=(line,), ending=forgetting, concurrency_key="k"
    )
    assert sorted(writes(sent(write))) == [
        "DELETE FROM steps",
        "INSERT INTO events",
        "INSERT INTO logs",
        "INSERT INTO steps",
        "UPDATE concurrency_keys",
        "UPDATE runs",
    ]


# --- arguments ---------------------------------------------------------------------------------------


def arguments(text: str, **params: Batch | str) -> list[object]:
    [(_, found)] = Block([Sql(text, tuple(dict.fromkeys(re.findall(r":([a-z]\w*)(?=::)", text))), None)]).bind(params)
    return found


@pytest.mark.parametrize(
    ("cast", "cells", "argument"),
    [
        ("text[]", ("a", None), ("a", None)),
        ("text[]", (None, None), None),
        ("text::text[]", ("completed", "failed"), "{completed,failed}"),
        ("text::uuid[]", (RUN,), f"{{{RUN}}}"),
        ("text::integer[]", (1, -2), "{1, -2}"),
        ("text::integer[]", (1,), "{1}"),
        ("text::integer[]", (1, None), "{1, NULL}"),
        ("text::integer[]", (None, None), None),
        ("text::bigint[]", (2**40,), f"{{{2**40}}}"),
        ("text::timestamptz[]", (AT, None), "{2026-01-02T03:04:05.000678+00:00,NULL}"),
        ("text::timestamptz[]", (None,), None),
    ],
)
def test_a_column_is_sent_as_its_cast_says(cast: str, cells: tuple[object, ...], argument: object) -> None:
    batch = Batch(("unused", "c"), tuple(("x", cell) for cell in cells))  # type: ignore[misc] # pyright: ignore[reportArgumentType] - cells of any kind
    assert arguments(f"SELECT :items_c::{cast}", items=batch) == [argument]


def test_an_empty_batch_is_sent_as_empty_arrays() -> None:
    text = "SELECT :items_c::text[], :items_d::text::uuid[], :owner::text"
    assert arguments(text, items=Batch(("c", "d"), ()), owner="me") == [(), "{}", "me"]
