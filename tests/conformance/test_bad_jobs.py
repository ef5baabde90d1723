"""Functions that cannot be jobs, workers and steps that cannot be: a clear error with the remedy."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from durably import DuplicateJob, JobRef, Step, SyncStep, UsageError, ValidationError, job
from tests.support.app import App


@dataclass(frozen=True)
class Order:
    number: int


@job("order")
async def order(step: Step, input: Order) -> int:
    return input.number


async def test_two_jobs_of_one_name_in_a_worker_are_refused(app: App) -> None:
    """Before anything is claimed."""

    @job("order")
    async def impostor(step: Step, input: Order) -> None: ...

    run = await app.durably.trigger(order, Order(1))
    for start in (app.durably.worker([order, impostor]).start, app.durably.worker([order, impostor]).process_one):
        with pytest.raises(DuplicateJob, match="'order'"):
            await start()
    assert (await app.get(run)).attempt == 0


JOBS: list[tuple[list[Any], str]] = [
    ([JobRef("order", input=Order, output=int)], "only refers to a job"),
    ([print], "is not a job"),
    (["no.such.module"], "no module 'no.such.module'"),
    (["json"], "has no jobs"),
]


@pytest.mark.parametrize(("jobs", "hint"), JOBS)
async def test_what_is_no_job_is_refused_by_a_worker(app: App, jobs: list[Any], hint: str) -> None:
    """When it starts, saying what to give instead."""
    with pytest.raises(UsageError, match=hint):
        await app.durably.worker(jobs).start()


async def test_steps_that_cannot_be_are_refused_and_the_job_may_go_on(app: App) -> None:
    """Names, keys, and a job's function in place of a step's; nothing is stored of them."""

    @job("steps")
    async def steps(step: Step) -> str:
        wrong: Any = step
        for name in ("", "x" * 257, "a\nb", "\x00", "\ud800", 3, None):
            with pytest.raises(ValidationError) as caught:
                await wrong.run(name, print)
            assert caught.value.field == "name"
        for key in (1.5, True, ("a",), b"a"):
            with pytest.raises(ValidationError) as caught:
                await wrong.run("a", print, key=key)
            assert caught.value.field == "key"
        for fn, hint in ((None, "not a NoneType"), ("text", "not a str"), (order, "step.trigger")):
            with pytest.raises(UsageError, match=f"'fn'.*{hint}"):
                await wrong.run("fn", fn)
        for current, total, field in ((math.nan, None, "current"), ("1", None, "current"), (1, math.inf, "total")):
            with pytest.raises(ValidationError) as caught:
                wrong.progress(current, total)
            assert caught.value.field == field
        return "went on"

    run = await app.execute(steps)
    assert run.output == "went on", run.error
    assert await app.step_names(run) == []
    assert run.progress is None


def wrong_colour(step: Step) -> None: ...


async def wrong_colour_too(step: SyncStep) -> None: ...


async def untyped_input(step: Step, given) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001 # pyright: ignore[reportMissingParameterType, reportUnknownParameterType] - the mistake


async def no_step() -> None: ...


async def three(step: Step, first: int, second: int) -> None: ...


async def with_default(step: Step, given: int = 3) -> None: ...


async def generator(step: Step) -> AsyncGenerator[int, None]:
    yield 1


def socket_input(step: SyncStep, given: socket.socket) -> None: ...


FUNCTIONS: list[tuple[Any, str]] = [
    (lambda: None, "lambda"),
    (print, "function"),
    (Order, "function"),
    (None, "function"),
    (wrong_colour, "SyncStep"),
    (wrong_colour_too, "Step"),
    (untyped_input, "annotate the parameter 'given'"),
    (no_step, r"takes \(step\)"),
    (three, "put several values into one input type"),
    (with_default, "'given' has a default"),
    (generator, "generator"),
    (socket_input, "socket"),
]


@pytest.mark.parametrize(("fn", "hint"), FUNCTIONS)
def test_a_function_that_cannot_be_a_job_is_refused_with_the_remedy(fn: Any, hint: str) -> None:
    """When it is decorated, naming the job."""
    with pytest.raises(UsageError, match=f"job 'bad'.*{hint}"):
        job("bad")(fn)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("priority", {"priority": 1001}),
        ("labels", {"labels": {"a b": "c"}}),
        ("if_pending", {"if_pending": "drop"}),
        ("delay", {"delay": timedelta(-1)}),
        ("idempotency_key", {"idempotency_key": ""}),
        ("concurrency_key", {"concurrency_key": 3}),
    ],
)
def test_a_default_that_cannot_be_is_refused_where_it_is_written(field: str, options: dict[str, Any]) -> None:
    """Not at the first trigger."""
    with pytest.raises(ValidationError) as caught:
        job("bad", **options)
    assert caught.value.field == field


def test_a_job_without_a_name_is_refused_with_the_remedy() -> None:
    """`@job` without parentheses."""
    decorate: Any = job
    with pytest.raises(UsageError, match="needs a name"):
        decorate(wrong_colour)
