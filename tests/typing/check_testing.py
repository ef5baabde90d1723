"""Checked by mypy and pyright, never run: what a harness returns, and where fake steps fit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from durably import Durably, Run, Step, SyncStep, job
from durably.testing import FakeStep, FakeSyncStep, RunReport, StepCall, harness, in_turn


@dataclass
class Deps:
    name: str


@job("add")
async def add(step: Step[Deps], input: int) -> str:
    return step.deps.name * input


@job("tick")
def tick(step: SyncStep) -> int:
    return step.attempt


async def helper(step: Step[Deps]) -> str:
    return step.deps.name


def blocking_helper(step: SyncStep[Deps]) -> str:
    return step.deps.name


async def check_harness() -> None:
    async with harness([add, tick], deps=Deps("a"), steps={"a": in_turn(OSError(), 1)}) as h:
        assert_type(await h.run(add, 3, crash_after="a", delay=timedelta(1)), RunReport[str])
        assert_type((await h.run(tick)).output, int)
        run = await h.trigger(add, 3, idempotency_key="k")
        assert_type(run, Run[str])
        assert_type(await h.finish(run), RunReport[str])
        assert_type(await h.finish(run.id), RunReport[object])
        assert_type(await h.report(run.id), RunReport[object])
        assert_type((await h.report(run)).run.output, str | None)
        assert_type(await h.settle(), list[RunReport[object]])
        assert_type((await h.finish(run)).calls("a"), list[StepCall])
        durably: Durably = h.durably
        await durably.cancel(run)
        await h.run(add, "3")  # type: ignore[misc] # pyright: ignore[reportCallIssue, reportArgumentType] - not an int
        await h.run(add)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue, reportArgumentType] - no input


async def check_fakes() -> None:
    assert_type(await helper(FakeStep[Deps](deps=Deps("a"))), str)
    assert_type(blocking_helper(FakeSyncStep[Deps](deps=Deps("a"))), str)
