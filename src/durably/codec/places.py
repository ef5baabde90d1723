"""Where in a value something is wrong, and how to say it: paths, descriptions, the search for a culprit.

Messages never show a long value, nor what is inside a container or an object.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Final, TypeAlias, TypeGuard

import pydantic
import pydantic_core
from pydantic.errors import PydanticUserError

Piece: TypeAlias = str | int
Path: TypeAlias = tuple["Path", Piece] | None
"""The way to a container, and the name or index in it. None is the value itself."""

MISSING: Final = object()
"""Stands for a part that one of two values lacks."""

MAX_DEPTH = 200
MAX_SHOWN = 200
TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels, or contains itself"


class Unfit(Exception):
    """A signal inside this package: a value cannot be stored, or not unchanged.

    `advice` None asks for the codec's own remedy.
    """

    def __init__(self, path: Path, reason: str, *, advice: str | None = None) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason
        self.advice = advice


def pieces(path: Path) -> list[Piece]:
    """The names and indexes from the outside in."""
    found: list[Piece] = []
    while path is not None:
        path, step = path
        found.append(step)
    return found[::-1]


def path_text(path: Path) -> str:
    """`$.rows[3].price`; the value itself is `$`."""
    return cut("$" + "".join(_piece_text(step) for step in pieces(path)))


def _piece_text(step: Piece) -> str:
    if isinstance(step, int):
        return f"[{_number(step)}]"
    return f".{step}" if step.isidentifier() else f"[{cut(ascii(step))}]"


def cut(text: str) -> str:
    """At most 200 characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."


def type_name(tp: object) -> str:
    """How a type is called in messages: `ImportInput`, `list[int]`."""
    return cut(tp.__name__ if isinstance(tp, type) and not hasattr(tp, "__args__") else str(tp))


def describe(value: object) -> str:
    """A value in a few words: short ones as they are, of others the type only."""
    kind = type(value)
    if value is None:
        return "None"
    if isinstance(value, bool | int | float) and not isinstance(value, Enum):
        return f"{_number(value)} ({kind.__name__})"
    if kind is str:
        return f"{cut(ascii(str(value)[:MAX_SHOWN]))} (str)"
    return f"a value of type {kind.__name__}"


def _number(value: float) -> str:
    try:
        return cut(str(value))
    except ValueError:  # more digits than Python is willing to print
        return "a huge number"


def difference(path: Path, old: object, new: object) -> Unfit:
    """How decoding changes a part."""
    if _is_no_number(old):
        return _no_number(path, old)
    if new is MISSING:
        return Unfit(path, f"{describe(old)} would not come back")
    if old is MISSING:
        return Unfit(path, f"{describe(new)} would appear")
    if describe(old) == describe(new):
        return Unfit(path, f"{describe(old)} would come back changed")
    return Unfit(path, f"{describe(old)} would come back as {describe(new)}")


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _no_number(path: Path, value: object) -> Unfit:
    return Unfit(path, f"JSON has no {value}", advice="use None or text")


def at(value: Any, path: Path) -> object:
    """The part of a Python value at a place, MISSING when the place is not one of its own."""
    for step in pieces(path):
        try:
            value = value[step] if hasattr(value, "__getitem__") else getattr(value, str(step))
        except (LookupError, AttributeError, TypeError):
            return MISSING
    return value


def mismatch(error: pydantic.ValidationError, value: object = MISSING) -> Unfit:
    """The first complaint of pydantic; `value`, where given, is what the complaint is about."""
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    if first["type"] == "json_invalid":
        return Unfit(None, load_reason(ValueError(first["msg"])), advice="")
    path: Path = None
    for step in first["loc"]:
        path = path if step == "[key]" else (path, step)
    part = MISSING if value is MISSING else at(value, path)
    if _is_no_number(part):
        return _no_number(path, part)
    subject = "" if part is MISSING else f"{describe(part)} does not fit: "
    others = f" (and {len(more)} more)" if more else ""
    return Unfit(path, subject + cut(first["msg"]) + others)


def load_reason(error: Exception) -> str:
    """Why a text cannot be decoded at all."""
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return TOO_DEEP
    text = cut(str(error).partition("For further information")[0])
    if isinstance(error, PydanticUserError):
        return f"its type is not complete: {text}"
    return f"it is not JSON that can be read back: {text}"


def culprit(value: object, error: Exception) -> Unfit:
    """Find the innermost part that cannot be written as JSON; `error` is what the whole value gave."""
    path: Path = None
    for _ in range(MAX_DEPTH):
        found = next((part for part in _children(value) if not _is_writable(part[1])), None)
        if found is None:
            return _unwritable(path, value, error)
        step, value = found
        path = (path, step)
    return Unfit(None, TOO_DEEP, advice="")


def _is_writable(value: object) -> bool:
    return _dump_error(value) is None


def _dump_error(value: object) -> Exception | None:
    try:
        pydantic_core.to_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        return error
    return None


def _unwritable(path: Path, value: object, whole: Exception) -> Unfit:
    error = _dump_error(value) or whole
    text = str(error)
    if isinstance(value, bytes | bytearray):
        return Unfit(path, "bytes that are not UTF-8 text cannot be JSON", advice="encode them, as with base64")
    if "depth" in text or "Circular" in text or isinstance(error, RecursionError):
        return Unfit(path, TOO_DEEP, advice="")
    if "surrogates" in text:
        advice = 'replace them: text.encode(errors="replace").decode()'
        return Unfit(path, "text with lone surrogates is not valid Unicode", advice=advice)
    reason = f"{describe(value)} cannot be written as JSON: {cut(text)}"
    return Unfit(path, reason, advice="use plain values, a pydantic model or a dataclass")


def piece(key: object) -> Piece:
    """The key of a dict as part of a path."""
    return key if type(key) is int else str(key)


def is_dict(value: Any) -> TypeGuard[dict[Any, Any]]:
    """Whether it is a dict; to type checkers, one of anything."""
    return isinstance(value, dict)


def type_of(value: Any) -> type[Any]:
    """The class of a value; to type checkers, one of anything."""
    return type(value)  # pyright: ignore[reportUnknownVariableType] - type() of Any


def _is_series(value: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, list | tuple | set | frozenset)


def _children(value: Any) -> Iterator[tuple[Piece, object]]:
    if is_dict(value):
        for key, part in value.items():
            yield "key", key
            yield piece(key), part
    elif _is_series(value):
        yield from enumerate(value)
    elif isinstance(value, pydantic.BaseModel):
        yield from value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
