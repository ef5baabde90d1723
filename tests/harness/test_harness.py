"""The harness as users meet it: runs to their end, scripts, crashes, time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import uvloop

from durably import (
    Event,
    JobNotFound,
    RunCancelled,
    RunFailed,
    RunStatus,
    SerializationError,
    Step,
    SyncStep,
    UsageError,
    ValidationError,
    job,
)
from durably.testing import REAL, Harness, ManualClock, ScriptError, harness, in_turn
from tests.harness.some_jobs import Order, Receipt, Shop, checkout, import_rows, parallel, parent, report

ORDER = Order(customer="Ada", cents=300)
DAY = timedelta(days=1)


async def test_a_job_runs_to_its_end_and_says_what_it_did() -> None:
    shop = Shop()
    async with harness(checkout, deps=shop) as h:
        done = await h.run(checkout, ORDER, labels={"tenant": "acme"})
    assert done.output == Receipt(order=ORDER, charge="charge 1")
    assert (done.executed, done.messages, shop.mails) == (["charge", "mail"], ["charging"], ["thanks, Ada"])
    assert [(one.current, one.message) for one in done.progress] == [(1, "charged"), (2, None)]
    assert done.run.labels == {"tenant": "acme"}
    assert done.story[:3] == ["run:trigger", "run:leased", "log:write"]
    assert shop.charged == [f"{done.run.id}:charge"]


async def test_a_scripted_value_stands_in_for_the_function_and_is_decoded_like_its_result() -> None:
    shop = Shop()
    async with harness(checkout, deps=shop, steps={"charge": "paid"}) as h:
        done = await h.run(checkout, ORDER, steps={"mail": None})
    assert done.output.charge == "paid"
    assert (shop.charged, shop.mails) == ([], [])
    assert done.calls("mail")[0].args == ("thanks, Ada",)


async def test_a_scripted_value_of_the_wrong_type_fails_as_a_real_one_does() -> None:
    async with harness(checkout, deps=Shop(), steps={"charge": 42}) as h:
        failed = await h.run(checkout, ORDER)
    assert isinstance(failed.exception, SerializationError)


@pytest.mark.parametrize("error", [OSError("no answer"), OSError])
async def test_a_scripted_exception_leaves_the_step(error: object) -> None:
    async with harness(checkout, deps=Shop(), steps={"charge": error}) as h:
        failed = await h.run(checkout, ORDER)
        assert (failed.status, failed.error and failed.error.step) == (RunStatus.FAILED, "charge")
        with pytest.raises(RunFailed) as raised:
            _ = failed.output
    assert isinstance(raised.value.__cause__, OSError)


async def test_outcomes_in_turn_meet_the_executions_of_a_step_in_order() -> None:
    shop = Shop()
    async with harness(checkout, deps=shop, steps={"charge": in_turn(OSError(), OSError, REAL)}) as h:
        failed = await h.run(checkout, ORDER)
        await h.durably.resume(failed.run)
        again = await h.finish(failed.run)
        await h.durably.resume(again.run)
        done = await h.finish(again.run)
    assert (done.output.charge, done.executed) == ("charge 1", ["charge", "charge", "charge", "mail"])


async def test_a_script_that_is_used_up_ends_the_test_and_not_the_run_alone() -> None:
    async with harness(checkout, deps=Shop(), steps={"charge": in_turn("one")}) as h:
        await h.run(checkout, ORDER)
        with pytest.raises(ScriptError, match=r"'charge' was executed 2 times, but its script has 1 outcomes"):
            await h.run(checkout, ORDER)


async def test_functions_are_called_with_the_arguments_of_the_step() -> None:
    async def insert(number: int) -> None:
        await asyncio.sleep(0)
        shop.rows.append(-number)

    shop = Shop()
    async with harness(import_rows, deps=shop, steps={"insert[3]": OSError("full"), "insert": insert}) as h:
        failed = await h.run(import_rows, 5)
    assert (shop.rows, failed.executed[-1]) == ([0, -1, -2], "insert[3]")


async def test_a_crash_after_a_step_keeps_its_result_and_bumps_the_generation() -> None:
    shop = Shop()
    async with harness(checkout, deps=shop) as h:
        done = await h.run(checkout, ORDER, crash_after="charge")
    assert [(one.generation, one.ended, one.executed, one.replayed) for one in done.executions] == [
        (1, "crashed", ["charge"], []),
        (2, "completed", ["mail"], ["charge"]),
    ]
    assert (len(shop.charged), done.run.generation, done.output.charge) == (1, 2, "charge 1")


async def test_a_crash_during_a_step_calls_it_again_with_the_same_idempotency_key() -> None:
    shop = Shop()
    async with harness(checkout, deps=shop) as h:
        done = await h.run(checkout, ORDER, crash_during=["charge", "mail"])
    assert shop.charged == [f"{done.run.id}:charge"] * 2
    assert shop.mails == ["thanks, Ada"] * 2
    assert [one.executed for one in done.executions] == [["charge"], ["charge", "mail"], ["mail"]]


async def test_a_run_that_keeps_crashing_fails() -> None:
    async with harness(checkout, deps=Shop(), max_crashes=2) as h:
        failed = await h.run(checkout, ORDER, crash_during=["charge", "charge"])
    assert failed.error is not None
    assert (failed.error.type, len(failed.executions)) == ("WorkerCrashed", 2)


async def test_a_crash_takes_the_time_of_a_lease() -> None:
    async with harness(checkout, deps=Shop(), lease=timedelta(minutes=2)) as h:
        before = h.now
        await h.run(checkout, ORDER, crash_after="mail")
        assert h.now - before == timedelta(minutes=2)


async def test_blocking_jobs_run_crash_and_are_scripted_alike() -> None:
    def tenfold(rows: list[int]) -> int:
        return 10 * sum(rows)

    shop = Shop()
    async with harness([report], deps=shop) as h:
        done = await h.run(report, [1, 2], crash_after="sum", crash_during="mail")
        assert [one.executed for one in done.executions] == [["sum"], ["mail"], ["mail"]]
        assert (done.output, shop.mails, done.messages) == (3, ["total 3"] * 2, ["summed"])
        scripted = await h.run(report, [1, 2], steps={"sum": tenfold, "mail": None})
    assert (scripted.output, scripted.exception) == (30, None)


async def test_a_blocking_step_cannot_be_scripted_with_an_async_function() -> None:
    async def total(_rows: list[int]) -> int:
        return 0

    async with harness(report, deps=Shop()) as h:
        with pytest.raises(ScriptError, match="a step of a def job was scripted with an async function"):
            await h.run(report, [1], steps={"sum": total})


async def test_a_crash_ends_the_steps_that_run_beside_it() -> None:
    async with harness(parallel) as h:
        done = await h.run(parallel, crash_during="one[1]")
    assert (done.output, done.executions[0].ended) == ([0, 1, 2], "crashed")


async def test_time_passes_only_as_it_is_told_to() -> None:
    async with harness([checkout, import_rows], deps=Shop(), clock=ManualClock(datetime(2024, 2, 28, tzinfo=UTC))) as h:
        tomorrow = await h.trigger(import_rows, 1, delay=DAY)
        later = await h.trigger(import_rows, 2, run_at=datetime(2024, 3, 1, 12, tzinfo=UTC))
        assert await h.settle() == []
        [first] = await h.advance(DAY)
        assert (first.run.id, first.run.started_at) == (tomorrow.id, datetime(2024, 2, 29, tzinfo=UTC))
        assert (await h.advance(DAY), h.now) == ([], datetime(2024, 3, 1, tzinfo=UTC))
        done = await h.finish(later)
        assert (done.output, h.now) == (2, datetime(2024, 3, 1, 12, tzinfo=UTC))


async def test_runs_that_a_job_triggers_are_executed_by_settle() -> None:
    shop = Shop()
    async with harness([parent, import_rows], deps=shop) as h:
        done = await h.run(parent, 2)
        [child] = await h.settle()
    assert (child.run.id, child.output, shop.rows) == (done.output, 2, [0, 1])


async def test_runs_of_a_key_are_executed_in_order() -> None:
    shop = Shop()
    async with harness(import_rows, deps=shop) as h:
        first = await h.trigger(import_rows, 1)
        second = await h.run(import_rows, 2)
        assert (await h.report(first)).output == 1
    assert (second.output, shop.rows) == (2, [0, 0, 1])


async def test_what_can_never_go_on_is_said() -> None:
    async with harness(import_rows, deps=Shop()) as h:
        await h.durably.set_limit("import", 0)
        with pytest.raises(UsageError, match=r"waits for: key .*'import' comes free: is its limit 0\?"):
            await h.run(import_rows, 1)


async def test_a_cancelled_run_says_so() -> None:
    @job("ends-itself")
    async def ends_itself(step: Step) -> None:
        await step.run("cancel", cancel, step.run_id)

    async def cancel(run_id: str) -> None:
        await made[0].durably.cancel(run_id)

    made: list[Harness] = []
    async with harness(ends_itself) as h:
        made.append(h)
        cancelled = await h.run(ends_itself)
    assert (cancelled.status, cancelled.executions[0].ended) == (RunStatus.CANCELLED, "cancelled")
    with pytest.raises(RunCancelled):
        _ = cancelled.output


async def test_a_run_without_an_end_is_given_up() -> None:
    async with harness(checkout, deps=Shop(), max_executions=3, max_crashes=99) as h:
        with pytest.raises(UsageError, match=r"was executed 3 times and has not ended(.|\n)*generation 3"):
            await h.run(checkout, ORDER, crash_during=["charge"] * 9)


@pytest.mark.parametrize("name", ["chrge", "insert[9]"])
async def test_a_name_that_no_step_has_is_an_error_at_the_end(name: str) -> None:
    with pytest.raises(ScriptError, match=r"^steps: '.*' was never executed \(steps executed: 'charge', 'mail'\)"):
        async with harness(checkout, deps=Shop(), steps={name: None}) as h:
            await h.run(checkout, ORDER)


async def test_a_close_name_is_suggested() -> None:
    async with harness(checkout, deps=Shop()) as h:
        with pytest.raises(ScriptError, match=r"^crash_after: 'chrge' .* Did you mean 'charge'\?"):
            await h.run(checkout, ORDER, crash_after="chrge")


async def test_an_error_of_the_test_is_not_hidden_by_an_unmet_script() -> None:
    with pytest.raises(ZeroDivisionError):
        async with harness(checkout, deps=Shop(), steps={"chrge": None}):
            _ = 1 / 0


async def test_a_step_that_was_replayed_counts_as_met() -> None:
    async with harness(checkout, deps=Shop()) as h:
        failed = await h.run(checkout, ORDER, steps={"mail": OSError()})
        await h.durably.resume(failed.run)
        assert (await h.finish(failed.run)).executed == ["charge", "mail", "mail"]


async def test_a_job_that_the_harness_does_not_have_is_named() -> None:
    async with harness(checkout, deps=Shop()) as h:
        with pytest.raises(JobNotFound, match=r"report .*known here: checkout"):
            await h.run(report, [1])


async def test_the_harness_refuses_a_database_with_a_clock_of_its_own() -> None:
    with pytest.raises(ValidationError, match="url: "):
        async with harness(checkout, url="postgresql://localhost/x"):
            pass


async def test_time_does_not_go_back() -> None:
    async with harness(checkout) as h:
        with pytest.raises(ValidationError, match="by: "):
            await h.advance(-DAY)
    with pytest.raises(ValidationError, match="start: "):
        ManualClock(datetime(2024, 1, 1))  # noqa: DTZ001 - what is refused


async def test_listeners_of_the_harness_hear_its_runs() -> None:
    heard: list[Event] = []
    async with harness(checkout, deps=Shop()) as h:
        h.durably.on("run:complete", heard.append)
        done = await h.run(checkout, ORDER)
    assert [event.run_id for event in heard] == [done.run.id]


async def test_duplicate_steps_and_what_is_no_function_fail_as_without_the_harness() -> None:
    @job("twice")
    async def twice(step: Step) -> None:
        await step.run("a", dict)
        await step.run("a", dict)

    @job("nothing")
    def nothing(step: SyncStep) -> None:
        step.run("a", 5)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType] - the point

    async with harness([twice, nothing]) as h:
        first, second = await h.run(twice), await h.run(nothing)
    assert [one.error and one.error.type for one in (first, second)] == ["DuplicateStep", "UsageError"]


def test_it_runs_in_uvloop_and_the_same_ids_and_times_come_again() -> None:
    async def play() -> tuple[list[str], list[datetime | None]]:
        async with harness(checkout, deps=Shop()) as h:
            done = await h.run(checkout, ORDER, crash_after="charge", delay=DAY)
            return done.story, [event.created_at for event in done.events]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        in_uvloop = runner.run(play())
    assert in_uvloop == asyncio.run(play())


async def test_real_drivers_work_beside_it(postgres_url: str) -> None:
    @job("store")
    async def store(step: Step[Any], text: str) -> str:
        async def insert() -> str:
            return str(await step.deps.fetchval("INSERT INTO notes VALUES ($1) RETURNING upper(note)", text))

        return await step.run("insert", insert)

    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("CREATE TABLE notes (note text)")
        async with harness(store, deps=connection) as h:
            done = await h.run(store, "hello", crash_during="insert")
        assert (done.output, await connection.fetchval("SELECT count(*) FROM notes")) == ("HELLO", 2)
    finally:
        await connection.close()
