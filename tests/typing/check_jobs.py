"""Checked by mypy and pyright, never run: which types jobs, references and options have."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Generic, Literal, TypeVar, assert_type

from pydantic import BaseModel

from durably.jobs import Job, JobRef, Registry, Target, TriggerOptions, build_run, job

DepsT = TypeVar("DepsT")
InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class Step(Generic[DepsT]):
    colour: ClassVar[Literal["async", "sync"]] = "async"


class SyncStep(Generic[DepsT]):
    colour: ClassVar[Literal["async", "sync"]] = "sync"


class Deps: ...


class Import(BaseModel):
    path: str


class Report(BaseModel):
    count: int


@job("import-csv", concurrency_key=lambda i: i.path, labels={"kind": "csv"}, delay=timedelta(seconds=1))
async def import_csv(step: Step[Deps], input: Import) -> Report:
    raise NotImplementedError


@job("tick", if_pending="skip", priority=lambda _: 3)
async def tick(step: Step[None]) -> None:
    raise NotImplementedError


@job("resize")
def resize(step: SyncStep[Deps], input: list[int]) -> dict[str, int]:
    raise NotImplementedError


@job("sweep")
def sweep(step: SyncStep[None]) -> int:
    raise NotImplementedError


@job("maybe")
async def maybe(step: Step[None], input: Import | None) -> Report | None:
    raise NotImplementedError


assert_type(import_csv, Job[Import, Report])
assert_type(tick, Job[None, None])
assert_type(resize, Job[list[int], dict[str, int]])
assert_type(sweep, Job[None, int])
assert_type(maybe, Job[Import | None, Report | None])

assert_type(JobRef("train", input=Import, output=Report), JobRef[Import, Report])
assert_type(JobRef("train", input=list[int], output=Report), JobRef[list[int], Report])
assert_type(JobRef[Import, Report]("train"), JobRef[Import, Report])
assert_type(JobRef[object, object]("train"), JobRef[object, object])


def trigger(target: Target[InputT, OutputT], input: InputT) -> OutputT:
    raise NotImplementedError


assert_type(trigger(import_csv, Import(path="a")), Report)
assert_type(trigger(JobRef[Import, Report]("train"), Import(path="a")), Report)
assert_type(trigger(resize, [1]), dict[str, int])
assert_type(trigger(tick, None), None)
trigger(import_csv, {"path": "a"})  # type: ignore[misc] # pyright: ignore[reportArgumentType]
trigger(import_csv, None)  # type: ignore[misc] # pyright: ignore[reportArgumentType]
trigger(resize, ["a"])  # type: ignore[misc] # pyright: ignore[reportArgumentType]
trigger(tick, 3)  # type: ignore[misc] # pyright: ignore[reportArgumentType]

job("bad", if_pending="drop")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
job("bad", labels={"a": 3})  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
TriggerOptions(priority="high")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

Registry([import_csv, tick, resize, "app.jobs"])
Registry([JobRef[None, None]("train")])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
assert_type(Registry([import_csv]).names, tuple[str, ...])
build_run(import_csv, Import(path="a"), id="1", max_bytes=1000)
assert_type(import_csv.input_codec.validate({}, field="input"), Import)
assert_type(import_csv.output_codec.decode("{}", where="output"), Report)
