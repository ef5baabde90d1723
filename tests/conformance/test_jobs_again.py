"""What happens a second time: resume, retrigger, and triggers from inside of a job, exactly once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from durably import (
    EventType,
    IdempotencyConflict,
    RunNotFound,
    RunStatus,
    Step,
    SyncStep,
    ValidationError,
    job,
)
from durably.store.operation import Operation
from tests.support.app import NO_RUN, App

calls: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    broken.clear()


async def call(name: str) -> str:
    calls.append(name)
    if name in broken:
        raise ConnectionError(f"{name} is broken")
    return name


@dataclass(frozen=True)
class Names:
    names: tuple[str, ...]


@job("names", concurrency_key="shared", labels={"kind": "names"}, idempotency_key=lambda given: ",".join(given.names))
async def run_names(step: Step, input: Names) -> list[str]:
    step.log.info("attempt %d", step.attempt)
    return [await step.run(name, call, name) for name in input.names]


ABC = Names(("a", "b", "c"))


async def failed_at(app: App, name: str) -> str:
    """A run of three steps that failed in one of them."""
    broken.add(name)
    run = await app.execute(run_names, ABC, priority=5, labels={"x": "y"})
    assert run.status is RunStatus.FAILED
    broken.clear()
    calls.clear()
    return run.id


async def test_a_failed_run_keeps_its_checkpoints_and_its_logs(app: App) -> None:
    """G12."""
    run_id = await failed_at(app, "c")

    assert [(step.name, step.output_json) for step in await app.durably.get_steps(run_id)] == [
        ("a", '"a"'), ("b", '"b"'), ("c", None),
    ]  # fmt: skip
    assert [line.message for line in await app.durably.get_logs(run_id)] == ["attempt 1"]


async def test_resume_continues_after_the_last_checkpoint(app: App) -> None:
    """G5, G8: the same run; what was stored is not executed again, the error is gone."""
    run_id = await failed_at(app, "b")
    resumed = await app.durably.resume(run_id)
    assert (resumed.id, resumed.status, resumed.error, resumed.completed_at) == (run_id, RunStatus.PENDING, None, None)
    await app.process(run_names)

    run = await app.durably.get_run(run_id, run_names)
    assert run is not None
    assert (run.status, run.output, run.attempt, run.error) == (RunStatus.COMPLETED, ["a", "b", "c"], 2, None)
    assert calls == ["b", "c"]
    story = await app.story(run)
    assert story[story.index("run:fail") + 1 :][:2] == ["run:resume", "run:leased"]


async def test_a_run_may_be_resumed_again_and_again(app: App) -> None:
    """G8: each time it goes as far as it can."""
    run_id = await failed_at(app, "a")
    for name in ("b", "c"):
        broken.clear()
        broken.add(name)
        await app.durably.resume(run_id)
        await app.process(run_names)
    broken.clear()
    await app.durably.resume(run_id)
    await app.process(run_names)

    assert calls == ["a", "b", "b", "c", "c"]
    run = await app.durably.get_run(run_id)
    assert run is not None
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 4)


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
async def test_retrigger_starts_anew_whatever_became_of_the_run(app: App, status: RunStatus) -> None:
    """A new run with input, labels, key and priority of the old one, which stays as it is."""
    if status is RunStatus.FAILED:
        old_id = await failed_at(app, "b")
    else:
        old = await app.durably.trigger(run_names, ABC, priority=5, labels={"x": "y"})
        old_id = old.id
        await (app.durably.cancel(old) if status is RunStatus.CANCELLED else app.process(run_names))
        calls.clear()
    new = await app.durably.retrigger(old_id, job=run_names)

    assert new.id != old_id
    assert (new.input, new.labels, new.priority) == (ABC, {"kind": "names", "x": "y"}, 5)
    assert (new.concurrency_key, new.idempotency_key, new.status) == ("shared", None, RunStatus.PENDING)
    await app.process(run_names)
    assert calls == ["a", "b", "c"]
    assert await app.durably.result(new) == ["a", "b", "c"]
    unchanged = await app.durably.get_run(old_id)
    assert unchanged is not None
    assert unchanged.status is status


async def test_retrigger_from_a_step_executes_it_and_what_follows(app: App) -> None:
    """`from_step`: results of the steps that started before it are copied."""
    old = await app.execute(run_names, ABC)
    calls.clear()
    new = await app.durably.retrigger(old, from_step="b")

    assert await app.step_names(new) == ["a"]
    await app.process(run_names)
    assert calls == ["b", "c"]
    assert await app.durably.result(new) == ["a", "b", "c"]
    assert [step.position for step in await app.durably.get_steps(new)] == [0, 1, 2]
    assert await app.step_names(old) == ["a", "b", "c"]


async def test_retrigger_from_a_step_that_failed_is_a_resume_in_a_new_run(app: App) -> None:
    """`from_step` of the failed one; the old run stays failed."""
    old_id = await failed_at(app, "c")
    new = await app.durably.retrigger(old_id, job=run_names, from_step="c")
    await app.process(run_names)

    assert calls == ["c"]
    assert await app.durably.result(new) == ["a", "b", "c"]


async def test_retrigger_from_an_unknown_step_is_an_error_that_names_the_steps(app: App) -> None:
    """And stores nothing."""
    old = await app.execute(run_names, ABC)
    before = await app.outside.snapshot()
    with pytest.raises(ValidationError, match=r"^from_step: .*'x'.*a, b, c"):
        await app.durably.retrigger(old, from_step="x")
    with pytest.raises(RunNotFound):
        await app.durably.retrigger(NO_RUN)
    assert await app.outside.snapshot() == before


async def test_a_run_that_is_deleted_while_it_is_retriggered_leaves_its_steps_to_the_new_one(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to begin at the first step without a word."""
    old = await app.execute(run_names, ABC)
    calls.clear()
    await meanwhile(app, monkeypatch, "load_steps", lambda: app.durably.delete_run(old))
    new = await app.durably.retrigger(old, from_step="c")
    assert await app.durably.get_run(old) is None
    assert (new.completed_steps, await app.step_names(new)) == (2, ["a", "b"])
    await app.process(run_names)
    assert calls == ["c"]
    assert await app.durably.result(new) == ["a", "b", "c"]


async def test_a_run_that_is_deleted_before_its_steps_are_read_is_not_found(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not said to have no such step, and nothing is stored."""
    old = await app.execute(run_names, ABC)
    await meanwhile(app, monkeypatch, "get_run", lambda: app.durably.delete_run(old))
    with pytest.raises(RunNotFound):
        await app.durably.retrigger(old, from_step="c")
    assert await app.durably.get_runs() == []


async def meanwhile(app: App, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], Awaitable[object]]) -> None:
    """Let something happen right after the first read of this name, before its answer is told."""
    database = await app.durably._database()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way between two transactions
    read: Any = database.read

    async def meddled(operation: Operation[Any], **options: Any) -> Any:
        found = await read(operation, **options)
        if operation.statements[0].name == name:
            monkeypatch.setattr(database, "read", read)
            await act()
        return found

    monkeypatch.setattr(database, "read", meddled)


async def test_retrigger_checks_the_input_by_the_type_of_today(app: App) -> None:
    """The code may have changed since: a clear error, and no run that must fail."""
    old = await app.execute(run_names, ABC)

    @job("names")
    async def numbers(step: Step, input: list[int]) -> None: ...

    with pytest.raises(ValidationError, match=rf"input.*{old.id}"):
        await app.durably.retrigger(old.id, job=numbers)
    assert len(await app.durably.get_runs()) == 1


# --- step.trigger -------------------------------------------------------------------------------------


@job("child", concurrency_key=lambda name: name)
async def child(step: Step, input: str) -> str:
    calls.append(f"child {input}")
    return input


@job("parent")
async def parent(step: Step, input: int) -> list[str]:
    ids = [await step.trigger(child, str(place), key=place, labels={"place": str(place)}) for place in range(input)]
    await step.run("last", call, "last")
    return ids


@job("blocking-parent")
def blocking_parent(step: SyncStep, input: int) -> list[str]:
    ids = [step.trigger(child, str(place), key=place) for place in range(input)]
    if step.attempt == 1:
        raise ConnectionError("at first")
    return ids


async def test_a_job_triggers_exactly_once_although_it_is_executed_again(app: App) -> None:
    """G5: on a replay the ids are those of the first execution."""
    broken.add("last")
    failed = await app.execute(parent, 3)
    broken.clear()
    first = {run.id for run in await app.durably.get_runs(child)}
    run = await app.again(failed, parent)

    assert run.output is not None
    assert len(first) == 3
    assert set(run.output) == first == {found.id for found in await app.durably.get_runs(child)}
    assert (await app.step_names(run))[:3] == ["trigger:child[0]", "trigger:child[1]", "trigger:child[2]"]
    await app.process(child)
    assert sorted(name for name in calls if name.startswith("child")) == ["child 0", "child 1", "child 2"]


async def test_a_def_job_triggers_exactly_once_too(app: App) -> None:
    """G5, in a thread."""
    run = await app.again(await app.execute(blocking_parent, 2), blocking_parent)
    assert run.output is not None
    assert sorted(run.output) == sorted(found.id for found in await app.durably.get_runs(child))


async def test_a_trigger_is_exactly_once_although_its_parent_died_before_the_checkpoint(app: App) -> None:
    """G5: the child was committed, the step that triggered it was not."""
    run = await app.durably.trigger(parent, 1)
    await app.process(parent)
    [first] = await app.durably.get_runs(child)
    await app.outside.sql("DELETE FROM {steps}")
    await app.outside.sql(
        f"UPDATE {{runs}} SET status = 'failed', completed_steps = 0, next_step = 0 WHERE id = '{run.id}'"
    )
    ended = await app.again(run, parent)

    assert ended.output == [first.id]
    assert [found.id for found in await app.durably.get_runs(child)] == [first.id]


async def test_a_triggered_run_has_all_that_a_trigger_can_say(app: App) -> None:
    """The defaults of the job, and what the step says over them; its event is told."""
    run = await app.execute(parent, 1)
    [found] = await app.durably.get_runs(child)

    assert (found.labels, found.concurrency_key, found.input) == ({"place": "0"}, "0", "0")
    assert [event.run_id for event in app.heard if event.type is EventType.RUN_TRIGGER] == [run.id, found.id]


async def test_a_trigger_from_a_job_may_meet_a_conflict(app: App) -> None:
    """It fails the step like any error; caught, the job goes on."""

    @job("conflicted")
    async def conflicted(step: Step) -> str:
        await step.trigger(child, "a", idempotency_key="k", delay=timedelta(hours=1))
        with pytest.raises(IdempotencyConflict):
            await step.trigger(child, "b", idempotency_key="k", key="second")
        return "went on"

    run = await app.execute(conflicted)
    assert run.output == "went on", run.error
    assert [found.input for found in await app.durably.get_runs(child)] == ["a"]


async def test_two_triggers_of_one_job_need_keys(app: App) -> None:
    """Like two steps of one name."""

    @job("unkeyed")
    async def unkeyed(step: Step) -> None:
        await step.trigger(child, "a")
        await step.trigger(child, "b")

    run = await app.execute(unkeyed)
    assert run.error is not None
    assert run.error.type == "DuplicateStep"
    assert "trigger:child" in run.error.message
    assert [found.input for found in await app.durably.get_runs(child)] == ["a"]
