"""`job.fn(FakeStep(), input)`: a job as the plain function that it is."""

from __future__ import annotations

from datetime import timedelta

import pytest

from durably import DuplicateStep, SerializationError, Step, UsageError, ValidationError, job
from durably.testing import FakeStep, FakeSyncStep, ScriptError, in_turn
from tests.harness.some_jobs import Order, Receipt, Shop, checkout, import_rows, parent, report

ORDER = Order(customer="Ada", cents=300)


async def test_a_job_is_called_as_a_function() -> None:
    shop = Shop()
    step = FakeStep(deps=shop, run_id="run-1", attempt=2, labels={"a": "b"})
    assert await checkout.fn(step, ORDER) == Receipt(order=ORDER, charge="charge 1")
    assert (step.executed, shop.charged, shop.mails) == (["charge", "mail"], ["run-1:charge"], ["thanks, Ada"])
    assert ([log.message for log in step.logs], step.progresses[0].message) == (["charging"], "charged")
    assert (step.attempt, step.labels, step.aborted, step.idempotency_key) == (2, {"a": "b"}, False, "run-1")


def test_a_blocking_job_needs_no_event_loop() -> None:
    shop = Shop()
    step = FakeSyncStep(deps=shop)
    assert report.fn(step, [1, 2]) == 3
    assert (step.calls[0].args, shop.mails) == (([1, 2],), ["total 3"])


async def test_its_steps_can_be_scripted() -> None:
    step = FakeStep(deps=Shop(), steps={"insert": in_turn(None, OSError("full"))})
    with pytest.raises(OSError, match="full"):
        await import_rows.fn(step, 5)
    assert step.executed == ["insert[0]", "insert[1]"]
    step.check_script()


async def test_a_script_can_be_checked() -> None:
    step = FakeStep(deps=Shop(), steps={"chrge": 1})
    await checkout.fn(step, ORDER)
    with pytest.raises(ScriptError, match="Did you mean 'charge'"):
        step.check_script()


async def test_triggers_are_kept() -> None:
    step = FakeStep()
    assert await parent.fn(step, 3) != step.run_id
    assert step.triggered == [("import", 3, {})]


async def test_it_is_as_strict_as_a_real_step() -> None:
    step = FakeStep()
    with pytest.raises(SerializationError, match="step 'a'"):
        await step.run("a", object)
    await step.run("a", lambda: 1)
    with pytest.raises(DuplicateStep):
        await step.run("a", lambda: 1)
    with pytest.raises(UsageError, match="step 'b': needs a function"):
        await step.run("b", 5)


def test_a_blocking_one_runs_no_async_function() -> None:
    async def nothing() -> None: ...

    with pytest.raises(UsageError, match="make the job an async def"):
        FakeSyncStep().run("a", nothing)


async def test_values_come_back_as_a_replay_gives_them() -> None:
    async def pair() -> tuple[int, int]:
        return (1, 2)

    step = FakeStep()
    assert await step.run("typed", pair) == (1, 2)
    assert await step.run("plain", lambda: {"a": [1]}) == {"a": [1]}


async def test_what_needs_a_run_says_so() -> None:
    @job("other")
    async def other(step: Step) -> int:
        return step._steps.max_bytes  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what a step without a run has not

    with pytest.raises(UsageError, match=r"a FakeStep belongs to no run .* use durably.testing.harness"):
        await other.fn(FakeStep())


def test_a_blocking_one_is_scripted_with_plain_functions() -> None:
    async def total(_rows: list[int]) -> int:
        return 0

    with pytest.raises(ScriptError, match="use a def function"):
        report.fn(FakeSyncStep(steps={"sum": total}), [1])


async def test_a_trigger_of_a_fake_step_is_scripted_and_checked_like_a_real_one() -> None:
    with pytest.raises(OSError, match="away"):
        await parent.fn(FakeStep(steps={"trigger:import": OSError("away")}), 3)
    step = FakeStep()
    with pytest.raises(ValidationError, match="input: "):
        await step.trigger(import_rows, "three")  # type: ignore[misc] # pyright: ignore[reportArgumentType] - the point
    assert (step.triggered, step.executed) == ([], ["trigger:import"])
    assert await step.trigger(import_rows, 3, delay=timedelta(1))
    assert step.triggered == [("import", 3, {"delay": timedelta(1)})]
