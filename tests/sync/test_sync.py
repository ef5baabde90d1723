"""`SyncDurably`: the same facade for blocking code."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, get_overloads

import pytest

from durably import (
    DuplicateJob,
    Durably,
    Event,
    RunFailed,
    RunNotFound,
    RunStatus,
    Step,
    SyncDurably,
    SyncStep,
    UsageError,
    ValidationError,
    Worker,
    job,
)
from durably.sync import DurablyKeywords, SyncWorker
from tests.sync.jobs import QUICK, SECONDS, double, fragile

# --- the same facade ------------------------------------------------------------------------------------


def public(cls: type[object]) -> dict[str, list[inspect.Signature]]:
    """The public methods of a class, each with its overloads: names, defaults and types of parameters, what returns."""
    return {
        name: [inspect.signature(each) for each in (*get_overloads(member), member)]
        for name, member in inspect.getmembers(cls, callable)
        if not name.startswith("_")
    }


DIFFERENT = {"worker": "SyncWorker", "events": "SyncEventStream"}
"""What a method returns that blocks in its turn."""


@pytest.mark.parametrize(("ours", "theirs"), [(SyncDurably, Durably), (SyncWorker, Worker)])
def test_it_has_the_same_methods_with_the_same_types(ours: type[object], theirs: type[object]) -> None:
    expected = public(theirs)
    for name, returned in DIFFERENT.items():
        if name in expected:
            expected[name] = [each.replace(return_annotation=returned) for each in expected[name]]
    found = public(ours)
    if ours is SyncDurably:  # it takes plain context managers too
        [made] = found["worker"]
        deps = inspect.signature(Durably.worker).parameters["deps"]
        found["worker"] = [made.replace(parameters=[*list(made.parameters.values())[:-1], deps])]
    assert found == expected


def test_it_takes_the_same_settings() -> None:
    settings = {name: each.annotation for name, each in inspect.signature(Durably).parameters.items() if name != "url"}
    assert settings == {name: each.__forward_arg__ for name, each in DurablyKeywords.__annotations__.items()}


def test_settings_come_from_the_environment() -> None:
    durably = SyncDurably.from_env({"DURABLY_URL": "sqlite:///a.db"})
    assert repr(durably) == "SyncDurably('sqlite:///a.db')"
    with pytest.raises(ValidationError, match="DURABLY_MAX_CRASHES"):
        SyncDurably.from_env({"DURABLY_URL": "sqlite:///a.db", "DURABLY_MAX_CRASHES": "0"})


def test_a_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ValidationError, match="max_crashes"):
        SyncDurably("sqlite:///:memory:", max_crashes=0)
    assert "secret" not in repr(SyncDurably("postgresql://user:secret@host/db"))


def test_everything_can_be_done(durably: SyncDurably) -> None:
    @contextmanager
    def deps() -> Generator[str]:
        yield "deps"

    heard: list[str] = []
    stop_hearing = durably.on("run:fail", lambda event: heard.append(event.run_id))
    with durably.worker([double, fragile], deps=deps, max_concurrent_runs=3) as worker:
        assert (worker.is_running, worker.jobs) == (True, ("double", "fragile"))
        assert durably.trigger_and_wait(double, 4, timeout=SECONDS) == 8
        run = durably.trigger(fragile, labels={"a": "b"})
        with pytest.raises(RunFailed, match="not today"):
            durably.result(run, timeout=SECONDS)
        durably.resume(run)
        assert durably.result(run, timeout=SECONDS) == "deps"
        first = durably.get_runs(double)[0]
        assert durably.result(durably.retrigger(first), timeout=SECONDS) == 8
    assert not worker.is_running
    assert heard[0] == run.id
    stop_hearing()

    several = durably.trigger_many(double, [1, 2, 3])
    assert durably.cancel(several[0]).status is RunStatus.CANCELLED
    assert durably.wait(several[0]).status is RunStatus.CANCELLED
    assert worker.process_one()
    assert worker.process_until_idle() == 1
    assert [run.status for run in durably.get_runs(double, limit=2)] == ["completed", "completed"]
    assert [step.name for step in durably.get_steps(several[1])] == ["double"]
    assert durably.get_logs(several[1]) == []
    found = durably.get_run(several[2].id, double)
    assert found is not None
    assert found.output == 6
    assert [event.type for event in durably.events(run=found)][-1] == "run:complete"
    durably.delete_run(several[0])
    with pytest.raises(RunNotFound):
        durably.get_steps(several[0])
    assert durably.purge_runs(older_than=timedelta(0), statuses="completed") == 5


def test_it_is_looked_after_too(url: str) -> None:
    durably = SyncDurably(url, migrate="check", poll_interval=QUICK)
    try:
        assert "CREATE TABLE" in durably.migration_sql()
        assert durably.migrate() != ()
        assert durably.migrate() == ()
        durably.set_limit("key", 2)
        assert [(one.key, one.limit) for one in durably.get_limits()] == [("key", 2)]
        worker = durably.worker([double, fragile], exclude=["frag*"])
        assert worker.jobs == ("double",)
        assert [one.name for one in durably.get_jobs()] == ["double"]
        first, second = durably.trigger_many(double, [1, 2])
        assert worker.process_until_idle() == 2
        assert [run.id for run in durably.get_runs(offset=1)] == [first.id]
        snapshot = durably.get_snapshot(first)
        assert snapshot is not None
        assert [event.seq for event in durably.get_events(run=first, limit=1)] == [snapshot.seq]
        assert durably.get_stats(double).counts["double"][RunStatus.COMPLETED] == 2
        assert durably.get_health().schema_version == durably.get_health().code_version
        assert {finding.level for finding in durably.diagnose(jobs=["double"])} <= {"ok", "warning"}
        assert durably.table_sizes()
        assert durably.count_purgeable(older_than=timedelta(0)) == 2
        assert durably.purge_runs(older_than=timedelta(0), limit=1) == 1
        assert [run.id for run in durably.get_runs()] == [second.id]
    finally:
        durably.close()


def test_deps_may_be_asynchronous_too(durably: SyncDurably) -> None:
    @asynccontextmanager
    async def deps() -> AsyncGenerator[str]:
        yield "async"

    run = durably.trigger(fragile)
    worker = durably.worker([fragile], deps=deps)
    worker.process_until_idle()
    durably.resume(run)
    worker.process_until_idle()
    assert durably.result(run) == "async"


def test_the_feed_is_followed(durably: SyncDurably) -> None:
    with durably.events(job=double) as events:
        run = durably.trigger(double, 1)
        event = next(events)
        assert (event.type, event.run_id) == ("run:trigger", run.id)
    assert list(events) == []


# --- threads and loops ----------------------------------------------------------------------------------


def test_many_threads_share_it(durably: SyncDurably) -> None:
    def one(number: int) -> int:
        return durably.trigger_and_wait(double, number, timeout=SECONDS)

    with durably.worker([double]), ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(40)))
    assert results == [2 * n for n in range(40)]


async def test_it_works_where_an_event_loop_runs(durably: SyncDurably) -> None:
    """As in a cell of a notebook."""
    with durably.worker([double]):
        assert durably.trigger_and_wait(double, 2, timeout=SECONDS) == 4


def test_making_one_starts_nothing(tmp_path: Path) -> None:
    threads = count_threads()
    SyncDurably(f"sqlite:///{tmp_path}/new/jobs.db").close()
    SyncDurably("postgresql://user@host.invalid/db").worker([double])
    assert list(tmp_path.iterdir()) == []
    assert count_threads() == threads


def test_closing_ends_its_threads_and_the_next_use_opens_it_again(url: str) -> None:
    threads = count_threads()
    durably = SyncDurably(url)
    run = durably.trigger(double, 1)
    worker = durably.worker([double])
    worker.start()
    durably.close()
    durably.close()
    assert not worker.is_running
    assert count_threads() == threads
    assert durably.get_run(run)
    with durably, durably:
        pass
    assert count_threads() == threads


def count_threads() -> int:
    """How many there are when ours have ended, which were told to."""
    for thread in threading.enumerate():
        if thread.name.startswith("durably"):
            thread.join(SECONDS)
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())  # those are for to_thread


def test_its_own_loop_cannot_wait_for_itself(durably: SyncDurably) -> None:
    @job("waits")
    async def waits(step: Step) -> str:
        with pytest.raises(UsageError, match=r"use step\.trigger"):
            durably.trigger(double, 1)
        return "refused"

    @job("asks")
    def asks(step: SyncStep) -> int:
        return durably.trigger_and_wait(double, 4, timeout=SECONDS)

    with durably.worker([waits, asks, double]):
        assert durably.trigger_and_wait(waits, timeout=SECONDS) == "refused"
        assert durably.trigger_and_wait(asks, timeout=SECONDS) == 8


async def test_both_can_be_used_at_the_same_time(durably: SyncDurably) -> None:
    """Where the asynchronous one is open calls run in its loop, as in `durably worker` with a SyncDurably."""

    @job("asks")
    def asks(step: SyncStep) -> int:
        with durably.worker([double]) as worker:
            assert worker.is_running
            return durably.trigger_and_wait(double, 4, timeout=SECONDS)

    durably.close()
    threads = count_threads()
    async with durably.asynchronous as beside, beside.worker([asks]):
        assert await beside.trigger_and_wait(asks, timeout=SECONDS) == 8
        assert await asyncio.to_thread(durably.trigger_and_wait, asks, timeout=SECONDS) == 8
        with pytest.raises(UsageError, match="its own event loop"):
            durably.trigger(double, 1)
        await asyncio.to_thread(durably.close)
        assert await beside.trigger_and_wait(asks, timeout=SECONDS) == 8
        assert "durably-sync" not in {thread.name for thread in threading.enumerate()}
    assert count_threads() == threads
    assert len(durably.get_runs()) == 6


def test_who_waits_while_it_is_closed_is_told(durably: SyncDurably) -> None:
    run = durably.trigger(double, 1)
    began = threading.Event()

    def first(_event: Event) -> None:
        began.set()

    durably.on("run:trigger", first)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(durably.result, run)
        durably.trigger(double, 2)
        began.wait(SECONDS)
        durably.close()
        with pytest.raises(UsageError, match="closed"):
            waiting.result(SECONDS)


# --- notebooks ------------------------------------------------------------------------------------------


def cell(text: str) -> Any:
    """The job as a cell of a notebook makes it, each time anew."""

    @job("in-a-cell")
    async def in_a_cell(step: Step) -> str:
        return text

    return in_a_cell


def test_a_cell_that_is_run_again_replaces_its_job(durably: SyncDurably) -> None:
    with durably.worker([double]) as worker:
        for text in ("first", "second"):
            worker.register(cell(text), replace=True)
            assert durably.trigger_and_wait("in-a-cell", timeout=SECONDS) == text
        with pytest.raises(DuplicateJob):
            worker.register(cell("third"))
        with pytest.raises(UsageError, match="not a job"):
            worker.register(len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(UsageError, match="runs already"):
            worker.start()
        assert worker.jobs == ("double", "in-a-cell")
        assert durably.trigger_and_wait("in-a-cell", timeout=SECONDS) == "second"


async def test_a_worker_that_runs_serves_what_is_registered_at_once(url: str) -> None:
    async with Durably(url, poll_interval=timedelta(minutes=5)) as durably:
        async with durably.worker([double]) as worker:
            await durably.trigger_and_wait(double, 1, timeout=SECONDS)
            run = await durably.trigger("in-a-cell")
            worker.register(cell("there"))
            assert await durably.result(run, timeout=SECONDS) == "there"
            worker.register("tests.support.some_jobs")
            assert await durably.trigger_and_wait("some-blocking", 1, timeout=SECONDS) == 3


def test_a_job_may_be_registered_before_the_start(durably: SyncDurably) -> None:
    worker = durably.worker([])
    worker.register(double)
    run = durably.trigger(double, 3)
    worker.process_until_idle()
    assert durably.result(run) == 6
