"""Jobs and steps that the tests of jobs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, NotRequired, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from durably.errors import UsageError
from durably.jobs import Job, JobRef, TriggerOptions, build_run, job
from durably.model import NewRun

DepsT = TypeVar("DepsT")


class Step(Generic[DepsT]):
    colour: ClassVar[Literal["async", "sync"]] = "async"


class SyncStep(Generic[DepsT]):
    colour: ClassVar[Literal["async", "sync"]] = "sync"


class Deps:
    pass


class Import(BaseModel):
    path: str
    size: int = 0


class Report(BaseModel):
    count: int


class Tags(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tenant: str
    source: str | None = None


class LooseTags(TypedDict):
    tenant: str
    source: NotRequired[str]


@job("import-csv")
async def import_csv(step: Step[Deps], input: Import) -> Report:
    """Import a file."""
    del step
    return Report(count=input.size)


@job("tick")
def tick(step: SyncStep[None]) -> None:
    del step


def of(fn: Callable[[Any], object]) -> object:
    """A default that is a function; types its lambda."""
    return fn


def run_of(target: Job[Any, Any] | JobRef[Any, Any] | str, input: object = None, **options: Any) -> NewRun:
    return build_run(target, input, id="1", max_bytes=1000, options=TriggerOptions(**options))


def refused(decorate: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        decorate()
    return str(caught.value)


def full(**defaults: Any) -> Job[Import, None]:
    @job("full", **defaults)
    async def fn(step: Step[None], input: Import) -> None:
        del step, input

    return fn
