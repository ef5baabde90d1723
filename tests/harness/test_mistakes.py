"""What users of the harness get wrong, or do at the same time: a clear error or the right answer, and nothing hangs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durably import RunNotFound, RunStatus, Step, UsageError, ValidationError, job
from durably.testing import Harness, ScriptError, harness, in_turn
from tests.harness.some_jobs import Order, Shop, checkout, import_rows, parallel, parent

ORDER = Order(customer="Ada", cents=300)
DAY = timedelta(days=1)


@job("forever")
async def forever(step: Step, turn: int) -> None:
    await step.trigger("forever", turn + 1)


@job("outer")
async def outer(step: Step[Any]) -> str:
    charge = await step.run("inner", step.deps)
    await step.run("after", lambda: None)
    return str(charge)


# --- scripts and crashes ----------------------------------------------------------------------------------


async def test_what_is_scripted_for_one_run_does_not_meet_the_run_that_is_first_in_line() -> None:
    shop = Shop()
    async with harness(checkout, deps=shop) as h:
        first = await h.trigger(checkout, Order(customer="Bob", cents=1))
        mine = await h.run(checkout, ORDER, steps={"charge": "paid"}, crash_after="charge")
        other = await h.report(first)
    assert ([one.ended for one in other.executions], other.output.charge) == (["completed"], "charge 1")
    assert ([one.ended for one in mine.executions], mine.output.charge) == (["crashed", "completed"], "paid")


async def test_an_entry_that_others_came_before_is_not_called_misspelt() -> None:
    with pytest.raises(ScriptError, match=r"'insert' was executed, .* an entry with its key \(steps executed"):
        async with harness(import_rows, deps=Shop(), steps={"insert": None, "insert[0]": None}) as h:
            await h.run(import_rows, 1)


async def test_a_script_for_a_run_that_was_there_already_says_so() -> None:
    async with harness(checkout, deps=Shop()) as h:
        await h.run(checkout, ORDER, idempotency_key="once")
        with pytest.raises(ScriptError, match=r"'charge' was executed, .* it was executed before this"):
            await h.run(checkout, ORDER, idempotency_key="once", steps={"charge": "paid"})


@pytest.mark.parametrize("outcome", ["paid", in_turn(OSError())])
async def test_a_crash_that_did_not_come_as_often_says_so(outcome: object) -> None:
    async with harness(checkout, deps=Shop()) as h:
        with pytest.raises(ScriptError, match=r"^crash_after: 'charge' was executed, but .* it returned less often"):
            await h.run(checkout, ORDER, steps={"charge": outcome}, crash_after=["charge", "charge"])


async def test_a_script_that_is_no_mapping_is_refused_before_anything_is_triggered() -> None:
    async with harness(checkout, deps=Shop()) as h:
        with pytest.raises(ValidationError, match="steps: must say what each step comes to"):
            await h.run(checkout, ORDER, steps=["charge"])  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType] - the point
        assert await h.settle() == []


async def test_the_story_says_which_execution_of_a_step_raised() -> None:
    @job("tries")
    async def tries(step: Step[Shop]) -> str:
        while True:
            try:
                return await step.run("charge", step.deps.charge, ORDER, "key")
            except OSError:
                continue

    async with harness(tries, deps=Shop(fails=1)) as h:
        await h.run(tries)
        assert h.story().endswith("charge raised OSError('the bank does not answer'), charge")


# --- what would never end ---------------------------------------------------------------------------------


async def test_time_goes_on_after_a_run_that_failed_for_its_crashes() -> None:
    async with harness(checkout, deps=Shop(), max_crashes=1) as h:
        failed = await h.run(checkout, ORDER, crash_during="charge")
        start = h.now
        async with asyncio.timeout(30):
            assert await h.advance(DAY) == []
        assert (failed.status, h.now - start) == (RunStatus.FAILED, DAY)


async def test_a_step_that_hangs_is_ended_with_the_test_and_its_run_can_be_finished() -> None:
    async def inner() -> str:
        begun.set()
        await released.wait()
        return "done"

    begun, released = asyncio.Event(), asyncio.Event()
    async with harness(outer, deps=inner) as h:
        run = await h.trigger(outer)
        hanging = asyncio.create_task(h.finish(run))
        await begun.wait()
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        released.set()
        done = await h.finish(run)
    assert (done.output, [one.ended for one in done.executions]) == ("done", ["handed back", "completed"])


async def test_a_job_that_triggers_itself_without_end_is_given_up() -> None:
    async with harness(forever, max_runs=20) as h:
        await h.trigger(forever, 0)
        for _ in range(2):
            with pytest.raises(UsageError, match=r"20 executions, .* job 'forever': does a job trigger itself"):
                async with asyncio.timeout(30):
                    await h.settle()


async def test_waiting_for_a_run_that_nobody_executes_is_an_error() -> None:
    async with harness(checkout, deps=Shop()) as h:
        run = await h.trigger(checkout, ORDER)
        with pytest.raises(UsageError, match=r"is pending, and nothing executes it .* await h.finish\(run\)"):
            async with asyncio.timeout(30):
                await h.durably.wait(run)
        with pytest.raises(TimeoutError):
            await h.durably.result(run, timeout=0)
        await h.finish(run)
        assert (await h.durably.result(run)).charge == "charge 1"


# --- at the same time -------------------------------------------------------------------------------------


async def test_runs_of_one_harness_at_once_are_executed_one_after_the_other() -> None:
    async with harness([checkout, parallel], deps=Shop()) as h:
        first, second, third = await asyncio.gather(
            h.run(checkout, ORDER, steps={"charge": "paid"}),
            h.run(parallel),
            h.run(checkout, ORDER, crash_after="charge"),
        )
    assert (first.output.charge, second.output, third.output.charge) == ("paid", [0, 1, 2], "charge 1")
    assert [len(one.executions) for one in (first, second, third)] == [1, 1, 2]


async def test_a_step_may_run_another_job_of_the_harness() -> None:
    async def inner() -> list[int]:
        return (await made[0].run(parallel)).output

    made: list[Harness] = []
    async with harness([outer, parallel], deps=inner, steps={"one[0]": 7}) as h:
        made.append(h)
        failed = await h.run(outer, steps={"after": OSError()})
        await h.durably.resume(failed.run)
        done = await h.finish(failed.run)
    assert (done.output, done.executed) == ("[7, 1, 2]", ["inner", "after", "after"])
    assert isinstance(failed.exception, OSError)


async def test_two_harnesses_know_nothing_of_each_other() -> None:
    async with harness(checkout, deps=Shop()) as one, harness(checkout, deps=Shop()) as two:
        run = await one.trigger(checkout, ORDER)
        with pytest.raises(RunNotFound, match=run.id):
            await two.finish(run)
        done = await asyncio.gather(one.finish(run), two.run(checkout, ORDER))
    assert [each.output.charge for each in done] == ["charge 1", "charge 1"]


# --- what is given ----------------------------------------------------------------------------------------


async def test_a_child_is_known_by_its_id() -> None:
    async with harness([parent, import_rows], deps=Shop()) as h:
        child = (await h.run(parent, 2)).output
        assert (await h.report(child)).status is RunStatus.PENDING
        done = await h.finish(child)
        assert (done.output, h.steps_seen(child), len(h.executions(child))) == (2, ["insert[0]", "insert[1]"], 1)
        with pytest.raises(RunNotFound):
            await h.finish("nobody")


@pytest.mark.parametrize("given", ["checkout", checkout.fn])
async def test_what_is_no_job_is_named(given: Any) -> None:
    async with harness(checkout) as h:
        with pytest.raises(ValidationError, match=r"job: must be the object that @job made, not .*checkout"):
            await h.run(given, ORDER)


async def test_a_number_is_no_duration() -> None:
    async with harness(checkout) as h:
        with pytest.raises(ValidationError, match="by: must be a timedelta, not 60"):
            await h.advance(60)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point


async def test_after_its_block_a_harness_says_that_its_runs_are_gone() -> None:
    async with harness(checkout, deps=Shop()) as h:
        done = await h.run(checkout, ORDER)
    for late in (h.durably.get_run(done.run), h.run(checkout, ORDER), h.settle(), h.finish(done.run)):
        with pytest.raises(UsageError, match="the block of this harness has ended"):
            await late
    assert "checkout" not in h.story()


async def test_a_long_log_is_told_whole() -> None:
    @job("talks")
    async def talks(step: Step) -> None:
        for number in range(1500):
            step.log.info("%d", number)

    async with harness(talks) as h:
        done = await h.run(talks)
    assert done.messages == [str(number) for number in range(1500)]
