"""Checked by mypy and pyright, never run: what the methods of a Durably return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from durably import Durably, JobRef, Run, Step, TriggerItem, job


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


async def check_triggers(durably: Durably) -> None:
    assert_type(await durably.trigger(add, In(1), labels={"a": "b"}, priority=3), Run[Out])
    assert_type(await durably.trigger(train, In(1)), Run[Out])
    assert_type(await durably.trigger(tick), Run[int])
    assert_type(await durably.trigger(tick, idempotency_key="k"), Run[int])
    assert_type(await durably.trigger("elsewhere", {"n": 1}), Run[object])
    assert_type(await durably.trigger_many(add, [In(1), In(2)]), list[Run[Out]])
    assert_type(await durably.trigger_many(add, [TriggerItem(In(1), priority=1)]), list[Run[Out]])
    assert_type(await durably.trigger_many("elsewhere", [1, 2]), list[Run[object]])
    assert_type(await durably.trigger_and_wait(add, In(1), timeout=1, delay=None), Out)
    assert_type(await durably.trigger_and_wait(tick, timeout=1), int)
    assert_type(await durably.trigger_and_wait("elsewhere"), object)


async def check_what_is_refused(durably: Durably) -> None:
    await durably.trigger(add, 3)  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await durably.trigger(add, In(1), colour="red")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await durably.trigger(add)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def check_looks(durably: Durably) -> None:
    run = await durably.trigger(add, In(1))
    assert_type(run.output, Out | None)
    assert_type(await durably.wait(run), Run[Out])
    assert_type(await durably.wait("id", timeout=1), Run[object])
    assert_type(await durably.result(run), Out)
    assert_type(await durably.result("id"), object)
    assert_type(await durably.get_run("id", add), Run[Out] | None)
    assert_type(await durably.get_run(run), Run[Out] | None)
    assert_type(await durably.get_run("id"), Run[object] | None)
    assert_type(await durably.get_runs(add), list[Run[Out]])
    assert_type(await durably.get_runs("add", status="failed"), list[Run[object]])
    assert_type(await durably.get_runs(), list[Run[object]])


async def check_acts(durably: Durably) -> None:
    run = await durably.trigger(add, In(1))
    assert_type(await durably.cancel(run), Run[Out])
    assert_type(await durably.resume("id"), Run[object])
    assert_type(await durably.retrigger(run, from_step="a"), Run[Out])
    assert_type(await durably.retrigger("id", job=add), Run[Out])
    assert_type(await durably.retrigger("id"), Run[object])


async def check_connections(durably: Durably, connection: object) -> None:
    run = await durably.trigger(add, In(1), connection=connection)
    assert_type(run, Run[Out])
    assert_type(run.is_committed, bool)
    assert_type(await durably.trigger("elsewhere", 1, connection=connection), Run[object])
    assert_type(await durably.trigger_many(add, [In(1)], connection=connection), list[Run[Out]])
    assert_type(await durably.cancel(run, connection=connection), Run[Out])
    assert_type(await durably.retrigger(run, connection=connection), Run[Out])
