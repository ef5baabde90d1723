"""`connection=` with every library: the run is in the user's transaction, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durably import (
    Disposition,
    Hold,
    IdempotencyConflict,
    PendingRunExists,
    RunNotFound,
    RunStatus,
    Step,
    TriggerItem,
    UsageError,
    ValidationError,
    WrongStatus,
    job,
)
from durably.store import inside
from durably.store.operation import Operation, Rows
from tests.caller.conftest import SECONDS, User

TEXT = "o'brien \"% %s ? $1 :name {x} ü \U0001f600"
calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


async def call(name: str) -> str:
    calls.append(name)
    return name


@job("echo")
async def echo(step: Step, input: str) -> str:
    return await step.run("echo", call, input)


@job("keyed", concurrency_key="key")
async def keyed(step: Step, name: str) -> str:
    return await step.run("keyed", call, name)


@job("two-steps")
async def two_steps(step: Step, name: str) -> str:
    first = await step.run("first", call, f"{name} first")
    await step.run("second", call, f"{name} second")
    return first


async def test_what_is_committed_is_executed(user: User) -> None:
    await user.lending.open()
    async with user.durably.worker([echo, keyed]):
        await user.lending.insert("a")
        plain = await user.trigger(echo, TEXT, labels={"who": TEXT}, priority=7)
        held = await user.trigger(keyed, "b", idempotency_key=TEXT)
        assert (plain.is_committed, plain.status, plain.disposition) == (False, RunStatus.PENDING, Disposition.CREATED)
        assert (plain.input, plain.labels, plain.priority, held.hold) == (TEXT, {"who": TEXT}, 7, Hold.ADMIT)
        assert await user.durably.get_run(plain) is None
        with pytest.raises(UsageError, match="not committed"):
            await user.durably.result(plain)
        with pytest.raises(UsageError, match="not committed"):
            await user.durably.wait(held)

        await user.lending.commit()

        assert await user.durably.result(plain, timeout=SECONDS) == TEXT
        assert await user.durably.result(held, timeout=SECONDS) == "b"
        assert await user.orders() == ["a"]
        stored = await user.durably.get_run(plain)
        assert stored is not None
        assert (stored.is_committed, stored.created_at, stored.labels) == (True, plain.created_at, {"who": TEXT})
        events = [event.type async for event in user.durably.events(run=plain)]
        assert [events[0], events[-1]] == ["run:trigger", "run:complete"]


async def test_what_is_rolled_back_never_was(user: User) -> None:
    await user.lending.open()
    await user.lending.insert("a")
    run = await user.trigger(echo, "a", idempotency_key="once")
    await user.call("trigger_many", keyed, ["b", "c"])
    await user.lending.rollback()

    assert await user.durably.worker([echo, keyed]).process_until_idle() == 0
    assert (await user.durably.get_runs(), await user.orders()) == ([], [])
    with pytest.raises(UsageError, match="rolled back"):
        await user.durably.result(run)
    assert (await user.durably.trigger(echo, "other", idempotency_key="once")).disposition is Disposition.CREATED


async def test_a_connection_without_a_transaction_is_refused(user: User) -> None:
    await user.lending.open(autocommit=True)
    with pytest.raises(UsageError, match="autocommit"):
        await user.trigger(echo, "a")
    with pytest.raises(UsageError, match="autocommit"):
        await user.call("cancel", await user.durably.trigger(echo, "b"))
    assert [run.input for run in await user.durably.get_runs(echo)] == ["b"]


async def test_an_idempotency_key_holds_inside_and_outside(each_user: User) -> None:
    user = each_user
    there = await user.durably.trigger(echo, "a", idempotency_key="k")
    await user.lending.open()
    again = await user.trigger(echo, "a", idempotency_key="k")
    assert (again.id, again.disposition) == (there.id, Disposition.IDEMPOTENT)
    with pytest.raises(IdempotencyConflict):
        await user.trigger(echo, "b", idempotency_key="k")
    first = await user.trigger(echo, "c", idempotency_key="own")
    second = await user.trigger(echo, "c", idempotency_key="own")
    assert (second.id, second.disposition) == (first.id, Disposition.IDEMPOTENT)
    await user.lending.insert("goes on")
    await user.lending.commit()
    assert await user.orders() == ["goes on"]
    assert len(await user.durably.get_runs()) == 2


async def test_many_are_triggered_in_order(each_user: User) -> None:
    user = each_user
    await user.lending.open()
    at = datetime(2999, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    items = [
        TriggerItem("a", run_at=at),
        TriggerItem("b", delay=timedelta(hours=1)),
        TriggerItem("c", labels={"x": "y"}),
    ]
    runs = await user.call("trigger_many", keyed, items)
    await user.lending.commit()
    assert [run.input for run in runs] == ["a", "b", "c"]
    assert [run.hold for run in runs] == [Hold.TIME, Hold.TIME, Hold.ADMIT]
    stored = await user.durably.get_runs(keyed)
    assert [run.id for run in stored] == [run.id for run in reversed(runs)]
    assert [run.available_at for run in stored] == [run.available_at for run in reversed(runs)]
    assert runs[0].available_at == at


async def test_a_cancel_counts_when_it_is_committed(each_user: User) -> None:
    user = each_user
    keep = [await user.durably.trigger(keyed, name) for name in ("a", "b")]
    await user.lending.open()
    cancelled = await user.call("cancel", keep[0])
    assert (cancelled.status, cancelled.is_committed, cancelled.input) == (RunStatus.CANCELLED, False, "a")
    with pytest.raises(UsageError, match="not committed"):
        await user.durably.wait(cancelled)
    await user.lending.rollback()
    assert getattr(await user.durably.get_run(keep[0]), "status", None) is RunStatus.PENDING

    await user.call("cancel", keep[0])
    with pytest.raises(WrongStatus, match="already cancelled"):
        await user.call("cancel", keep[0])
    with pytest.raises(RunNotFound):
        await user.call("cancel", "01900000-0000-7000-8000-000000000000")
    await user.lending.commit()

    assert await user.durably.worker([keyed]).process_until_idle() == 1  # its slot was given to the other one
    assert await user.durably.result(keep[1]) == "b"
    assert (await user.durably.wait(cancelled)).status is RunStatus.CANCELLED
    await user.durably.delete_run(cancelled)


async def test_an_ended_run_is_triggered_again(each_user: User) -> None:
    user = each_user
    old = await user.durably.trigger(two_steps, "a", labels={"x": "y"})
    await user.durably.worker([two_steps]).process_until_idle()
    await user.lending.open()
    with pytest.raises(ValidationError, match="its steps: first, second"):
        await user.call("retrigger", old, from_step="third")
    new = await user.call("retrigger", old, from_step="second")
    assert (new.is_committed, new.input, new.labels, new.completed_steps) == (False, "a", {"x": "y"}, 1)
    with pytest.raises(WrongStatus):
        await user.call("retrigger", new)
    with pytest.raises(RunNotFound):
        await user.call("retrigger", "01900000-0000-7000-8000-000000000000")
    await user.lending.commit()
    assert await user.durably.worker([two_steps]).process_until_idle() == 1
    assert await user.durably.result(new) == "a first"
    assert calls == ["a first", "a second", "a second"]


async def test_a_run_that_is_deleted_meanwhile_leaves_its_steps_to_the_new_one(
    any_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two statements of the user's transaction others commit what they like."""
    user = any_user
    old = await user.durably.trigger(two_steps, "a")
    await user.durably.worker([two_steps]).process_until_idle()
    await user.lending.open()
    meanwhile(monkeypatch, "load_steps", lambda: user.blocking.delete_run(old))
    new = await user.call("retrigger", old, from_step="second")
    assert (new.is_committed, new.completed_steps) == (False, 1)
    await user.lending.commit()
    assert await user.durably.get_run(old) is None
    assert await user.durably.worker([two_steps]).process_until_idle() == 1
    assert await user.durably.result(new) == "a first"
    assert calls == ["a first", "a second", "a second"]


async def test_a_run_that_is_deleted_before_its_steps_are_read_is_not_found(
    any_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = any_user
    old = await user.durably.trigger(two_steps, "a")
    await user.durably.worker([two_steps]).process_until_idle()
    await user.lending.open()
    meanwhile(monkeypatch, "get_run", lambda: user.blocking.delete_run(old))
    with pytest.raises(RunNotFound):
        await user.call("retrigger", old, from_step="second")
    await user.lending.commit()
    assert await user.durably.get_runs() == []


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Let something happen right after the first statement of this name, before its answer is told."""
    made: Any = getattr(inside, name)

    def meddled(*arguments: Any) -> Operation[Any]:
        operation: Operation[Any] = made(*arguments)

        def decode(rows: Sequence[Rows]) -> object:
            monkeypatch.setattr(inside, name, made)
            found = operation.decode(rows)
            act()
            return found

        return replace(operation, decode=decode)

    monkeypatch.setattr(inside, name, meddled)


async def test_what_would_look_at_other_runs_is_refused(any_user: User) -> None:
    user = any_user
    await user.lending.open()
    for word in ("skip", "replace", "reject"):
        with pytest.raises(ValidationError) as caught:
            await user.trigger(keyed, "a", if_pending=word)
        assert caught.value.field == "if_pending"
    with pytest.raises(ValidationError, match=r"items\[1\]\.if_pending"):
        await user.call("trigger_many", keyed, ["a", TriggerItem("b", if_pending="skip")])
    await user.lending.commit()
    assert await user.durably.get_runs() == []


async def test_what_was_triggered_inside_is_seen_by_if_pending_outside(any_user: User) -> None:
    user = any_user
    await user.lending.open()
    first = await user.trigger(keyed, "a")
    await user.lending.commit()
    with pytest.raises(PendingRunExists):
        await user.durably.trigger(keyed, "b", if_pending="reject")
    assert (await user.durably.trigger(keyed, "c", if_pending="replace")).id == first.id
    assert await user.durably.worker([keyed]).process_until_idle() == 1
    assert calls == ["c"]


async def test_waiting_at_once_takes_no_connection(any_user: User) -> None:
    await any_user.lending.open()
    with pytest.raises(UsageError, match="trigger, commit, then wait"):
        await any_user.call("trigger_and_wait", echo, "a")
    await any_user.lending.commit()
    assert await any_user.durably.get_runs() == []
