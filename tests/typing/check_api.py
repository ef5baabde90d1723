"""Checked by mypy and pyright, never run: what is right passes, and what is wrong is an error of both.

An ignore that is not needed is an error too, so each line with one shows a mistake that is found.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from durably import Durably, Event, Job, JobRef, Run, RunStatus, Step, SyncStep, TriggerItem, Worker, job


@dataclass(frozen=True)
class ImportInput:
    path: str


@dataclass(frozen=True)
class ImportOutput:
    count: int


class Deps:
    """What a worker provides."""

    url: str


@job("import-csv", concurrency_key="imports")
async def import_csv(step: Step[Deps], input: ImportInput) -> ImportOutput:
    raise NotImplementedError


@job("tick")
async def tick(step: Step) -> None:
    raise NotImplementedError


@job("resize")
def resize(step: SyncStep[Deps], input: list[int]) -> dict[str, int]:
    raise NotImplementedError


@job("maybe")
async def maybe(step: Step, input: ImportInput | None) -> ImportOutput | None:
    raise NotImplementedError


assert_type(import_csv, Job[ImportInput, ImportOutput])
assert_type(tick, Job[None, None])
assert_type(resize, Job[list[int], dict[str, int]])
TRAIN = JobRef[ImportInput, ImportOutput]("train")
assert_type(TRAIN, JobRef[ImportInput, ImportOutput])
assert_type(JobRef("train", input=ImportInput, output=ImportOutput), JobRef[ImportInput, ImportOutput])


# --- triggers and results -----------------------------------------------------------------------------


async def triggers(durably: Durably) -> None:
    run = await durably.trigger(import_csv, ImportInput(path="a"), idempotency_key="k", delay=timedelta(seconds=1))
    assert_type(run, Run[ImportOutput])
    assert_type(await durably.result(run), ImportOutput)
    assert_type(await durably.wait(run), Run[ImportOutput])
    assert_type(run.output, ImportOutput | None)
    assert_type(run.status, RunStatus)
    assert_type(await durably.trigger(TRAIN, ImportInput(path="a")), Run[ImportOutput])
    assert_type(await durably.trigger(tick), Run[None])
    assert_type(await durably.trigger(tick, priority=3, labels={"a": "b"}), Run[None])
    assert_type(await durably.trigger(resize, [1, 2]), Run[dict[str, int]])
    assert_type(await durably.trigger(maybe, None), Run[ImportOutput | None])
    assert_type(await durably.trigger("by-name", {"any": "json"}), Run[object])
    assert_type(await durably.trigger_and_wait(import_csv, ImportInput(path="a"), timeout=3), ImportOutput)
    assert_type(await durably.trigger_and_wait("by-name"), object)

    await durably.trigger(import_csv, {"path": "a"})  # type: ignore[misc] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(import_csv, ImportInput)  # type: ignore[misc] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(TRAIN, "a")  # type: ignore[misc] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(import_csv)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(resize, ["a"])  # type: ignore[misc] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(tick, 3)  # type: ignore[misc] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(import_csv.fn, 3)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(tick, priority="high")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.trigger(tick, colour="red")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await durably.trigger(tick, if_pending="drop")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    ImportInput(path=run.output)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def triggers_many(durably: Durably) -> None:
    assert_type(await durably.trigger_many(import_csv, [ImportInput(path="a")]), list[Run[ImportOutput]])
    items = [TriggerItem(ImportInput(path="a"), priority=3)]
    assert_type(await durably.trigger_many(import_csv, items), list[Run[ImportOutput]])
    await durably.trigger_many(import_csv, ["a"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType, reportCallIssue]
    TriggerItem(ImportInput(path="a"), priority="high")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def looks(durably: Durably, run_id: str) -> None:
    assert_type(await durably.get_run(run_id), Run[object] | None)
    assert_type(await durably.get_run(run_id, import_csv), Run[ImportOutput] | None)
    assert_type(await durably.get_runs(import_csv, status="failed", limit=3), list[Run[ImportOutput]])
    assert_type(await durably.get_runs([import_csv, "by-name"]), list[Run[object]])
    assert_type(await durably.get_runs(labels={"a": "b"}), list[Run[object]])
    assert_type(await durably.result(run_id), object)
    assert_type(await durably.cancel(run_id), Run[object])
    assert_type(await durably.retrigger(run_id, job=import_csv), Run[ImportOutput])
    events: AsyncIterator[Event] = durably.events(run=run_id)
    async for event in events:
        assert_type(event, Event)
    await durably.get_run(3)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await durably.get_runs(limit="3")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
    await durably.cancel(None)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]


def workers(durably: Durably, make: AbstractAsyncContextManager[Deps]) -> None:
    assert_type(durably.worker([import_csv, resize, "app.jobs"], deps=lambda: make), Worker)
    durably.worker([TRAIN])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    durably.worker([import_csv.fn, 3])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    durably.worker([tick], max_concurrent_runs="4")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    durably.on("run:complete", print)
    durably.on("run:complete", 3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# --- steps --------------------------------------------------------------------------------------------


async def read(path: str, *, limit: int = 10) -> list[ImportInput]:
    raise NotImplementedError


def count(rows: list[ImportInput], factor: int) -> int:
    raise NotImplementedError


def untyped():  # type: ignore[no-untyped-def] # noqa: ANN201
    raise NotImplementedError


@job("steps")
async def steps(step: Step[Deps], input: ImportInput) -> int:
    assert_type(step.deps, Deps)
    assert_type(step.deps.url, str)
    rows = await step.run("read", read, input.path)
    assert_type(rows, list[ImportInput])
    assert_type(await step.run("count", count, rows, 2, key=3), int)
    assert_type(await step.run("lambda", lambda: 3), int)
    assert_type(await step.run("partial", functools.partial(read, limit=3), "a"), list[ImportInput])
    assert_type(await step.run("made", ImportInput, "a"), ImportInput)
    assert_type(await step.run("returns", untyped, returns=ImportOutput), ImportOutput)
    assert_type(await step.trigger(import_csv, ImportInput(path="a"), key="a", priority=1), str)

    await step.run("read", read, 3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.run("read", read)  # type: ignore[arg-type, call-arg] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.run("count", count, rows)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.run("count", count, rows, "2")  # type: ignore[arg-type, call-arg] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.run("count", count(rows, 2))  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.run(count, rows, 2)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.run("key", untyped, key=1.5)  # type: ignore[call-arg, call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.trigger(import_csv, "a")  # type: ignore[misc] # pyright: ignore[reportArgumentType]
    step.progress("half")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    step.deps.nothing  # type: ignore[attr-defined] # noqa: B018 # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    step.run("forgotten", count, rows, 2)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    return await step.run("read", read, "a")  # type: ignore[arg-type] # pyright: ignore[reportReturnType]


@job("blocking-steps")
def blocking_steps(step: SyncStep[Deps], input: list[ImportInput]) -> int:
    assert_type(step.deps, Deps)
    assert_type(step.run("count", count, input, 2), int)
    assert_type(step.run("returns", untyped, returns=ImportOutput), ImportOutput)
    assert_type(step.trigger(tick, None), str)
    step.run("count", count, input)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    step.trigger(resize, "a")  # type: ignore[misc] # pyright: ignore[reportArgumentType]
    return step.run("text", str, 3)  # type: ignore[return-value] # pyright: ignore[reportReturnType]


@job("bad-input", idempotency_key=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
async def bad_key(step: Step) -> None:
    raise NotImplementedError


@job("too-many")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
async def too_many(step: Step, first: int, second: int) -> None:
    raise NotImplementedError
