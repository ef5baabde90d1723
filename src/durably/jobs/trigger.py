"""What a caller wants becomes a `NewRun`, everything checked; or an error says which field is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from durably.codec import Codec, canonical_digest, from_json
from durably.errors import ValidationError
from durably.jobs.job import NO_DEFAULTS, Defaults, JobRef, Target
from durably.model import IfPending, Labels, NewRun
from durably.rules.naming import (
    as_mapping,
    check_delay,
    check_if_pending,
    check_key,
    check_labels,
    check_priority,
    check_run_at,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerOptions:
    """What the caller of one trigger asks for; None means the default of the job."""

    idempotency_key: str | None = None
    concurrency_key: str | None = None
    if_pending: IfPending | None = None
    labels: Labels | None = None
    priority: int | None = None
    delay: timedelta | None = None
    run_at: datetime | None = None


_NO_OPTIONS = TriggerOptions()


def build_run(
    target: Target[Any, Any] | str,
    input: object,
    *,
    id: str,
    max_bytes: int | None = None,
    options: TriggerOptions | None = None,
    use_defaults: bool = True,
) -> NewRun:
    """The run that a trigger asks for, everything checked. Raises ValidationError naming the field.

    `target` may be a bare name; the input is plain JSON then. `use_defaults=False` takes nothing from the job
    but its types: for a new run made of an old one.
    """
    target = target if isinstance(target, Target) else JobRef(target)
    input_json, value = target.input_codec.parse(input, field="input", max_bytes=max_bytes)
    return build_parsed(target, input_json, value, id=id, options=options, use_defaults=use_defaults)


def build_parsed(
    target: Target[Any, Any],
    input_json: str,
    value: object,
    *,
    id: str,
    options: TriggerOptions | None = None,
    use_defaults: bool = True,
) -> NewRun:
    """The same for an input that its codec has parsed already: its text, and its value."""
    options = options or _NO_OPTIONS
    if options is _NO_OPTIONS and (target.defaults is NO_DEFAULTS or not use_defaults):
        return NewRun(id=id, job=target.name, input_json=input_json)  # by the thousand: there is nothing to check
    defaults = _resolve(target.defaults if use_defaults else NO_DEFAULTS, value)
    key = _first(options.idempotency_key, defaults.idempotency_key)
    idempotency_key = None if key is None else check_key(key, field="idempotency_key")
    key = _first(options.concurrency_key, defaults.concurrency_key)
    concurrency_key = None if key is None else check_key(key, field="concurrency_key")
    delay, run_at = _start(options, defaults.delay)
    return NewRun(
        id=id,
        job=target.name,
        input_json=input_json,
        input_digest=None if idempotency_key is None else canonical_digest(input_json),
        idempotency_key=idempotency_key,
        concurrency_key=concurrency_key,
        if_pending=check_if_pending(_first(options.if_pending, defaults.if_pending), concurrency_key=concurrency_key),
        labels=_labels(target, options.labels, defaults.labels),
        priority=check_priority(_first(options.priority, defaults.priority)),
        delay=delay,
        run_at=run_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolved:
    """Defaults for one input; nothing is checked yet."""

    idempotency_key: object
    concurrency_key: object
    if_pending: object
    labels: object
    priority: object
    delay: object


def _resolve(defaults: Defaults, value: object) -> _Resolved:
    def call(default: object) -> object:
        return default(value) if callable(default) else default

    return _Resolved(
        idempotency_key=call(defaults.idempotency_key),
        concurrency_key=call(defaults.concurrency_key),
        if_pending=call(defaults.if_pending),
        labels=call(defaults.labels),
        priority=call(defaults.priority),
        delay=call(defaults.delay),
    )


def _first(given: object, default: object) -> object:
    return default if given is None else given


def _start(options: TriggerOptions, default: object) -> tuple[timedelta | None, datetime | None]:
    if options.run_at is not None:
        if options.delay is not None:
            raise ValidationError("run_at", "give either delay or run_at, not both")
        return None, check_run_at(options.run_at)
    delay = _first(options.delay, default)
    checked = None if delay is None else check_delay(delay)
    return checked or None, None


def _labels(target: Target[Any, Any], given: object, default: object) -> Labels:
    """The caller's labels over the default ones; checked against the label type if there are any."""
    merged = {**_plain_labels(target, default), **_plain_labels(target, given)}
    if merged and target.label_codec is not None:
        return _typed_labels(target.label_codec, merged)
    return merged


def _plain_labels(target: Target[Any, Any], labels: object) -> Labels:
    if labels is None:
        return {}
    if target.label_codec is None or as_mapping(labels) is not None:
        return check_labels(labels)
    return _typed_labels(target.label_codec, labels)


def _typed_labels(codec: Codec[Any], labels: object) -> Labels:
    """Labels as their type sees them: its defaults filled in, fields that are None left out."""
    plain = from_json(codec.parse(labels, field="labels")[0])
    pairs = as_mapping(plain) or {}
    return check_labels({key: value for key, value in pairs.items() if value is not None})
