"""Settings as environment variables: their names, what they may say, and what they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import TypeAlias

from durably.errors import ValidationError

Value: TypeAlias = str | int | bool | timedelta | None

PREFIX = "DURABLY_"
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MAX_SECONDS = 1e11


def read_duration(text: str, *, field: str) -> timedelta:
    """A duration: `30`, `30s`, `500ms`, `5m`, `2h`, `7d`, `4w`; a bare number is seconds. Raises ValidationError."""
    match = _SPAN.fullmatch(text.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else _MAX_SECONDS
    if seconds >= _MAX_SECONDS:
        raise ValidationError(field, f"{text!r} is no duration: write 30s, 500ms, 5m, 2h or 7d")
    return timedelta(seconds=seconds)


def read_optional_duration(text: str, *, field: str) -> timedelta | None:
    """A duration, or None for `never`."""
    return None if text.strip().lower() == "never" else read_duration(text, field=field)


def _number(text: str, *, field: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip()):
        raise ValidationError(field, f"{text!r} must be a whole number")
    return int(text)


def _truth(text: str, *, field: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUTHS:
        raise ValidationError(field, f"{text!r} must be true or false")
    return _TRUTHS[word]


_TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _text(text: str, *, field: str) -> str:  # noqa: ARG001  # as the others
    return text


SETTINGS: Mapping[str, Callable[..., Value]] = {
    "url": _text,
    "listen_url": _text,
    "schema": _text,
    "migrate": _text,
    "lease": read_duration,
    "renewal": read_duration,
    "poll_interval": read_duration,
    "max_concurrent_runs": _number,
    "max_crashes": _number,
    "retain_runs": read_optional_duration,
    "retain_events": read_optional_duration,
    "preserve_steps": _truth,
    "max_value_bytes": _number,
}
"""What `DURABLY_<NAME>` may set, and how its text is read."""


def read_settings(environ: Mapping[str, str], *, without: Collection[str] = ()) -> dict[str, Value]:
    """The settings that these variables make; an empty one counts as not set. Raises ValidationError naming one."""
    found: dict[str, Value] = {}
    for name, read in SETTINGS.items():
        text = environ.get(variable(name), "")
        if text and name not in without:
            found[name] = read(text, field=variable(name))
    return found


def variable(setting: str) -> str:
    """The name of the variable of a setting."""
    return PREFIX + setting.upper()


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that look like a setting whose name was misspelt, each with the name that was probably meant."""
    known = [variable(name) for name in SETTINGS]
    meant: dict[str, str] = {}
    for name in environ:
        if name.startswith(PREFIX) and name not in known and (close := get_close_matches(name, known, 1, 0.9)):
            meant[name] = close[0]
    return meant
