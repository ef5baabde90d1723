"""Types and values that the tests of codecs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, Generic, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import pydantic
import pytest
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from durably.codec import PLAIN_JSON, Codec, codec_for
from durably.errors import SerializationError

WHERE = "the result of step 'read'"
PLAIN: Codec[Any] = codec_for(PLAIN_JSON)
ItemT = TypeVar("ItemT")


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    ONE = "one"


class Number(IntEnum):
    ONE = 1


class Row(BaseModel):
    price: Decimal
    at: datetime | None = None


class Sheet(BaseModel):
    rows: list[Row]
    owner: UUID | None = None
    colour: Colour = Colour.RED


class LongSheet(Sheet):
    pages: int = 0


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: name.title())
    first: int


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    first: int


class Page(BaseModel, Generic[ItemT]):
    items: list[ItemT]


class Notes(RootModel[list[str]]):
    pass


class Remembering(BaseModel):
    first: int
    _seen: list[int] = PrivateAttr(default_factory=list[int])


class Odd(BaseModel):
    value: float
    model_config = ConfigDict(ser_json_inf_nan="constants")


class Computing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    first: int

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.first


class Hiding(BaseModel):
    first: int = 0
    hidden: int = Field(default=0, exclude=True)


class Tree(BaseModel):
    children: list[Tree] = []


@dataclass
class Point:
    x: int
    y: float
    cache: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    when: datetime
    points: tuple[Point, ...]


@dataclass(eq=False)
class Nameless:
    x: int


class Ticket(TypedDict):
    id: int
    note: NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: datetime


class Opaque:
    pass


def there_and_back(value: object, tp: object = PLAIN_JSON) -> Any:
    return codec_for(tp).round_trip(value, where=WHERE)[1]


def refusal(value: object, tp: object = PLAIN_JSON) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec_for(tp).round_trip(value, where=WHERE)
    assert caught.value.where == WHERE
    assert len(str(caught.value)) < 700
    return caught.value


# --- plain JSON --------------------------------------------------------------------------------------------


def same(one: object, other: object) -> bool:
    """Whether plain values are equal and of the same types; `repr` shows both, and the order of keys."""
    return repr(one) == repr(other)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
