"""What went wrong for users of systems like this one, and the tests that hold what must be instead.

Paths are relative to `tests`; a name without a path is in this file.

A failed run keeps its checkpoints and logs; `resume` continues, `retrigger` starts anew; retention goes by age.
    conformance/test_jobs_again.py::test_a_failed_run_keeps_its_checkpoints_and_its_logs
    conformance/test_jobs_again.py::test_resume_continues_after_the_last_checkpoint
    conformance/test_jobs_again.py::test_retrigger_starts_anew_whatever_became_of_the_run
    conformance/test_jobs_keeping.py::test_a_worker_deletes_runs_beyond_their_retention
Logs live as long as the run.
    conformance/test_jobs_keeping.py::test_steps_and_logs_live_as_long_as_the_run
A run that was cancelled while it ran is kept, and goes, by the same rule as every other.
    test_a_run_that_was_cancelled_while_it_ran_is_kept_and_purged_like_any_other
    conformance/test_jobs_keeping.py::test_purge_deletes_what_ended_long_enough_ago_with_all_it_left
A database error while success is stored is no failure of the run; a commit in doubt is read back.
    conformance/test_jobs_faults.py::test_a_lost_connection_while_success_is_stored_is_no_failure
    conformance/test_jobs_faults.py::test_success_is_stored_however_long_the_database_is_away
The database's clock judges leases: a worker whose clock is ahead steals nothing.
    processes/test_skewed_clocks.py::test_workers_whose_clocks_are_a_minute_apart_never_share_a_run
A late renewal that nobody beat succeeds; a blocked event loop loses no lease.
    conformance/test_jobs_leases.py::test_a_late_renewal_that_nobody_beat_keeps_the_run
    processes/test_blocked_loop.py::test_a_blocked_event_loop_loses_no_lease_and_its_culprit_is_named
A cancel by another process shows up as a cancel, not as a lost lease.
    conformance/test_jobs_cancel.py::test_a_cancel_in_another_process_arrives_as_a_cancel
Events are seen in every process, whichever made them.
    conformance/test_jobs_events.py::test_the_feed_tells_what_every_process_does
    processes/test_events.py::test_a_subscriber_sees_all_events_of_other_processes_and_each_runs_in_order
An expired lease whose key has newer runs is simply claimable.
    conformance/test_jobs_keys.py::test_an_expired_lease_goes_before_a_newer_run_of_its_key
The database is chosen by its URL; nothing is guessed from a class.
    test_a_driver_behind_a_class_of_ones_own_leases_each_run_once
    conformance/test_store_url.py::test_every_postgres_spelling_means_the_same
    conformance/test_bad_settings.py::test_a_url_that_cannot_work_is_refused_at_once
Two steps of one name are an error; keys tell the rounds of a loop apart.
    conformance/test_jobs_steps.py::test_two_steps_of_one_name_are_an_error_that_names_it
    conformance/test_jobs_steps.py::test_keys_tell_the_rounds_of_a_loop_apart
A concurrency key is shared by all jobs; `if_pending` looks only at runs of the same job that never started.
    conformance/test_jobs_keys.py::test_at_most_limit_runs_of_a_key_run_at_once_over_jobs_and_workers
    conformance/test_jobs_trigger.py::test_only_runs_of_the_same_job_and_key_that_never_started_count
A worker never claims, and never fails, runs of jobs that it does not know.
    conformance/test_jobs_workers.py::test_a_worker_never_takes_runs_of_jobs_that_it_does_not_know
    processes/test_starting.py::test_a_worker_leaves_alone_the_runs_of_jobs_that_it_does_not_know
The cost of a claim does not grow with what waits or has ended.
    conformance/test_store_costs_postgres.py::test_every_statement_uses_its_index
    conformance/test_store_costs_sqlite.py::test_the_cost_does_not_grow_with_what_is_finished_or_waits
Maintenance goes on while every slot is busy.
    test_due_crashed_and_old_runs_are_seen_to_while_every_slot_is_busy
    conformance/test_jobs_keeping.py::test_a_worker_deletes_runs_beyond_their_retention
A database outage is told, not hammered; work goes on afterwards.
    conformance/test_jobs_faults.py::test_an_outage_is_told_not_hammered_and_survived
    processes/test_outages.py::test_an_outage_longer_than_the_lease_is_no_hot_loop_and_fails_no_run
What parallel steps log belongs to them.
    conformance/test_jobs_steps.py::test_what_parallel_steps_log_and_report_belongs_to_them
A trigger does not wait for the poll; idle slots cost nothing, and one claim fills all of them.
    conformance/test_jobs_workers.py::test_a_trigger_inside_of_the_process_does_not_wait_for_the_poll
    conformance/test_jobs_workers.py::test_a_trigger_of_another_process_does_not_wait_for_the_poll
    test_a_hundred_idle_slots_look_once_for_all_and_are_filled_by_few_claims
A run that keeps killing its process is failed, and says so.
    conformance/test_jobs_leases.py::test_a_run_that_keeps_killing_its_process_is_failed_and_says_so
    processes/test_crashes.py::test_a_run_that_keeps_killing_its_worker_is_failed_and_keeps_its_steps
A step gives the same value on the first execution and on a replay.
    conformance/test_jobs_values.py::test_a_step_gives_the_same_value_of_the_same_type_on_a_replay
    conformance/test_jobs_values.py::test_the_first_execution_gets_the_decoded_value_and_not_the_live_object
Code cannot swallow the cancellation.
    conformance/test_jobs_cancel.py::test_code_that_swallows_the_cancellation_ends_at_its_next_step
    conformance/test_jobs_sync.py::test_a_def_job_cannot_swallow_the_end_with_except_exception
After a cancel and a delete the next side effect does not happen.
    conformance/test_jobs_cancel.py::test_a_run_that_was_cancelled_and_deleted_while_it_runs_stores_nothing_more
A database error while progress is stored harms nobody.
    conformance/test_jobs_faults.py::test_progress_and_logs_meet_an_outage_without_harm
An idempotency key with another input is a conflict that names both.
    conformance/test_jobs_trigger.py::test_a_key_with_another_input_is_a_conflict_that_names_key_and_run
The step reported is the one whose error ended the run.
    conformance/test_jobs_steps.py::test_a_failed_step_that_was_caught_is_not_the_step_that_failed_the_run
A renewal that is too rare for its lease is refused.
    conformance/test_bad_settings.py::test_a_setting_that_cannot_work_is_refused_by_name
Eight processes may migrate at once.
    conformance/test_store_migrations.py::test_eight_processes_that_start_at_once_all_succeed
    processes/test_starting.py::test_eight_processes_that_start_at_once_on_an_empty_database_all_serve
Inputs with fields named like options are just inputs.
    conformance/test_jobs_trigger.py::test_an_input_with_fields_named_like_options_is_just_an_input
Pages need no limit, and neither shift nor repeat.
    conformance/test_jobs_looking.py::test_a_page_without_a_limit_has_a_hundred_runs
    conformance/test_jobs_looking.py::test_pages_are_newest_first_and_neither_shift_nor_repeat
    conformance/test_jobs_looking.py::test_runs_of_one_moment_are_all_seen_once
A failed run keeps type, message, traceback and step of its error.
    conformance/test_jobs_steps.py::test_a_failed_run_keeps_message_type_traceback_and_step
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from durably import RunStatus, Step, job
from durably.store.engine import Engine
from durably.store.operation import Statement
from tests.support.app import App, MakeApp, within
from tests.support.bench import Gate, eventually
from tests.support.faults import FaultyEngine

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"^    (?:(\S+\.py)::)?(test_\w+)$", re.MULTILINE)


def test_every_test_that_holds_a_lesson_is_there() -> None:
    text = __doc__ or ""
    missing = [
        f"{path or Path(__file__).name}::{name}"
        for path, name in NAMED.findall(text)
        if name not in names_in(TESTS / path if path else Path(__file__))
    ]
    assert missing == []


def test_every_lesson_has_a_test() -> None:
    _, _, listed = (__doc__ or "").strip().split("\n\n")
    lessons = re.findall(r"^(\S.*)\n(    \S*test_\w+)?", listed, re.MULTILINE)
    assert len(lessons) == 30
    assert [lesson for lesson, test in lessons if not test] == []


def names_in(path: Path) -> set[str]:
    """The tests of a file, without running it."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


async def test_a_run_that_was_cancelled_while_it_ran_is_kept_and_purged_like_any_other(app: App) -> None:
    gate = Gate()

    @job("long")
    async def long(step: Step) -> None:
        await step.run("first", lambda: step.log.info("a line"))
        await gate.wait()

    run = await app.durably.trigger(long)
    async with app.durably.worker([long]):
        await within(gate.reached.wait())
        await app.durably.cancel(run)

    assert await app.step_names(run) == ["first"]
    assert len(await app.durably.get_logs(run)) == 1
    await app.age(run)
    assert await app.durably.purge_runs(older_than=timedelta(hours=1)) == 1
    rows = await app.outside.snapshot()
    assert (rows["runs"], rows["steps"], rows["logs"]) == ([], [], [])


class MyEngine(FaultyEngine):
    """A class that no code of durably has ever heard of."""


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_driver_behind_a_class_of_ones_own_leases_each_run_once(make_app: MakeApp) -> None:
    executed: list[str] = []

    @job("once")
    async def once(step: Step) -> None:
        executed.append(step.run_id)

    app = await make_app(wrap=MyEngine)
    others = [app.durably, *[await app.another(wrap=MyEngine) for _ in range(2)]]
    runs = await app.durably.trigger_many(once, [None] * 40)
    await asyncio.gather(*(app.process(once, durably=durably, max_concurrent_runs=3) for durably in others))
    assert sorted(executed) == sorted(run.id for run in runs)


async def test_due_crashed_and_old_runs_are_seen_to_while_every_slot_is_busy(make_app: MakeApp) -> None:
    app = await make_app(max_concurrent_runs=1, max_crashes=1, lease=timedelta(milliseconds=300))
    gate = Gate()

    @job("busy")
    async def busy(step: Step) -> None:
        await gate.wait()

    @job("waits")
    async def waits(step: Step) -> None: ...

    due = await app.durably.trigger(waits, delay=timedelta(hours=1))
    crashed = await app.durably.trigger(waits)
    await app.die_with(crashed)
    holder = await app.durably.trigger(busy)
    async with app.durably.worker([busy, waits]):
        await within(gate.reached.wait())
        await app.make_due(due)
        assert (await app.wait(crashed)).status is RunStatus.FAILED

        async def is_released() -> bool:
            return (await app.get(due)).hold is None

        await eventually(is_released)
        gate.opened.set()
        await app.wait(holder)
        assert (await app.wait(due)).status is RunStatus.COMPLETED


async def test_a_hundred_idle_slots_look_once_for_all_and_are_filled_by_few_claims(make_app: MakeApp) -> None:
    claims: list[int] = []
    started, gate = list[str](), asyncio.Event()

    def count(_number: int, statements: Sequence[Statement]) -> bool:
        claims.extend(int(str(s.params["limit"])) for s in statements if s.name == "claim")
        return False

    def wrap(engine: Engine) -> Engine:
        faulty = FaultyEngine(engine)
        faulty.before = count
        return faulty

    @job("slow")
    async def slow(step: Step) -> None:
        started.append(step.run_id)
        await gate.wait()

    app = await make_app(wrap=wrap, poll_interval=timedelta(minutes=10))
    async with app.durably.worker([slow], max_concurrent_runs=100):
        await eventually(lambda: claims)
        assert set(claims) <= {50, 100}  # for all slots, or where the database works in parallel for half of them
        before = len(claims)
        runs = await app.durably.trigger_many(slow, [None] * 100)
        await eventually(lambda: len(started) == 100)
        assert len(claims) - before <= 6  # a few wake-ups, never one for each slot or run
        gate.set()
        for run in runs:
            await app.wait(run)
