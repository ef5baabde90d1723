"""A transaction as rows of one INSERT: what is bound, how many statements there are, and what comes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from durably.store import sqlite_calls
from durably.store.catalogue import Sql
from durably.store.operation import Batch
from durably.store.sqlite_calls import Block, Calls, Part

AT = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
SAVE = Sql(
    "INSERT INTO saved (name, at, mark) VALUES (:name, :made_at, :mark)", ("name", "made_at", "mark"), None, "items"
)
REFUSE = Sql("SELECT RAISE(IGNORE) WHERE :name = 'no'", ("name",), None, "items")
TELL = Sql("SELECT durably_rows(:block, 'name, n', json_array(json_array('a', 1)))", ("block",), None)


@pytest.fixture
def calls() -> Iterator[Calls]:
    raw = sqlite3.connect(":memory:", isolation_level=None)
    raw.execute("CREATE TABLE saved (name, at, mark)")
    yield Calls(raw)
    raw.close()


def items(*names: str) -> dict[str, Batch]:
    return {"items": Batch(("unused", "made_at", "name"), tuple((0, AT, name) for name in names))}


def scalar(name: str) -> object:
    return {"mark": "m", "block": 7}[name]


def run(calls: Calls, part: Part, params: dict[str, Batch]) -> int:
    calls.learn([part])
    statements = calls.statements([found] if (found := part.calls(params, scalar)) else [])
    for text, values in statements:
        calls.raw.execute(text, values)
    return len(statements)


def saved(calls: Calls) -> list[tuple[object, ...]]:
    return calls.raw.execute("SELECT name, at, mark FROM saved").fetchall()


def test_a_part_is_called_once_a_row_of_its_batch(calls: Calls) -> None:
    assert run(calls, Part(1, [SAVE], items()), items("a", "b", "c")) == 1
    assert saved(calls) == [("a", 1_000_000, "m"), ("b", 1_000_000, "m"), ("c", 1_000_000, "m")]


def test_a_row_that_is_refused_does_nothing_more_and_the_others_go_on(calls: Calls) -> None:
    run(calls, Part(1, [REFUSE, SAVE], items()), items("a", "no", "b"))
    assert [row[0] for row in saved(calls)] == ["a", "b"]


def test_an_empty_batch_is_no_call(calls: Calls) -> None:
    assert run(calls, Part(1, [SAVE], items()), items()) == 0
    assert saved(calls) == []


def test_what_is_run_once_for_a_batch_is_not_when_that_is_empty(calls: Calls) -> None:
    once = Sql("INSERT INTO saved (name, mark) VALUES ('once', :mark)", ("mark",), "items")
    part = Part(2, [once], items())
    assert run(calls, part, items()) == 0
    assert run(calls, part, items("a", "b")) == 1
    assert saved(calls) == [("once", None, "m")]


def test_parts_of_any_width_share_a_statement(calls: Calls) -> None:
    name = Sql("INSERT INTO saved (name) VALUES (:name)", ("name",), None, "items")
    parts = [Part(1, [SAVE], items()), Part(2, [name], items()), Part(3, [TELL], {})]
    calls.learn(parts)
    given = [items("a", "b"), items("c", "d", "e"), items()]
    [(text, values)] = calls.statements([part.calls(params, scalar) for part, params in zip(parts, given, strict=True)])
    calls.raw.execute(text, values)
    both = (1_000_000, "m")
    assert saved(calls) == [("a", *both), ("b", *both), *((name, None, None) for name in "cde")]
    [row] = calls.found(7)
    assert (row["name"], row["n"]) == ("a", 1)


def test_a_time_that_is_not_there_stays_away(calls: Calls) -> None:
    run(
        calls, Part(1, [SAVE], items()), {"items": Batch(("unused", "made_at", "name"), ((0, None, "a"), (0, AT, "b")))}
    )
    assert saved(calls) == [("a", None, "m"), ("b", 1_000_000, "m")]


def test_rows_come_back_by_block(calls: Calls) -> None:
    run(calls, Part(2, [TELL], {}), {})
    [row] = calls.found(7)
    assert (row["name"], row["n"]) == ("a", 1)
    assert calls.found(6) == ()
    calls.forget()
    assert calls.found(7) == ()


@pytest.mark.parametrize("count", [*range(1, 20), 33, 100, 999])
def test_rows_that_fill_up_a_statement_call_nothing(calls: Calls, count: int) -> None:
    run(calls, Part(1, [SAVE], items()), items(*map(str, range(count))))
    assert len(saved(calls)) == count


COLLECT = Sql(
    "INSERT INTO durably_collected (job, id) VALUES (:made_at, :name)",
    ("made_at", "name"),
    None,
    "items",
    is_ahead=True,
)


def collected(calls: Calls, part: Part, *names: str) -> list[str]:
    """Collect rows; returns what a later part finds."""
    calls.learn([part])
    rows = part.collects(part.calls(items(*names), scalar))
    assert rows is not None
    calls.collect([Block(parts=(part,), collected=[rows])])
    found = calls.raw.execute("SELECT id, job FROM durably_collected WHERE id IS NOT NULL").fetchall()
    assert {row[1] for row in found} == {1_000_000}
    return [row[0] for row in found]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a row be many."""
    monkeypatch.setattr(sqlite_calls, "_MANY", 1)


def test_a_few_rows_are_collected_by_calls(calls: Calls) -> None:
    part = Part(1, [COLLECT], items())
    few = part.calls(items("a", "b"), scalar)
    assert part.collects(few) is None
    calls.learn([part])
    [(text, values)] = calls.statements([few])
    calls.raw.execute(text, values)
    assert calls.raw.execute("SELECT id, job FROM durably_collected").fetchall() == [("a", 1_000_000), ("b", 1_000_000)]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("count", [1, 9, 100])
def test_what_is_collected_ahead_is_there_row_by_row(calls: Calls, count: int) -> None:
    names = [str(number) for number in range(count)]
    assert collected(calls, Part(1, [COLLECT], items()), *names) == names


@pytest.mark.usefixtures("few")
def test_what_was_collected_for_a_transaction_that_failed_is_dropped(calls: Calls) -> None:
    part = Part(1, [COLLECT], items())
    calls.drop_collected()
    assert collected(calls, part, "a", "b") == ["a", "b"]
    calls.drop_collected()
    assert collected(calls, part, "c") == ["c"]


@pytest.mark.usefixtures("few")
def test_more_than_one_statement_can_hold_is_collected_by_several(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_calls, "_MOST_VALUES", 7)
    assert collected(calls, Part(1, [COLLECT], items()), *"abcde") == [*"abcde"]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO durably_runs (id) VALUES (:name)",
        "INSERT INTO durably_collected (id, job) VALUES (:name, :mark)",
        "DELETE FROM durably_collected WHERE id = :name",
    ],
)
def test_nothing_but_rows_for_a_table_of_the_connections_own_is_done_ahead(text: str) -> None:
    params = tuple(name for name in ("name", "mark") if f":{name}" in text)
    with pytest.raises(ValueError, match="ahead"):
        Part(1, [Sql(text, params, None, "items", is_ahead=True)], items())


def test_many_batches_share_few_statements(calls: Calls) -> None:
    part = Part(1, [SAVE], items())
    texts = {
        text for count in range(1, 1001) for text, _ in calls.statements([part.calls(items(*["x"] * count), scalar)])
    }
    assert len(texts) <= 64


def test_what_one_statement_cannot_hold_is_several(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_calls, "_MOST_VALUES", 12)
    assert run(calls, Part(1, [SAVE], items()), items("a", "b", "c", "d")) == 2
    assert [row[0] for row in saved(calls)] == ["a", "b", "c", "d"]


def test_no_statement_takes_more_values_than_sqlite_does(calls: Calls) -> None:
    statements = calls.statements([[[1] * 5000] + [[None] * 5000] * 18])
    assert max(len(values) for _, values in statements) <= 32766
