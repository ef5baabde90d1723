"""What names, keys, labels and options may look like. Each check returns the value or raises ValidationError.

Nothing here knows jobs or the database; the limits are those of columns and indexes, and of URLs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

from durably.errors import ValidationError
from durably.model import IfPending, Labels

MAX_KEY = 512
MAX_LABELS = 64
MAX_LABEL_VALUE = 512
MAX_PRIORITY = 1000
MAX_DELAY = timedelta(days=36_500)

_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9\-_./]{1,128}")
_IF_PENDING: tuple[IfPending, ...] = ("queue", "skip", "replace", "reject")
_MAX_SHOWN = 80


def check_job_name(name: object, *, field: str = "job") -> str:
    """A job name: 1 to 128 letters, digits and `_.:/-`, the first a letter or digit."""
    if not isinstance(name, str) or not _JOB_NAME.fullmatch(name):
        rule = "must be 1 to 128 letters, digits or _ . : / - and start with a letter or digit"
        raise ValidationError(field, f"{rule}, not {_show(name)}")
    return str(name)


def check_key(key: object, *, field: str) -> str:
    """An idempotency or concurrency key: 1 to 512 characters."""
    text = _text(key, field)
    if not text:
        raise ValidationError(field, "must not be empty: leave it out for no key")
    if len(text) > MAX_KEY:
        raise ValidationError(field, f"has {len(text)} characters, at most {MAX_KEY} are allowed")
    return text


def check_labels(labels: object, *, field: str = "labels") -> Labels:
    """At most 64 labels; keys of 1 to 128 letters, digits and `-_./`, values of at most 512 characters."""
    if (pairs := as_mapping(labels)) is None:
        raise ValidationError(field, f"must be a mapping of str to str, not {_show(labels)}")
    if len(pairs) > MAX_LABELS:
        raise ValidationError(field, f"has {len(pairs)} labels, at most {MAX_LABELS} are allowed")
    return {_label_key(key, field): _label_value(value, f"{field}.{key}") for key, value in pairs.items()}


def _label_key(key: object, field: str) -> str:
    if not isinstance(key, str) or not _LABEL_KEY.fullmatch(key):
        raise ValidationError(field, f"a key must be 1 to 128 letters, digits or - _ . /, not {_show(key)}")
    return str(key)


def _label_value(value: object, field: str) -> str:
    text = _text(value, field)
    if len(text) > MAX_LABEL_VALUE:
        raise ValidationError(field, f"has {len(text)} characters, at most {MAX_LABEL_VALUE} are allowed")
    return text


def check_if_pending(value: object, *, concurrency_key: str | None, field: str = "if_pending") -> IfPending:
    """One of the four words; all but "queue" need a concurrency key to look for waiting runs of."""
    word: IfPending | None = next((one for one in _IF_PENDING if one == value), None)
    if word is None:
        names = ", ".join(f'"{one}"' for one in _IF_PENDING)
        raise ValidationError(field, f"must be one of {names}, not {_show(value)}")
    if word != "queue" and concurrency_key is None:
        raise ValidationError(field, f'"{word}" needs a concurrency_key: it looks at the waiting runs of that key')
    return word


def check_priority(value: object, *, field: str = "priority") -> int:
    """An int from -1000 to 1000; higher goes first."""
    if type(value) is not int or not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise ValidationError(field, f"must be an int from {-MAX_PRIORITY} to {MAX_PRIORITY}, not {_show(value)}")
    return value


def check_delay(value: object, *, field: str = "delay") -> timedelta:
    """A timedelta from zero to a hundred years."""
    if not isinstance(value, timedelta):
        raise ValidationError(field, f"must be a timedelta, not {_show(value)}: timedelta(seconds=30)")
    if not timedelta(0) <= value <= MAX_DELAY:
        raise ValidationError(field, f"must be from 0 to {MAX_DELAY.days} days, not {value}")
    return value


def check_run_at(value: object, *, field: str = "run_at") -> datetime:
    """A datetime with a time zone, returned in UTC. One in the past means at once."""
    if not isinstance(value, datetime):
        raise ValidationError(field, f"must be a datetime, not {_show(value)}")
    if value.utcoffset() is None:
        raise ValidationError(field, "must have a time zone: datetime(..., tzinfo=UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValidationError(field, f"must lie between the years 1 and 9999 in UTC, not {value}") from error


def _text(value: object, field: str) -> str:
    """A str that every database can store: PostgreSQL has no NUL in text, and UTF-8 no lone surrogate."""
    if not isinstance(value, str):
        raise ValidationError(field, f"must be a str, not {_show(value)}")
    if "\x00" in value:
        raise ValidationError(field, "must not contain the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(field, "must be valid Unicode, without lone surrogates") from error
    return str(value)


def as_mapping(value: object) -> Mapping[object, object] | None:
    """The value if it is a mapping, else None."""
    return value if _is_mapping(value) else None


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _show(value: object) -> str:
    if not isinstance(value, str | int | float) and value is not None:
        return f"a {type(value).__name__}"
    text = ascii(value[:_MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
