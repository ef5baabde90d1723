"""Many new runs: each as it would be alone, whether they are kept as columns or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeGuard

import pytest
from pydantic import BaseModel

from durably import Step, TriggerItem, ValidationError, job
from durably.environment import SystemEnvironment
from durably.jobs import Target, build_run
from durably.model import NewRun, PlainRuns
from durably.runtime.bulk import CHUNK, build_runs
from durably.store import runs

LIMIT = 1 << 20


class Order(BaseModel):
    """An input with a type of its own."""

    number: int
    note: str = ""


@job("plain")
async def plain(_step: Step, input: int) -> int:
    return input


@job("ordering")
async def ordering(_step: Step, input: Order) -> int:
    return input.number


@job("prepared", priority=3, labels=lambda number: {"number": str(number)})
async def prepared(_step: Step, input: int) -> int:
    return input


def ids(count: int) -> list[str]:
    return SystemEnvironment().new_ids(count)


def built(target: Target[Any, Any] | str, items: Sequence[object]) -> list[Sequence[NewRun]]:
    return build_runs(target, items, ids=ids(len(items)), max_bytes=LIMIT)


def is_item(item: object) -> TypeGuard[TriggerItem[object]]:
    return isinstance(item, TriggerItem)


@pytest.mark.parametrize(
    ("target", "items", "are_columns"),
    [
        (plain, [1, 2, 3], True),
        ("elsewhere", [{"a": [1, None, "é"]}, 2], True),
        (ordering, [{"number": 1}, {"number": 2, "note": "x"}], True),
        (ordering, [Order(number=1), {"number": 2}], False),
        (prepared, [1, 2], False),
        (plain, [1, TriggerItem(2)], False),
        (plain, [TriggerItem(1, priority=1), TriggerItem(2, labels={"a": "b"})], False),
    ],
)
def test_each_is_built_as_it_would_be_alone(
    target: Target[Any, Any] | str, items: list[object], *, are_columns: bool
) -> None:
    [chunk] = built(target, items)
    assert isinstance(chunk, PlainRuns) == are_columns
    for item, run in zip(items, chunk, strict=True):
        more = item if is_item(item) else TriggerItem(item)
        assert run == build_run(target, more.input, id=run.id, max_bytes=LIMIT, options=more.options())


def test_many_are_built_in_chunks_and_in_order() -> None:
    chunks = built(plain, range(2 * CHUNK + 1))
    assert [len(chunk) for chunk in chunks] == [CHUNK, CHUNK, 1]
    assert [run.input_json for run in chain.from_iterable(chunks)] == [str(n) for n in range(2 * CHUNK + 1)]
    made = [run.id for run in chain.from_iterable(chunks)]
    assert made == sorted(set(made))


@pytest.mark.parametrize("place", [0, CHUNK, CHUNK + 7])
def test_an_input_that_does_not_fit_is_named_by_its_place_among_all(place: int) -> None:
    items: list[object] = list(range(CHUNK + 8))
    items[place] = "no number"
    with pytest.raises(ValidationError) as raised:
        built(plain, items)
    assert raised.value.field == f"items[{place}].input"


def test_nothing_is_built_of_nothing() -> None:
    assert built(plain, []) == []


def test_columns_are_a_sequence_of_runs() -> None:
    columns = PlainRuns("a job", ["1", "2", "3"], ["10", "20", "30"])
    one_by_one = [NewRun(id=str(n), job="a job", input_json=f"{n}0") for n in (1, 2, 3)]
    assert list(columns) == one_by_one
    assert len(columns) == 3
    assert (columns[0], columns[-1]) == (one_by_one[0], one_by_one[-1])
    assert list(columns[1:]) == one_by_one[1:]
    assert list(columns[1:].rows()) == [("2", "a job", "20"), ("3", "a job", "30")]
    with pytest.raises(IndexError):
        columns[3]


def test_columns_are_stored_by_what_stores_the_same_runs_one_by_one() -> None:
    columns = PlainRuns("a job", ["1", "2"], ["10", "20"])
    assert runs.enqueue.take(columns) == 2
    statements = [runs.enqueue.build(items).plan() for items in (columns, list(columns))]
    assert statements[0] == statements[1]
    assert [statement.name for statement in statements[0]] == ["insert_new_runs"]
