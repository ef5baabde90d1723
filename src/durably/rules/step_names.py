"""What the names and keys of steps may look like."""

from __future__ import annotations

import re

from durably.errors import ValidationError

MAX_STEP_NAME = 256

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def step_name(name: object, key: object) -> str:
    """The full name of a step: `insert`, or with a key `insert[3]`. Raises ValidationError."""
    if not isinstance(name, str) or not name:
        raise ValidationError("name", f"a step needs a name of 1 to {MAX_STEP_NAME} characters, not {name!r}")
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
        raise ValidationError("key", f"must be a str or an int, not a {type(key).__name__}")
    full = name if key is None else f"{name}[{key}]"
    if len(full) > MAX_STEP_NAME:
        shown = f"{full[:60]}..."
        raise ValidationError("name", f"{shown!r} has {len(full)} characters, at most {MAX_STEP_NAME} are allowed")
    if not full.isprintable() and _UNFIT.search(full):
        raise ValidationError("name", f"{full!r} must not contain control characters or lone surrogates")
    return full
