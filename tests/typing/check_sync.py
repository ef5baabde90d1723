"""Checked by mypy and pyright, never run: what the methods of a SyncDurably return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Unpack, assert_type

from durably import (
    Event,
    EventType,
    Finding,
    Health,
    Job,
    JobRef,
    KeyLimit,
    Run,
    Snapshot,
    Stats,
    Step,
    SyncDurably,
    SyncWorker,
    TriggerItem,
    TriggerKeywords,
    job,
)


@dataclass
class In:
    n: int


@dataclass
class Out:
    total: int


@job("add")
async def add(step: Step, input: In) -> Out:
    return Out(input.n + step.attempt)


@job("tick")
async def tick(step: Step) -> int:
    return step.attempt


train = JobRef("train", input=In, output=Out)


def check_triggers(durably: SyncDurably) -> None:
    assert_type(durably.trigger(add, In(1), labels={"a": "b"}, priority=3), Run[Out])
    assert_type(durably.trigger(train, In(1)), Run[Out])
    assert_type(durably.trigger(tick), Run[int])
    assert_type(durably.trigger(tick, idempotency_key="k"), Run[int])
    assert_type(durably.trigger("elsewhere", {"n": 1}), Run[object])
    assert_type(durably.trigger_many(add, [In(1), In(2)]), list[Run[Out]])
    assert_type(durably.trigger_many(add, [TriggerItem(In(1), priority=1)]), list[Run[Out]])
    assert_type(durably.trigger_many("elsewhere", [1, 2]), list[Run[object]])
    assert_type(durably.trigger_and_wait(add, In(1), timeout=1, delay=None), Out)
    assert_type(durably.trigger_and_wait(tick, timeout=1), int)
    assert_type(durably.trigger_and_wait("elsewhere"), object)


def check_what_is_refused(durably: SyncDurably) -> None:
    durably.trigger(add, 3)  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    durably.trigger(add, In(1), colour="red")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    durably.trigger(add)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def check_looks(durably: SyncDurably) -> None:
    run = durably.trigger(add, In(1))
    assert_type(run.output, Out | None)
    assert_type(durably.wait(run), Run[Out])
    assert_type(durably.wait("id", timeout=1), Run[object])
    assert_type(durably.result(run), Out)
    assert_type(durably.result("id"), object)
    assert_type(durably.get_run("id", add), Run[Out] | None)
    assert_type(durably.get_run(run), Run[Out] | None)
    assert_type(durably.get_run("id"), Run[object] | None)
    assert_type(durably.get_runs(add), list[Run[Out]])
    assert_type(durably.get_runs("add", status="failed"), list[Run[object]])
    assert_type(durably.get_runs(), list[Run[object]])
    assert_type(durably.get_runs(add, offset=3), list[Run[Out]])
    assert_type(durably.get_events(run=run, after=0), list[Event])
    assert_type(durably.get_snapshot(run), Snapshot[object] | None)
    assert_type(durably.get_stats(add), Stats)
    assert_type(durably.get_health(timeout=1), Health)
    assert_type(durably.get_jobs(), tuple[Job[Any, Any], ...])


def check_acts(durably: SyncDurably) -> None:
    run = durably.trigger(add, In(1))
    assert_type(durably.cancel(run), Run[Out])
    assert_type(durably.resume("id"), Run[object])
    assert_type(durably.retrigger(run, from_step="a"), Run[Out])
    assert_type(durably.retrigger("id", job=add), Run[Out])
    assert_type(durably.retrigger("id"), Run[object])


def check_care(durably: SyncDurably) -> None:
    assert_type(
        SyncDurably.from_env({"DURABLY_URL": "sqlite:///a.db"}, poll_interval=timedelta(seconds=1)), SyncDurably
    )
    assert_type(durably.migrate(), tuple[str, ...])
    assert_type(durably.migration_sql(), str)
    assert_type(durably.diagnose(jobs=[add]), list[Finding])
    assert_type(durably.get_limits(), list[KeyLimit])
    assert_type(durably.count_purgeable(older_than=timedelta(days=1)), int)
    assert_type(durably.purge_runs(older_than=timedelta(days=1), limit=1), int)
    [size] = durably.table_sizes()
    assert_type(size.name, str)


def check_options(durably: SyncDurably, **options: Unpack[TriggerKeywords]) -> None:
    assert_type(durably.trigger(tick, **options), Run[int])


def check_connections(durably: SyncDurably, connection: object) -> None:
    run = durably.trigger(add, In(1), connection=connection)
    assert_type(run, Run[Out])
    assert_type(run.is_committed, bool)
    assert_type(durably.trigger(tick, connection=connection), Run[int])
    assert_type(durably.trigger("elsewhere", 1, connection=connection), Run[object])
    assert_type(durably.trigger_many(add, [In(1)], connection=connection), list[Run[Out]])
    assert_type(durably.cancel(run, connection=connection), Run[Out])
    assert_type(durably.retrigger(run, connection=connection), Run[Out])


def check_worker(durably: SyncDurably) -> None:
    with durably.worker([add]) as worker:
        assert_type(worker, SyncWorker)
        worker.register(tick, replace=True)
    assert_type(worker.process_one(), bool)
    assert_type([event.type for event in durably.events()], list[EventType])
