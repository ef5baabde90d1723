"""Jobs: what a function must look like, what a trigger becomes, what a worker's registry holds."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from durably.codec import PLAIN_JSON
from durably.errors import DuplicateJob, UsageError, ValidationError
from durably.jobs import JobRef, Registry, job
from tests.unit.job_samples import Deps, Import, Report, Step, SyncStep, full, import_csv, of, refused, run_of, tick

# --- functions ---------------------------------------------------------------------------------------------


async def test_a_job_keeps_its_function_and_knows_its_types() -> None:
    assert import_csv.name == "import-csv"
    assert (import_csv.is_async, tick.is_async) == (True, False)
    assert (import_csv.takes_input, tick.takes_input) == (True, False)
    assert import_csv.input_codec.type is Import
    assert import_csv.output_codec.type is Report
    assert tick.input_codec.validate(None, field="input") is None
    assert import_csv.__doc__ == "Import a file."
    assert await import_csv.call(Step[Deps](), Import(path="a", size=3)) == Report(count=3)
    assert tick.call(SyncStep[None](), None) is None
    assert repr(import_csv) == "Job('import-csv')"


def test_annotations_may_be_missing_where_they_leave_no_doubt() -> None:
    def bare(step: SyncStep[None], input: Annotated[int, Field(gt=0)]) -> object:
        return step, input

    del bare.__annotations__["step"]
    del bare.__annotations__["return"]
    made = job("a")(bare)
    assert made.output_codec.type is PLAIN_JSON
    with pytest.raises(ValidationError, match="input: Input should be greater than 0"):
        run_of(made, 0)


def test_object_and_any_mean_plain_json() -> None:
    @job("a")
    def anything(step: Annotated[SyncStep[Any], "noted"], input: object) -> Any:
        return step, input

    assert anything.input_codec.type is PLAIN_JSON
    assert anything.output_codec.type is PLAIN_JSON


def test_types_of_an_enclosing_function_are_found_when_the_function_uses_them() -> None:
    class Local(BaseModel):
        x: int

    @job("a")
    def local(step: SyncStep[None], input: Local) -> Local:
        del step
        return Local(x=input.x)

    assert local.input_codec.type is Local


def test_a_type_that_cannot_be_found_is_named_with_the_remedy() -> None:
    def decorate() -> object:
        class Hidden(BaseModel):
            pass

        @job("a")
        def lost(step: SyncStep[None], input: Hidden) -> None:
            del step, input

        return lost

    message = refused(decorate)
    assert "job 'a'" in message
    assert "'Hidden'" in message
    assert "top of a module" in message


def test_a_method_can_be_a_job() -> None:
    class Importer:
        async def load(self, step: Step[None], input: Import) -> int:
            del step
            return input.size

    assert job("a")(Importer().load).takes_input


async def _async_with_sync(step: SyncStep[None]) -> None: ...


def _sync_with_async(step: Step[None]) -> None: ...


async def _swapped(input: Import, step: Step[None]) -> None: ...


async def _no_step(input: Import) -> None: ...


async def _no_type(step: Step[None], input: int) -> None: ...


del _no_type.__annotations__["input"]


async def _nothing() -> None: ...


async def _too_many(step: Step[None], one: int, two: int) -> None: ...


async def _many(step: Step[None], *numbers: int) -> None: ...


async def _named(step: Step[None], **names: int) -> None: ...


async def _keyword(step: Step[None], *, name: int) -> None: ...


async def _default(step: Step[None], name: int = 3) -> None: ...


async def _unstorable(step: Step[None], input: Deps) -> None: ...


async def _unstorable_result(step: Step[None]) -> Deps:
    del step
    return Deps()


def _generator(step: SyncStep[None]) -> Iterator[int]:
    del step
    yield 1


async def _async_generator(step: Step[None]) -> AsyncIterator[int]:
    del step
    yield 1


class _Callable:
    def __call__(self, step: SyncStep[None]) -> None: ...


@functools.wraps(_no_step)
def _wrapped(*args: Any, **kwargs: Any) -> object:
    return _no_step(*args, **kwargs)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (_async_with_sync, "async def takes a Step, not a SyncStep: annotate step: Step, or make it a plain def"),
        (_sync_with_async, "def takes a SyncStep, not a Step: annotate step: SyncStep, or make it an async def"),
        (_swapped, "the first parameter must be the step, as in step: Step; 'input' is not one"),
        (_no_step, "the first parameter must be the step"),
        (_wrapped, "the first parameter must be the step"),
        (_no_type, "annotate the parameter 'input'"),
        (_nothing, r"takes \(step\) or \(step, input\), not \(\)"),
        (_too_many, r"not \(step, one, two\): put several values into one input type"),
        (_many, r"\*numbers cannot be filled"),
        (_named, r"\*\*names cannot be filled"),
        (_keyword, "name cannot be filled"),
        (_default, "the parameter 'name' has a default"),
        (_unstorable, "type Deps: its values cannot be stored as JSON"),
        (_unstorable_result, "type Deps: its values cannot be stored as JSON"),
        (_generator, "a generator cannot be a job"),
        (_async_generator, "a generator cannot be a job"),
        (of(lambda step: step), "a lambda has no annotations"),
        (_Callable(), "not an object of type _Callable"),
        (_Callable, "not the class _Callable"),
        (functools.partial(_no_step), "not an object of type partial"),
        (len, "not an object of type builtin_function_or_method"),
        (import_csv, "not an object of type Job"),
    ],
)
def test_a_function_that_cannot_be_a_job_is_refused_at_once(fn: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        job("shop/import")(fn)
    assert str(caught.value).startswith("job 'shop/import': ")


def test_job_without_a_name_says_how_to_write_it() -> None:
    assert '@job("import-csv")' in refused(lambda: job(_no_step))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "\u00e9", "a" * 129, ".a", "/a"])
def test_a_bad_name_is_refused(name: str) -> None:
    assert "job: must be 1 to 128 letters" in refused(lambda: job(name))
    assert "job: must be" in refused(lambda: JobRef[None, None](name))
    assert "job: must be" in refused(lambda: run_of(name))


@pytest.mark.parametrize("name", ["a", "9", "a" * 128, "shop/import-csv:v1.2_x"])
def test_a_good_name_is_accepted(name: str) -> None:
    assert run_of(name).job == name


@pytest.mark.parametrize(
    ("defaults", "field"),
    [
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"concurrency_key": 3}, "concurrency_key"),
        ({"if_pending": "drop"}, "if_pending"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"priority": 1001}, "priority"),
        ({"delay": 3}, "delay"),
    ],
)
def test_defaults_are_checked_when_the_job_is_made(defaults: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        job("a", **defaults)
    assert caught.value.field == field


# --- registry ----------------------------------------------------------------------------------------------


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("shop_jobs")
    sys.modules["shop_jobs"] = made
    yield made
    del sys.modules["shop_jobs"]


def test_a_registry_knows_jobs_and_those_of_modules(module: types.ModuleType) -> None:
    vars(module).update({"a": import_csv, "again": import_csv, "other": 3, "ref": JobRef[None, None]("x")})
    registry = Registry([tick, "shop_jobs", import_csv])
    assert registry.names == ("import-csv", "tick")
    assert registry.get("tick") is tick
    assert registry.get("unknown") is None


def test_modules_are_imported_only_when_a_job_is_asked_for() -> None:
    registry = Registry(["no_such_module.jobs"])
    with pytest.raises(UsageError, match=r"there is no module 'no_such_module\.jobs'"):
        _ = registry.names


def test_an_import_that_fails_inside_a_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_jobs.py").write_text("import no_such_dependency\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        _ = Registry(["broken_jobs"]).names


@pytest.mark.usefixtures("module")
def test_a_module_without_jobs_is_an_error() -> None:
    with pytest.raises(UsageError, match="module 'shop_jobs' has no jobs"):
        _ = Registry(["shop_jobs"]).names


def test_two_jobs_of_one_name_are_refused() -> None:
    with pytest.raises(DuplicateJob, match="'full'"):
        _ = Registry([full(), full()]).names
    one = full()
    assert Registry([one, one]).names == ("full",)


@pytest.mark.parametrize("source", [JobRef[None, None]("train"), _no_step, 3])
def test_what_is_no_job_is_refused_with_the_remedy(source: Any) -> None:
    with pytest.raises(UsageError, match="@job"):
        _ = Registry([source]).names


@pytest.mark.parametrize(
    ("only", "exclude", "names"),
    [
        ((), (), ("import-csv", "tick")),
        (("tick",), (), ("tick",)),
        (("t*", "import-csv"), (), ("import-csv", "tick")),
        ((), ("import-*",), ("tick",)),
        (("*",), ("tick",), ("import-csv",)),
    ],
)
def test_a_registry_takes_only_some_of_the_jobs(
    only: tuple[str, ...], exclude: tuple[str, ...], names: tuple[str, ...]
) -> None:
    registry = Registry([tick, import_csv], only=only, exclude=exclude)
    assert registry.names == names
    assert (registry.get("tick") is tick) is ("tick" in names)


def test_patterns_that_match_no_job_or_leave_none_are_refused() -> None:
    with pytest.raises(UsageError, match="no job matches 'Tick': there are import-csv, tick"):
        _ = Registry([tick, import_csv], only=["Tick"]).names
    with pytest.raises(UsageError, match="no job matches 'x'"):
        _ = Registry([tick], exclude=["x"]).names
    with pytest.raises(UsageError, match="no job is left"):
        _ = Registry([tick], exclude=["tick"]).names
