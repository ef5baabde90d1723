"""G11: many values from outside are parsed as each would be, in fewer calls; or else each by itself."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from durably.codec import PLAIN_JSON, Codec, codec_for
from durably.errors import ValidationError
from durably.model import Run, StoredRun


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.5


class Ticket(TypedDict):
    id: int


class Row(BaseModel):
    price: Decimal
    at: datetime | None = None
    colours: set[Colour] = set()


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: name.title())
    first: int


class Writing(BaseModel):
    """Written in its own way, as JSON only."""

    when: date

    @pydantic.field_serializer("when", when_used="json")
    def as_number(self, when: date) -> int:
        return when.toordinal()

    @pydantic.field_validator("when", mode="before")
    @classmethod
    def of_number(cls, when: object) -> object:
        return date.fromordinal(when) if isinstance(when, int) else when


class Drawing(BaseModel):
    """Another one each time it is read, which nothing of what is stored shows."""

    lot: UUID = Field(default_factory=uuid4, exclude=True)


class Tree(BaseModel):
    children: list[Tree] = []


WHEN = datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=UTC).isoformat()
FITTING: list[tuple[object, list[object]]] = [
    (PLAIN_JSON, [1, "a", None, {"a": [1.5, True]}, 10**40, -0.0]),
    (Any, [{"a": 1}, {"b": 2}]),
    (None, [None, None]),
    (int, [0, 1, 10**40, -1]),
    (float, [1.5, 1, -0.0]),
    (str, ["", "\u0000\U0001f600", '"', "\u2028"]),
    (bytes, ["text"]),
    (datetime, [WHEN, WHEN]),
    (timedelta, ["PT1.5S", "-P1D"]),
    (Decimal, ["1.10", 3]),
    (UUID, [str(UUID(int=1))]),
    (Colour, ["red", "red"]),
    (Literal["a", 1], ["a", 1]),
    (int | str | None, [1, "1", None]),
    (Annotated[int, Field(gt=0)], [1, 2]),
    (Annotated[list[int], []], [[1], []]),
    (list[int], [[1, 2], []]),
    (dict[int, tuple[int, str]], [{"1": [1, "a"]}]),
    (Point, [{"x": 1}, {"x": 2, "y": 3}]),
    (Ticket, [{"id": 1}, {"id": 2}]),
    (Row, [{"price": "1.5", "at": WHEN, "more": 1}, {"price": 2, "colours": ["red"]}]),
    (Camel, [{"first": 1}, {"First": 2}]),
    (Writing, [{"when": 738_000}, {"when": 1}]),
    (Tree, [{}, {"children": [{}, {"children": []}]}]),
]


def each(codec: Codec[Any], values: Sequence[object]) -> tuple[list[str], list[Any]]:
    parsed = [codec.parse(value, field="input") for value in values]
    return [text for text, _ in parsed], [value for _, value in parsed]


@pytest.mark.parametrize(("tp", "values"), FITTING)
def test_plain_json_that_fits_is_parsed_together_and_comes_to_the_same(tp: object, values: list[object]) -> None:
    codec = codec_for(tp)
    many = codec.parse_many(values)
    assert many is not None
    assert repr(many) == repr(each(codec, values))


UNFIT: list[tuple[object, list[Any]]] = [
    (PLAIN_JSON, [1, (1,)]),
    (PLAIN_JSON, [1, math.nan]),
    (PLAIN_JSON, ["NaN"]),
    (PLAIN_JSON, [{1: 2}]),
    (PLAIN_JSON, ["\ud800"]),
    (PLAIN_JSON, [object()]),
    (int, [1, "1"]),
    (int, [1, True]),
    (int, [1, Colour.RED]),
    (float, [math.inf]),
    (str, ["Infinity"]),
    (Point, [Point(1)]),
    (Row, [{"price": "1"}, {}]),
    (Drawing, [{}]),
]


@pytest.mark.parametrize(("tp", "values"), UNFIT)
def test_what_needs_a_look_of_its_own_is_left_to_it(tp: object, values: list[Any]) -> None:
    assert codec_for(tp).parse_many(values) is None


def test_none_at_all_are_parsed_too() -> None:
    assert codec_for(int).parse_many([]) == ([], [])


@pytest.mark.parametrize("tp", [PLAIN_JSON, str])
def test_one_that_may_be_too_long_is_looked_at_by_itself(tp: object) -> None:
    codec = codec_for(tp)
    assert codec.parse_many(["short"], max_bytes=28) is not None
    assert codec.parse_many(["short", "x" * 6], max_bytes=28) is None
    assert codec_for(Row).parse_many([{"price": "1"}], max_bytes=60) is None, "with its defaults it is longer"


def test_long_values_are_parsed_one_by_one() -> None:
    codec = codec_for(str)
    assert codec.parse_many(["x" * 100_000] * 30) is not None
    assert codec.parse_many(["x" * 100_000] * 50) is None


def test_whatever_the_code_of_a_type_raises_is_met_again() -> None:
    def fail(_value: object) -> object:
        raise KeyError("mine")

    codec = codec_for(Annotated[int, pydantic.BeforeValidator(fail)])
    assert codec.parse_many([1]) is None
    with pytest.raises(KeyError, match="mine"):
        codec.parse(1, field="input")


def test_a_type_that_reads_the_same_text_as_something_else_is_left_to_parse() -> None:
    """It would come back changed."""
    number = itertools.count()
    codec = codec_for(Annotated[int, pydantic.PlainValidator(lambda _: next(number))])
    assert codec.parse_many([5]) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
TYPES = [PLAIN_JSON, int, float, str | int, list[float], dict[str, int | None], Row, Point, Camel, Any]


@given(st.sampled_from(TYPES), st.lists(json_values, max_size=4))
@example(Row, [{"price": 1e400}])
@example(float, [1e16, 5e-324, 2**53 + 1])
@example(PLAIN_JSON, [[], [[]], "]", ","])
@settings(max_examples=400)
def test_many_never_come_to_anything_else_than_each(tp: object, values: list[object]) -> None:
    codec = codec_for(tp)
    many = codec.parse_many(values)
    if many is not None:
        texts, parsed = each(codec, values)
        assert (many[0], repr(many[1])) == (texts, repr(parsed))
        return
    if tp is PLAIN_JSON or any(not is_plain_value(value) for value in values):
        return
    with pytest.raises(ValidationError):
        each(codec, values)


def is_plain_value(value: object) -> bool:
    """Whether JSON gives back exactly this value, and it has no word that is looked at closely."""
    try:
        text = json.dumps(value, allow_nan=False)
        text.encode()
        return repr(json.loads(text)) == repr(value) and "NaN" not in text and "Infinity" not in text
    except (ValueError, TypeError):
        return False


def test_a_run_begins_with_the_fields_of_its_row() -> None:
    """Runs are made from rows by position."""
    row = [one.name for one in fields(StoredRun)]
    assert [one.name for one in fields(Run)] == [*row, "types", "disposition", "is_committed"]
