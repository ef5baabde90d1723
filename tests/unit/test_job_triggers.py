"""From a job and an input to a new run: options, defaults, references."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from durably.errors import SerializationError, ValidationError
from durably.jobs import JobRef, TriggerOptions, build_run
from durably.model import NewRun
from tests.unit.job_samples import Deps, Import, LooseTags, Report, Tags, full, import_csv, of, run_of, tick

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
