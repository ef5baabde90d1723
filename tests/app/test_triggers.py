"""What a trigger stores, and what it refuses."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from durably.app import Durably
from durably.errors import (
    IdempotencyConflict,
    PendingRunExists,
    RunNotFound,
    SerializationError,
    ValidationError,
    WrongStatus,
)
from durably.jobs import JobRef, job
from durably.model import Disposition, Event, EventType, RunError, RunStatus
from durably.runtime.bulk import TriggerItem
from durably.runtime.context import Step

Finish = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Item:
    n: int


@dataclass(frozen=True)
class Named:
    name: str


ADD = JobRef("add", input=Item, output=Named)


async def test_a_triggered_run_is_stored_with_all_that_was_said(durably: Durably) -> None:
    start = datetime(2100, 1, 1, tzinfo=UTC)
    run = await durably.trigger(
        ADD, Item(3), idempotency_key="i", concurrency_key="c", labels={"a": "b"}, priority=7, run_at=start
    )
    assert run.disposition is Disposition.CREATED
    again = await durably.get_run(run)
    assert again is not None
    assert (again.input, again.idempotency_key, again.concurrency_key) == (Item(3), "i", "c")
    assert (again.labels, again.priority, again.available_at) == ({"a": "b"}, 7, start)


async def test_a_job_may_be_named_and_its_values_are_plain(durably: Durably) -> None:
    run = await durably.trigger("elsewhere", {"n": 1})
    assert run.input == {"n": 1}
    assert (await durably.trigger("elsewhere")).input is None


async def test_a_name_means_the_job_of_the_newest_worker(durably: Durably) -> None:
    async def numbers(_step: Step, input: int) -> int:
        return input

    async def words(_step: Step, input: str) -> str:
        return input

    ints, texts = job("twofold")(numbers), job("twofold")(words)
    older, newer = durably.worker([ints]), durably.worker([texts])
    assert (await durably.trigger("twofold", "a")).input == "a"
    with pytest.raises(ValidationError):
        await durably.trigger("twofold", 1)
    newest = durably.worker([ints])
    assert (await durably.trigger("twofold", 1)).input == 1
    assert [worker.jobs for worker in (older, newer, newest)] == [("twofold",)] * 3


async def test_an_input_that_does_not_fit_stores_nothing(durably: Durably) -> None:
    wrong: Any = {"n": "3"}
    with pytest.raises(ValidationError, match=r"input\.n"):
        await durably.trigger(ADD, wrong)
    with pytest.raises(ValidationError, match="input"):
        await durably.trigger("any", "x" * 2_000_000)
    with pytest.raises(ValidationError, match="job"):
        await durably.trigger("no such name!")
    with pytest.raises(TypeError, match="colour"):
        await durably.trigger("any", None, **cast("Any", {"colour": "red"}))
    assert await durably.get_runs() == []


async def test_an_idempotency_key_belongs_to_one_run(durably: Durably) -> None:
    runs = await asyncio.gather(*(durably.trigger(ADD, Item(1), idempotency_key="k") for _ in range(10)))
    assert len({run.id for run in runs}) == 1
    assert sorted(str(run.disposition) for run in runs) == ["created"] + ["idempotent"] * 9
    with pytest.raises(IdempotencyConflict) as caught:
        await durably.trigger(ADD, Item(2), idempotency_key="k")
    assert (caught.value.key, caught.value.run_id) == ("k", runs[0].id)


async def test_if_pending_looks_at_a_waiting_run(durably: Durably) -> None:
    first = await durably.trigger(ADD, Item(1), concurrency_key="k")
    skipped = await durably.trigger(ADD, Item(2), concurrency_key="k", if_pending="skip")
    assert (skipped.id, skipped.disposition) == (first.id, Disposition.COALESCED)
    replaced = await durably.trigger(ADD, Item(3), concurrency_key="k", if_pending="replace")
    assert (replaced.id, replaced.input) == (first.id, Item(3))
    with pytest.raises(PendingRunExists) as caught:
        await durably.trigger(ADD, Item(4), concurrency_key="k", if_pending="reject")
    assert caught.value.run_id == first.id


async def test_many_are_stored_in_order(durably: Durably) -> None:
    items = [TriggerItem(Item(0)), TriggerItem(Item(1), labels={"a": "b"}), TriggerItem(Item(2))]
    runs = await durably.trigger_many(ADD, items)
    assert [run.input for run in runs] == [Item(0), Item(1), Item(2)]
    assert runs[1].labels == {"a": "b"}
    assert [run.id for run in await durably.get_runs(ADD)] == [run.id for run in reversed(runs)]


async def test_one_bad_item_of_many_stores_nothing(durably: Durably) -> None:
    wrong: Any = "1"
    with pytest.raises(ValidationError) as caught:
        await durably.trigger_many(ADD, [Item(0), Item(wrong)])
    assert caught.value.field == "items[1].input.n"
    assert await durably.get_runs() == []


async def test_a_conflict_of_one_of_many_is_named_and_leaves_the_others_stored(durably: Durably) -> None:
    await durably.trigger(ADD, Item(1), idempotency_key="k")
    keys = [(10, None), (11, "k"), (12, None)]
    with pytest.raises(IdempotencyConflict, match=r"items\[1\]") as caught:
        await durably.trigger_many(ADD, [TriggerItem(Item(n), idempotency_key=key) for n, key in keys])
    assert caught.value.index == 1
    assert [run.input for run in await durably.get_runs(ADD)] == [Item(12), Item(10), Item(1)]


async def test_more_than_a_chunk_of_many_are_stored(durably: Durably) -> None:
    runs = await durably.trigger_many("job", range(2500))
    assert [run.input for run in runs] == list(range(2500))
    page = await durably.get_runs(limit=1000)
    assert [run.input for run in page] == list(range(2499, 1499, -1))


async def test_retrigger_makes_a_new_run_of_an_ended_one(durably: Durably) -> None:
    old = await durably.trigger(ADD, Item(1), idempotency_key="i", concurrency_key="c", labels={"a": "b"}, priority=3)
    with pytest.raises(WrongStatus, match="cannot retrigger pending run"):
        await durably.retrigger(old)
    await durably.cancel(old)
    new = await durably.retrigger(old)
    assert (new.input, new.concurrency_key, new.labels, new.priority) == (Item(1), "c", {"a": "b"}, 3)
    assert (new.idempotency_key, new.status, new.id == old.id) == (None, RunStatus.PENDING, False)
    with pytest.raises(RunNotFound):
        await durably.retrigger("nope")


async def test_retrigger_checks_the_input_by_todays_type(durably: Durably) -> None:
    old = await durably.trigger("add", {"name": "x"})
    await durably.cancel(old)
    with pytest.raises(ValidationError, match=r"input\.n: .*cannot retrigger run"):
        await durably.retrigger(old.id, job=ADD)
    assert (await durably.retrigger(old)).input == {"name": "x"}


async def test_retrigger_from_a_step_copies_what_came_before_it(durably: Durably, finish: Finish) -> None:
    old = await durably.trigger(ADD, Item(1))
    await finish(old, error=RunError(type="ValueError", message="no"), steps=("a", "b", "c"))
    new = await durably.retrigger(old, from_step="c")
    assert [step.name for step in await durably.get_steps(new)] == ["a", "b"]
    with pytest.raises(ValidationError, match=r"from_step: .* no step 'x' .*a, b, c"):
        await durably.retrigger(old, from_step="x")


async def test_a_value_that_no_longer_fits_is_refused_when_it_is_read_not_before(durably: Durably) -> None:
    run = await durably.trigger("add", {"name": "x"})
    typed = await durably.get_run(run.id, ADD)
    assert typed is not None
    assert (typed.status, typed.output) == (RunStatus.PENDING, None)
    with pytest.raises(SerializationError, match=f"input of run {run.id}"):
        _ = typed.input
    assert run.input == {"name": "x"}
    other: JobRef[object, object] = JobRef("other")
    with pytest.raises(ValidationError, match="is of job 'add', not of 'other'"):
        await durably.get_run(run.id, other)


async def test_runs_can_be_copied_and_pickled(durably: Durably) -> None:
    run = await durably.trigger(ADD, Item(1))
    assert copy.deepcopy(run) == run
    assert copy.deepcopy(run).input == Item(1)
    assert pickle.loads(pickle.dumps(run)).input == {"n": 1}  # noqa: S301  # what was pickled here


async def test_listeners_hear_what_this_process_did(durably: Durably) -> None:
    heard: list[Event] = []
    for kind in (EventType.RUN_TRIGGER, EventType.RUN_COALESCED, EventType.RUN_CANCEL, EventType.RUN_DELETE):
        durably.on(kind, heard.append)
    run = await durably.trigger(ADD, Item(1), concurrency_key="k", delay=timedelta(hours=1))
    await durably.trigger(ADD, Item(1), concurrency_key="k", if_pending="skip")
    await durably.cancel(run)
    await durably.delete_run(run)
    assert [one.type.value for one in heard] == ["run:trigger", "run:coalesced", "run:cancel", "run:delete"]
    with pytest.raises(ValidationError, match="run:trigger"):
        durably.on("run:nonsense", heard.append)
