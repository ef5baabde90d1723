"""Triggers as the wire has them: the checks in their order, and the texts of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import pydantic

from durably import (
    Disposition,
    Durably,
    IdempotencyConflict,
    Job,
    PendingRunExists,
    Run,
    SerializationError,
    ValidationError,
)
from durably.codec import canonical_digest
from durably.http import wire
from durably.http.auth import Guard, TriggerRequest
from durably.http.body import first_flaw
from durably.http.jobs import KnownJobs
from durably.http.models import COALESCE, TriggerBody
from durably.http.refusal import Refusal, bad_request
from durably.jobs import Target
from durably.model import IfPending

_NAMES = {"idempotency_key": "idempotencyKey", "concurrency_key": "concurrencyKey", "if_pending": "coalesce"}


async def trigger(durably: Durably, jobs: KnownJobs, guard: Guard, body: object) -> Run[Any]:
    """Store the run that a body asks for, or find it. Raises Refusal; then nothing is stored."""
    fields = _fields(body)
    wanted = _request(fields)
    job = _find(jobs, wanted.job_name)
    allowed = await guard.trigger(wanted)
    if allowed.job_name != wanted.job_name:
        job = _find(jobs, allowed.job_name)
    _check_coalesce(fields, allowed)
    _check_types(fields, job)
    return await _trigger(durably, job, allowed)


def outcome(run: Run[Any]) -> str:
    """Return what a trigger did, as JSON."""
    disposition = run.disposition or Disposition.CREATED
    return wire.compose({"runId": wire.text(run.id), "disposition": wire.text(disposition)})


def invalid_input(error: Exception) -> str:
    """Return what is wrong with an input, with the name of its field."""
    if not isinstance(error, ValidationError):
        return f"Invalid input: {error}"
    place = error.field.removeprefix("input").removeprefix(".")
    return f"Invalid input: {place}: {error.reason}" if place else f"Invalid input: {error.reason}"


def _fields(body: object) -> Mapping[str, object]:
    if not _is_object(body) or _is_empty(body.get("jobName")):
        raise bad_request("jobName is required")
    return body


def _request(fields: Mapping[str, object]) -> TriggerRequest:
    name, labels = fields["jobName"], fields.get("labels")
    return TriggerRequest(
        job_name=name if isinstance(name, str) else wire.text(name),
        input=fields.get("input"),
        idempotency_key=_text(fields.get("idempotencyKey")),
        concurrency_key=_text(fields.get("concurrencyKey")),
        labels={key: value for key, value in labels.items() if isinstance(value, str)} if _is_object(labels) else None,
        coalesce=_text(fields.get("coalesce")),
    )


def _find(jobs: KnownJobs, name: str) -> Target[Any, Any]:
    job = jobs.find(name)
    if job is None:
        raise Refusal(404, f"Job not found: {name}")
    return job


def _check_coalesce(fields: Mapping[str, object], allowed: TriggerRequest) -> None:
    if "coalesce" not in fields:
        return
    given = fields["coalesce"]
    if given not in COALESCE:
        shown = given if isinstance(given, str) else wire.text(given)
        valid = ", ".join(f"'{word}'" for word in COALESCE)
        raise bad_request(f"Invalid coalesce value: '{shown}'. Valid values: {valid}")
    if not allowed.concurrency_key:
        raise bad_request("coalesce requires concurrencyKey")


def _check_types(fields: Mapping[str, object], job: Target[Any, Any]) -> None:
    """What is wrong with the input comes before what is wrong with the rest."""
    try:
        TriggerBody.model_validate(fields)
    except pydantic.ValidationError as error:
        try:
            job.input_codec.validate(_input(job, fields.get("input")), field="input")
        except ValidationError as worse:
            raise bad_request(invalid_input(worse)) from worse
        raise bad_request(first_flaw(error)) from error


async def _trigger(durably: Durably, job: Target[Any, Any], allowed: TriggerRequest) -> Run[Any]:
    try:
        return await durably.trigger(
            job,
            _input(job, allowed.input),
            idempotency_key=allowed.idempotency_key,
            concurrency_key=allowed.concurrency_key,
            labels=allowed.labels,
            if_pending=_if_pending(allowed),
        )
    except ValidationError as error:
        if _is_label_key(error, job) and (found := await _earlier(durably, job, allowed)) is not None:
            return found
        raise bad_request(_invalid(error, job)) from error
    except SerializationError as error:
        raise bad_request(f"Invalid input: {error}") from error
    except PendingRunExists as error:
        message = (
            f'A pending run already exists for concurrency key "{error.key}" in job "{error.job}". '
            "Use coalesce: 'skip' to return the existing run instead."
        )
        raise Refusal(409, message) from error
    except IdempotencyConflict as error:
        raise Refusal(409, f"Cannot trigger: {error}") from error


async def _earlier(durably: Durably, job: Target[Any, Any], allowed: TriggerRequest) -> Run[Any] | None:
    """Return the run of the idempotency key: on the wire it is looked for before the keys of labels are checked."""
    key = allowed.idempotency_key
    run = await durably._find_by_key(job.name, key) if key else None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - no more than this is asked
    if run is None or key is None:
        return None
    wanted, _ = job.input_codec.parse(_input(job, allowed.input), field="input")
    if canonical_digest(run.input_json) != canonical_digest(wanted):
        raise Refusal(409, f"Cannot trigger: {IdempotencyConflict(job.name, key, run.id)}")
    return run


def _if_pending(allowed: TriggerRequest) -> IfPending | None:
    match allowed.coalesce:
        case "skip" | "replace" | "reject" as word:
            return word
        case _:
            return None


def _input(job: Target[Any, Any], given: object) -> object:
    """A job that takes no input may be given an empty object, as clients do that always send one."""
    return None if given == {} and isinstance(job, Job) and not job.takes_input else given


def _invalid(error: ValidationError, job: Target[Any, Any]) -> str:
    field, _, rest = error.field.partition(".")
    if field.startswith("input"):
        return invalid_input(error)
    if field == "labels" and job.label_codec is not None:
        return f"labels: Invalid input: {rest}: {error.reason}" if rest else f"labels: Invalid input: {error.reason}"
    if _is_label_key(error, job):
        return f"Invalid label key: {error.reason}"
    return f"{_NAMES.get(error.field, error.field)}: {error.reason}"


def _is_label_key(error: ValidationError, job: Target[Any, Any]) -> bool:
    return error.field == "labels" and job.label_codec is None and error.reason.startswith("a key")


def _is_empty(name: object) -> bool:
    return name is None or name is False or name in ("", 0)


def _text(given: object) -> str | None:
    """A text that is not empty: keys that are empty count as absent."""
    return given if isinstance(given, str) and given else None


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)
