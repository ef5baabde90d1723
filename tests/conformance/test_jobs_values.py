"""G11: a step gives the same value, of the same type, the first time and on every replay."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from durably import JobRef, Run, RunFailed, RunStatus, SerializationError, Step, StepStatus, ValidationError, job
from tests.support.app import App, within


@dataclass(frozen=True)
class Row:
    name: str
    tags: tuple[str, ...] = ()
    parent: Row | None = None


class Person(BaseModel):
    name: str
    born: date
    address: dict[str, list[int]] = Field(default_factory=dict[str, list[int]])


class Employee(Person):
    salary: int


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Size(StrEnum):
    SMALL = "small"


class Level(IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict):
    name: str
    when: datetime


@dataclass
class Everything:
    rows: list[Row] = field(default_factory=list[Row])
    one: Row | Person | int | None = None


MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
VALUES: list[tuple[Any, Any]] = [
    (Row, Row("a", ("x", "y"), Row("b"))),
    (Person, Person(name="Ada", born=date(1815, 12, 10), address={"a": [1, 2]})),
    (Everything, Everything([Row("a")], Person(name="Ada", born=date(1, 1, 1)))),
    (Everything, Everything(one=3)),
    (datetime, MOMENT),
    (datetime, MOMENT.replace(tzinfo=None)),
    (datetime, MOMENT.astimezone(timezone(timedelta(hours=-7)))),
    (date, date(2024, 2, 29)),
    (time, time(12, 0, 0, 1)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Colour, Colour.RED),
    (Colour, Colour.BLUE),
    (Size, Size.SMALL),
    (Level, Level.HIGH),
    (list[Colour], [Colour.BLUE, Colour.RED]),
    (Point, Point(1, 2.5)),
    (Options, {"name": "a", "when": MOMENT}),
    (tuple[int, str], (1, "a")),
    (tuple[Row, ...], (Row("a"), Row("b"))),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, Row], {1: Row("a")}),
    (int | str, 3),
    (int | str, "3"),
    (Row | Person, Person(name="Ada", born=date(1815, 12, 10))),
    (Row | None, None),
    (Row | None, Row("a")),
    (None, None),
    (bool | int, True),
    (float, 3),
    (float, -0.0),
    (float, 1e16),
    (int, 10**40),
    (bytes, b"text"),
    (PurePosixPath, PurePosixPath("/a/b")),
    (Literal["a", "b"], "b"),
    (Annotated[int, Field(gt=0)], 3),
    (str, 'a "quoted" \u2028 \U0001f600 \x00 text\r\n'),
    (object, {"b": 1, "a": [1.5, None, True, "x", {}]}),
    (list[object], []),
]


async def break_at_first(step: Step) -> None:
    if step.attempt == 1:
        raise RuntimeError("the first execution ends here")


async def test_a_step_gives_the_same_value_of_the_same_type_on_a_replay(app: App) -> None:
    """G11."""
    seen: dict[int, list[object]] = {1: [], 2: []}

    @job("values")
    async def values(step: Step) -> None:
        for place, (tp, value) in enumerate(VALUES):
            fn = (lambda value=value: value) if step.attempt == 1 else not_again
            seen[step.attempt].append(await step.run("value", fn, returns=tp, key=place))
        await break_at_first(step)

    def not_again() -> object:
        raise AssertionError("a stored step was executed again")

    failed = await app.execute(values)
    ended = await app.again(failed, values)

    assert ended.status is RunStatus.COMPLETED, ended.error
    assert seen[1] == [value for _, value in VALUES]
    assert [described(value) for value in seen[2]] == [described(value) for value in seen[1]]


def described(value: object) -> tuple[type, str, object]:
    """The value with the type of all its parts: 3 is not 3.0, a StrEnum is not its text."""
    return type(value), repr(value), value


async def test_the_first_execution_gets_the_decoded_value_and_not_the_live_object(app: App) -> None:
    """G11."""
    live = Everything([Row("a")])

    @job("live")
    async def live_job(step: Step) -> list[str]:
        got = await step.run("make", lambda: live, returns=Everything)
        live.rows.append(Row("behind the back"))
        number = await step.run("number", lambda: 3, returns=float)
        return [row.name for row in got.rows] + [repr(number)]

    assert (await app.execute(live_job)).output == ["a", "3.0"]


@job("typed")
async def typed(step: Step, input: Everything) -> Person:
    assert isinstance(input, Everything)
    assert input.rows == [Row("a", ("b",))]
    assert isinstance(input.one, Person)
    return input.one


ADA = Person(name="Ada", born=date(1815, 12, 10))


async def test_input_and_output_keep_their_types_on_the_way(app: App) -> None:
    """G11, for what goes into a run and comes out of it."""
    run = await app.durably.trigger(typed, Everything([Row("a", ("b",))], ADA))
    await app.process(typed)

    assert run.input == Everything([Row("a", ("b",))], ADA)
    assert await app.durably.result(run) == ADA
    found = await app.durably.get_run(run.id, typed)
    assert found is not None
    assert (found.input, found.output) == (run.input, ADA)
    [listed] = await app.durably.get_runs(typed)
    assert listed.output == ADA


async def test_a_job_can_be_triggered_by_name_with_plain_json(app: App) -> None:
    """G11, where the trigger has not the code: the input is what its JSON means to the job's type."""
    plain = {"rows": [{"name": "a", "tags": ["b"]}], "one": {"name": "Ada", "born": "1815-12-10"}}
    run = await app.durably.trigger("typed", plain)
    await app.process(typed)

    output = await app.durably.result(run)
    assert output == {"name": "Ada", "born": "1815-12-10", "address": {}}
    assert (await app.durably.get_runs("typed"))[0].input == plain


async def test_a_job_ref_stands_for_a_job_whose_code_is_elsewhere(app: App) -> None:
    """G11, with types on this side only."""
    ref = JobRef[Everything, Person]("typed")
    run = await app.durably.trigger(ref, Everything([Row("a", ("b",))], ADA))
    await app.process(typed)

    assert await app.durably.result(run) == ADA
    by_argument = JobRef("typed", input=Everything, output=Person)
    assert [found.output for found in await app.durably.get_runs(by_argument)] == [ADA]


async def test_an_input_that_does_not_fit_the_job_fails_the_run_and_says_where(app: App) -> None:
    """G12: a run by name alone is checked by the worker; it fails before its code begins."""
    run = await app.durably.trigger("typed", {"rows": [{"name": 3}]})
    await app.process(typed)

    with pytest.raises(RunFailed, match=r"rows\[0\]\.name") as caught:
        await app.durably.result(run)
    assert caught.value.error is not None
    assert caught.value.error.type == "SerializationError"


@dataclass
class Loose:
    inner: Any


def recursive() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


BAD: list[tuple[Any, Callable[[], object], str]] = [
    (object, lambda: ("a", 1), r"\$: a value of type tuple would come back as a value of type list"),
    (object, lambda: {"a": [{1: "x"}]}, r"\$\.a\[0\]\[1\]"),
    (object, lambda: [float("nan")], r"\$\[0\]: JSON has no nan"),
    (list[float], lambda: [0.0, float("inf")], r"\$\[1\]: JSON has no inf"),
    (object, object, r"\$: .*cannot be written as JSON"),
    (object, lambda: {"rows": [{"x": object()}]}, r"\$\.rows\[0\]\.x"),
    (object, lambda: Size.SMALL, r"\$: .*Size"),
    (object, lambda: b"\xff", "bytes"),
    (object, lambda: "\ud800", "lone surrogates"),
    (object, lambda: Row("a"), r"\$: .*Row"),
    (Person, lambda: Employee(name="Ada", born=date(1, 1, 1), salary=1), r"\$"),
    (list[Person], lambda: [ADA, Employee(name="B", born=date(1, 1, 1), salary=1)], r"\$\[1\]"),
    (int, lambda: "3", r"\$"),
    (Row, lambda: Row("a", tags=["x"]), r"\$\.tags"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - a list where a tuple is meant
    (dict[str, Loose], lambda: {"k": Loose((1, 2))}, r"\$\.k\.inner"),
    (object, lambda: "x" * 2000, "2,002 bytes .* at most 1,000"),
    (list[int], recursive, "contains itself|nested"),
]


async def test_a_value_that_would_change_fails_its_step_and_is_not_stored(make_app: Any) -> None:
    """G11: lossy, unserialisable and too large values are errors that name the step and the place, at once."""
    app: App = await make_app(max_value_bytes=1000)

    @job("bad")
    async def bad(step: Step) -> None:
        for place, (tp, make, message) in enumerate(BAD):
            with pytest.raises(SerializationError, match=rf"step 'bad\[{place}\]'.*{message}") as caught:
                await step.run("bad", make, returns=tp, key=place)
            assert caught.value.where == f"step 'bad[{place}]'"

    run = await app.execute(bad)

    assert run.status is RunStatus.COMPLETED, run.error
    steps = await app.durably.get_steps(run)
    assert {(step.status, step.output_json) for step in steps} == {(StepStatus.FAILED, None)}
    assert len(steps) == len(BAD)
    assert run.completed_steps == 0


async def test_an_output_that_would_change_fails_the_run_and_names_the_job(app: App) -> None:
    """G11, G12: the checkpoints stay, nothing is stored as the output."""

    @job("pair")
    async def pair(step: Step) -> list[Any]:
        await step.run("one", lambda: 1)
        return [("a", "b")]

    run = await app.execute(pair)

    assert run.error is not None
    assert (run.status, run.error.type, run.output) == (RunStatus.FAILED, "SerializationError", None)
    assert run.error.message.startswith("the output of job 'pair' at $[0]")
    assert await app.step_names(run) == ["one"]


async def test_a_value_at_the_limit_is_stored_and_one_byte_more_is_not(make_app: Any) -> None:
    """The documented limit, of inputs, step results and outputs, in bytes of JSON."""
    app: App = await make_app(max_value_bytes=100)
    fits, exceeds = "é" * 49, "é" * 49 + "x"

    @job("echo")
    async def echo(step: Step, input: str) -> str:
        assert await step.run("echo", str, input) == input
        with pytest.raises(SerializationError, match="101 bytes"):
            await step.run("more", str, exceeds)
        return input

    run = await app.execute(echo, fits)

    assert run.output == fits, run.error
    with pytest.raises(ValidationError, match=r"input.*101 bytes"):
        await app.durably.trigger(echo, exceeds)


async def test_values_of_a_megabyte_pass_unharmed(app: App) -> None:
    """The default limit is 1 MiB."""
    text = "x" * (1024 * 1024 - 2)

    @job("large")
    async def large(step: Step, input: str) -> str:
        return await step.run("copy", lambda: input, returns=str)

    run: Run[str] = await app.execute(large, text)

    assert run.output == text


async def test_what_a_job_triggers_is_checked_like_any_input(app: App) -> None:
    """G11 across runs: the step that triggers fails, and says what is wrong with the input."""

    @job("parent")
    async def parent(step: Step) -> str:
        with pytest.raises(ValidationError, match=r"input"):
            await step.trigger(typed, Everything(one=float("nan")))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the mistake
        return await step.trigger("typed", {"one": 3})

    run = await app.execute(parent)

    assert run.status is RunStatus.COMPLETED, run.error
    assert [found.job for found in await within(app.durably.get_runs())] == ["typed", "parent"]


async def test_parallel_replays_each_get_their_own_value(app: App) -> None:
    """G11, where many steps of one name are replayed at once."""
    seen: list[list[Row]] = []

    async def make(place: int) -> Row:
        await asyncio.sleep(0)
        return Row(f"row {place}")

    @job("parallel")
    async def parallel(step: Step) -> None:
        seen.append(list(await asyncio.gather(*(step.run("make", make, place, key=place) for place in range(20)))))
        await break_at_first(step)

    await app.again(await app.execute(parallel), parallel)

    assert seen[0] == seen[1] == [Row(f"row {place}") for place in range(20)]
