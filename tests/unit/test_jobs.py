"""Jobs: what a function must look like, what a trigger becomes, what a worker's registry holds."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NotRequired, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from durably.codec import PLAIN_JSON
from durably.errors import DuplicateJob, SerializationError, UsageError, ValidationError
from durably.jobs import Job, JobRef, Registry, TriggerOptions, build_run, job
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


# --- triggers ----------------------------------------------------------------------------------------------


def test_a_trigger_becomes_a_new_run() -> None:
    run = run_of(import_csv, Import(path="a.csv"))
    assert run == NewRun(id="1", job="import-csv", input_json='{"path":"a.csv","size":0}')
    assert run_of(import_csv, {"path": "a.csv", "more": 1}) == run
    assert run_of(tick).input_json == "null"
    assert run_of("elsewhere", {"a": [1]}).input_json == '{"a":[1]}'


def test_the_digest_is_made_only_for_an_idempotency_key() -> None:
    run = run_of(import_csv, Import(path="a"), idempotency_key="k")
    assert run.input_digest == run_of("import-csv", {"size": 0, "path": "a"}, idempotency_key="k").input_digest
    assert run.input_digest != run_of(import_csv, Import(path="b"), idempotency_key="k").input_digest
    assert run_of(import_csv, Import(path="a")).input_digest is None


def full(**defaults: Any) -> Job[Import, None]:
    @job("full", **defaults)
    async def fn(step: Step[None], input: Import) -> None:
        del step, input

    return fn


def test_defaults_are_values_or_functions_of_the_input() -> None:
    made = full(
        idempotency_key=of(lambda i: f"i-{i.path}"),
        concurrency_key=of(lambda i: i.path),
        if_pending=of(lambda i: "skip" if i.size else "queue"),
        labels=of(lambda i: {"path": i.path, "kind": "csv"}),
        priority=of(lambda i: i.size),
        delay=of(lambda i: timedelta(seconds=i.size)),
    )
    run = run_of(made, {"path": "a", "size": 3})
    assert (run.idempotency_key, run.concurrency_key, run.if_pending) == ("i-a", "a", "skip")
    assert (run.labels, run.priority, run.delay) == ({"path": "a", "kind": "csv"}, 3, timedelta(seconds=3))
    assert run_of(full(concurrency_key="one", priority=-5), Import(path="a")).concurrency_key == "one"
    assert run_of(full(concurrency_key=of(lambda _: None)), Import(path="a")).concurrency_key is None


def test_what_the_caller_says_wins_over_the_defaults() -> None:
    made = full(concurrency_key="job", if_pending="skip", labels={"a": "1", "b": "1"}, priority=5, delay=timedelta(1))
    run = run_of(
        made,
        Import(path="a"),
        concurrency_key="mine",
        if_pending="queue",
        labels={"b": "2", "c": "2"},
        priority=0,
        delay=timedelta(0),
    )
    assert (run.concurrency_key, run.if_pending, run.priority, run.delay) == ("mine", "queue", 0, None)
    assert run.labels == {"a": "1", "b": "2", "c": "2"}
    at = datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    run = run_of(made, Import(path="a"), run_at=at)
    assert (run.delay, run.run_at) == (None, at)
    assert run.run_at is not None
    assert run.run_at.tzinfo is UTC


def test_a_copy_of_a_run_takes_no_defaults() -> None:
    made = full(idempotency_key="once", concurrency_key="k", labels={"a": "1"}, priority=5)
    run = build_run(made, {"path": "a"}, id="2", options=TriggerOptions(labels={"b": "2"}), use_defaults=False)
    assert run == NewRun(id="2", job="full", input_json='{"path":"a","size":0}', labels={"b": "2"})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "x" * 513}, "idempotency_key"),
        ({"idempotency_key": 3}, "idempotency_key"),
        ({"concurrency_key": "a\x00b"}, "concurrency_key"),
        ({"concurrency_key": "\ud800"}, "concurrency_key"),
        ({"concurrency_key": b"k"}, "concurrency_key"),
        ({"if_pending": "skip"}, "if_pending"),
        ({"if_pending": "drop", "concurrency_key": "k"}, "if_pending"),
        ({"if_pending": ["skip"], "concurrency_key": "k"}, "if_pending"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"labels": {"": "c"}}, "labels"),
        ({"labels": {"a" * 129: "c"}}, "labels"),
        ({"labels": {"a\n": "c"}}, "labels"),
        ({"labels": {3: "c"}}, "labels"),
        ({"labels": {"a": 3}}, "labels.a"),
        ({"labels": {"a": None}}, "labels.a"),
        ({"labels": {"a": "x" * 513}}, "labels.a"),
        ({"labels": {"a": "\x00"}}, "labels.a"),
        ({"labels": {f"l{n}": "" for n in range(65)}}, "labels"),
        ({"labels": [("a", "b")]}, "labels"),
        ({"labels": "a"}, "labels"),
        ({"priority": 1001}, "priority"),
        ({"priority": -1001}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1.0}, "priority"),
        ({"priority": "1"}, "priority"),
        ({"delay": timedelta(microseconds=-1)}, "delay"),
        ({"delay": timedelta.max}, "delay"),
        ({"delay": 3}, "delay"),
        ({"run_at": datetime(2030, 1, 1)}, "run_at"),  # noqa: DTZ001
        ({"run_at": "2030-01-01"}, "run_at"),
        ({"run_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))}, "run_at"),
        ({"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": timedelta(1)}, "run_at"),
    ],
)
def test_a_bad_option_is_refused_by_its_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        run_of(import_csv, Import(path="a"), **options)
    assert caught.value.field == field
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency_key": "k" * 512, "if_pending": "reject"},
        {"idempotency_key": "\U0001f600 any text"},
        {"labels": {"A-Za_./9": "", "b": "x" * 512}},
        {"labels": {f"l{n}": "" for n in range(64)}},
        {"priority": 1000},
        {"priority": -1000},
        {"run_at": datetime(1999, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_good_option_is_accepted(options: dict[str, Any]) -> None:
    run = run_of(import_csv, Import(path="a"), **options)
    assert {name: getattr(run, name) for name in options} == options


@pytest.mark.parametrize(
    ("target", "input", "field"),
    [
        (import_csv, {}, "input.path"),
        (import_csv, {"path": 3}, "input.path"),
        (import_csv, None, "input"),
        (import_csv, {"path": "x" * 1000}, "input"),
        (tick, {}, "input"),
        ("plain", {1: 2}, "input[1]"),
    ],
)
def test_a_bad_input_is_refused_with_its_field(target: Any, input: object, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        run_of(target, input)
    assert caught.value.field == field


def test_bad_results_of_default_functions_name_the_field() -> None:
    with pytest.raises(ValidationError, match="concurrency_key: must be a str, not 3"):
        run_of(full(concurrency_key=of(lambda _: 3)), Import(path="a"))
    with pytest.raises(ValidationError, match="labels: must be a mapping"):
        run_of(full(labels=of(lambda _: "a")), Import(path="a"))


def test_typed_labels_are_checked_and_completed() -> None:
    made = full(label_type=Tags)
    assert run_of(made, Import(path="a"), labels={"tenant": "t"}).labels == {"tenant": "t"}
    assert run_of(made, Import(path="a"), labels=Tags(tenant="t", source="s")).labels == {"tenant": "t", "source": "s"}
    assert run_of(made, Import(path="a")).labels == {}
    for labels, field in (({"tenant": "t", "x": "y"}, "labels.x"), ({"source": "s"}, "labels.tenant")):
        with pytest.raises(ValidationError) as caught:
            run_of(made, Import(path="a"), labels=labels)
        assert caught.value.field == field
    loose = full(label_type=LooseTags)
    assert run_of(loose, Import(path="a"), labels={"tenant": "t"}).labels == {"tenant": "t"}


# --- references --------------------------------------------------------------------------------------------


def test_a_reference_takes_its_types_from_arguments_or_brackets() -> None:
    for ref in (
        JobRef("import-csv", input=Import, output=Report),
        JobRef[Import, Report]("import-csv"),
        JobRef[Import, Report]("import-csv", input=Import, output=Report),
    ):
        assert run_of(ref, Import(path="a")) == run_of(import_csv, Import(path="a"))
        assert ref.output_codec.decode('{"count":3}', where="output") == Report(count=3)
        with pytest.raises(ValidationError):
            run_of(ref, {})


def test_a_reference_without_types_is_plain_json() -> None:
    ref = JobRef[object, object]("elsewhere")
    assert run_of(ref, {"a": 1}).input_json == '{"a":1}'
    with pytest.raises(ValidationError):
        run_of(ref, (1,))
    assert run_of(JobRef[None, Report]("tick")).input_json == "null"
    with pytest.raises(ValidationError):
        run_of(JobRef[None, Report]("tick"), {})


def test_a_reference_to_types_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(SerializationError, match="type Deps"):
        run_of(JobRef("a", input=Deps, output=Deps), Deps())


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
