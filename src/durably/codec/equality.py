"""Whether two values are the same: equal, and of the same types all the way down.

`==` is not enough: it takes True for 1, 1 for 1.0 and a StrEnum's member for its text.
"""

from __future__ import annotations

import dataclasses
import marshal
import math
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any, TypeAlias

import pydantic

from durably.codec.places import MISSING, Path, Piece, difference, is_dict, piece, type_of

_Parts: TypeAlias = Iterator[tuple[Piece, Any, Any]]

_SCALARS = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset})


def is_same(old: Any, new: Any) -> bool:
    """Whether `new` is `old` again. Raises Unfit at the first difference.

    False when nothing differs but some parts know no equality save that of identity. An int that became an
    equal float is accepted: only the annotation `float` does that, and the type checkers allow it.
    """
    return _is_same_plain(old, new) or _compare(old, new)


def is_plain(value: Any, decoded: Any) -> bool:
    """Whether a value is exactly the plain JSON value that its encoding decodes to."""
    return _is_same_plain(value, decoded)


def _is_same_plain(old: Any, new: Any) -> bool:
    """Whether plain values are the same for sure; False says nothing.

    marshal writes the exact types and bits of plain values in one pass of C; its version 2 has no back
    references, which depend on the identity of parts.
    """
    kind = type_of(old)
    if kind is not type_of(new):
        return False
    if kind in _SCALARS:
        return bool(old == new)
    try:
        return marshal.dumps(old, 2) == marshal.dumps(new, 2)
    except ValueError:
        return False


def _compare(old: Any, new: Any) -> bool:
    decided = True
    stack: list[tuple[Any, Any, Path]] = [(old, new, None)]
    while stack:
        old, new, path = stack.pop()
        if _has_same_data(old, new):
            continue
        if not _has_same_type(old, new):
            raise difference(path, old, new)
        parts = _parts(old, new)
        if parts is not None:
            stack.extend((one, other, (path, step)) for step, one, other in reversed(list(parts)))
            continue
        same = _is_same_leaf(old, new)
        if same is False:
            raise difference(path, old, new)
        decided = decided and same is not None
    return decided


def _has_same_data(old: Any, new: Any) -> bool:
    """Whether a quick look is enough to see that they are the same; False says nothing."""
    kind = type_of(old)
    if kind is not type_of(new):
        return kind is int and type_of(new) is float and bool(old == new)
    if kind in _SCALARS:
        return bool(old == new)
    if kind in _CONTAINERS:
        return False  # a look at a container is a look at all in it, and its parts come next
    if issubclass(kind, pydantic.BaseModel):
        hidden = old.__pydantic_extra__, old.__pydantic_private__, new.__pydantic_private__
        return hidden == (None, None, None) and _is_same_plain(old.__dict__, new.__dict__)
    return False


def _has_same_type(old: object, new: object) -> bool:
    if isinstance(old, pydantic.BaseModel) and isinstance(new, pydantic.BaseModel):
        return _origin(type(old)) is _origin(type(new))
    return type(old) is type(new)


def _origin(model: type[pydantic.BaseModel]) -> object:
    """A generic model without its parameters: `Page(items=[])` equals `Page[int](items=[])`."""
    return model.__pydantic_generic_metadata__["origin"] or model


def _is_same_leaf(old: Any, new: Any) -> bool | None:
    """None when the type knows no equality but that of identity."""
    if isinstance(old, float):
        if math.isnan(old):
            return math.isnan(new)
        return old == new and math.copysign(1, old) == math.copysign(1, new)
    if isinstance(old, Enum):
        return old is new
    if getattr(type_of(old), "__eq__") is object.__eq__:  # noqa: B009 - mypy takes the two for different types
        return None
    try:
        return bool(old == new)
    except (TypeError, ValueError):
        return None


def _parts(old: Any, new: Any) -> _Parts | None:
    """The parts of two containers of one type, in pairs; None when the type has none."""
    if is_dict(old):
        return _entries(old, new)
    if isinstance(old, list | tuple | deque):
        return _elements(old, new)
    if isinstance(old, set | frozenset):
        return _members(old, new)
    if isinstance(old, pydantic.BaseModel):
        return _fields(old, new)
    if dataclasses.is_dataclass(old):
        names = (field.name for field in dataclasses.fields(old) if field.compare)
        return ((name, getattr(old, name, MISSING), getattr(new, name, MISSING)) for name in names)
    return None


def _entries(old: dict[Any, Any], new: dict[Any, Any]) -> _Parts:
    by_text = {str(key): key for key in new}
    for key, value in old.items():
        text = str(key)
        twin = by_text.pop(text, MISSING)
        if type(twin) is type(key) and key in new:
            yield piece(key), value, new[key]
        else:  # show how the key changes
            yield piece(key), key, twin
    for key in by_text.values():
        yield piece(key), MISSING, new[key]


def _elements(old: Any, new: Any) -> _Parts:
    for index in range(max(len(old), len(new))):
        one = old[index] if index < len(old) else MISSING
        yield index, one, new[index] if index < len(new) else MISSING


def _members(old: Any, new: Any) -> _Parts:
    twins = {member: member for member in new}
    for index, member in enumerate(old):
        yield index, member, twins.pop(member, MISSING)
    for member in twins:
        yield len(old), MISSING, member


def _fields(old: pydantic.BaseModel, new: pydantic.BaseModel) -> _Parts:
    for name in type(old).model_fields:
        yield name, old.__dict__.get(name, MISSING), new.__dict__.get(name, MISSING)
    for one, other in (
        (old.__pydantic_extra__ or {}, new.__pydantic_extra__ or {}),
        (old.__pydantic_private__ or {}, new.__pydantic_private__ or {}),
    ):
        for name in one.keys() | other.keys():
            yield name, one.get(name, MISSING), other.get(name, MISSING)
