"""The proof fails when there is something to find."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from demo.proof import Check, Moment, check_events, check_executions, check_rows, finished_batches, step_of
from demo.source import Plan, make_plan, read_all, read_batch
from demo.sqlite import SqliteTables
from demo.tables import Execution, contents_of
from durably import Event, EventType

ROWS = 20


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "numbers.csv"
    path.write_text("id,square\n" + "".join(f"{number},{number**2}\n" for number in range(ROWS)))
    return make_plan(str(path))


async def import_all(plan: Plan, path: Path) -> SqliteTables:
    tables = SqliteTables(str(path))
    await tables.create(plan.columns)
    for batch in plan.batches:
        await tables.insert(batch.first_row, read_batch(plan, batch), batch=batch.index, attempt=1)
    return tables


def rows_proved(plan: Plan, path: Path, *damage: str) -> list[bool]:
    tables = asyncio.run(import_all(plan, path))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in damage:
            connection.execute(statement)
    return [check.holds for check in check_rows(contents_of(read_all(plan)), asyncio.run(tables.contents()))]


WITHOUT_KEY = (
    "ALTER TABLE imported_rows RENAME TO old",
    "CREATE TABLE imported_rows AS SELECT * FROM old",
)


@pytest.mark.parametrize(
    ("damage", "count", "numbers", "digest"),
    [
        ([], True, True, True),
        (["DELETE FROM imported_rows WHERE row_number = 7"], False, False, False),
        (["INSERT INTO imported_rows VALUES (99, '7', '49')"], False, False, False),
        ([*WITHOUT_KEY, "INSERT INTO imported_rows SELECT * FROM old WHERE id = '7'"], False, False, False),
        (
            [*WITHOUT_KEY, "UPDATE imported_rows SET (row_number, id, square) = (8, '7', '49') WHERE row_number = 7"],
            True,
            False,
            False,
        ),
        (["UPDATE imported_rows SET square = '50' WHERE id = '7'"], True, True, False),
        (["UPDATE imported_rows SET square = NULL WHERE id = '7'"], True, True, False),
    ],
    ids=["whole", "missing", "more", "doubled", "doubled for another", "changed", "emptied"],
)
def test_a_damaged_table_is_found(
    tmp_path: Path, plan: Plan, damage: list[str], *, count: bool, numbers: bool, digest: bool
) -> None:
    assert rows_proved(plan, tmp_path / "demo.db", *damage) == [count, numbers, digest]


def test_a_repeated_insert_changes_nothing(tmp_path: Path, plan: Plan) -> None:
    asyncio.run(import_all(plan, tmp_path / "demo.db"))
    assert rows_proved(plan, tmp_path / "demo.db") == [True, True, True]


def executions(first: Iterable[int], second: Iterable[int], *, uncommitted: int | None = None) -> list[Execution]:
    """Batches in the order in which each worker started them; the first one died before `uncommitted` committed."""
    who = [(1, batch) for batch in first] + [(2, batch) for batch in second]
    return [
        Execution(id=id, batch=batch, attempt=attempt, committed=(attempt, batch) != (1, uncommitted))
        for id, (attempt, batch) in enumerate(who, start=1)
    ]


def executions_proved(plan: Plan, found: list[Execution], *, finished: Iterable[int]) -> list[Check]:
    before = tuple(execution for execution in found if execution.attempt == 1)
    return check_executions(plan, Moment(finished=frozenset(finished), executions=before), found)


def test_an_interrupted_step_may_start_twice(plan: Plan) -> None:
    checks = executions_proved(plan, executions(range(8), range(7, ROWS)), finished=range(7))
    assert [check.holds for check in checks] == [True, True, True]
    assert "insert[7] was started twice: it died between commit and checkpoint" in checks[2].text


def test_a_step_that_died_before_its_commit_may_start_twice(plan: Plan) -> None:
    checks = executions_proved(plan, executions(range(8), range(7, ROWS), uncommitted=7), finished=range(7))
    assert [check.holds for check in checks] == [True, True, True]
    assert checks[2].text == "insert[7] was started twice"


def test_a_finished_step_that_starts_again_is_found(plan: Plan) -> None:
    checks = executions_proved(plan, executions(range(8), range(6, ROWS)), finished=range(7))
    assert [check.holds for check in checks] == [True, False, False]
    assert "7 steps were finished when the worker died, 1 of them started again" in checks[1].text
    assert "insert[6]" in checks[1].text


def test_a_step_that_starts_three_times_is_found(plan: Plan) -> None:
    checks = executions_proved(plan, executions(range(8), [7, *range(7, ROWS)]), finished=range(7))
    assert [check.holds for check in checks] == [True, True, False]
    assert "insert[7] was started up to 3 times" in checks[2].text


def test_a_batch_that_was_left_out_is_found(plan: Plan) -> None:
    checks = executions_proved(plan, executions(range(8), range(9, ROWS)), finished=range(8))
    assert [check.holds for check in checks] == [False, True, True]
    assert checks[0].text == "19 of 20 batches committed (missing: insert[8])"


def completions(batches: Iterable[int], *, first: int = 1) -> list[Event]:
    return [
        Event(type=EventType.STEP_COMPLETE, run_id="1", job="import-csv", labels={}, step=step_of(batch), seq=seq)
        for seq, batch in enumerate(batches, start=first)
    ]


def test_events_are_whole(plan: Plan) -> None:
    assert [check.holds for check in check_events(plan, completions(range(ROWS)))] == [True, True]


def test_a_gap_in_the_events_is_found(plan: Plan) -> None:
    events = [*completions(range(5)), *completions(range(5, ROWS), first=7)]
    assert [check.holds for check in check_events(plan, events)] == [False, True]


def test_a_step_that_completed_twice_is_found(plan: Plan) -> None:
    assert [check.holds for check in check_events(plan, completions([*range(ROWS), 3]))] == [True, False]


def test_batches_are_found_among_steps() -> None:
    assert finished_batches(["plan", "insert[0]", "create-tables", "insert[12]"]) == {0, 12}
