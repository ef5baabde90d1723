"""Values of annotated types, and values from outside: what they become, and what is refused."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import BaseModel, Field, SecretStr

from durably.codec import PLAIN_JSON, codec_for
from durably.errors import SerializationError, ValidationError
from tests.unit.codec_values import (
    PLAIN,
    WHERE,
    Camel,
    Colour,
    Computing,
    Hiding,
    LongSheet,
    Loose,
    Nameless,
    Notes,
    Number,
    Odd,
    Opaque,
    Page,
    Pair,
    Plan,
    Point,
    Remembering,
    Row,
    Sheet,
    Strict,
    Ticket,
    Tree,
    Word,
    refusal,
    there_and_back,
)

# --- typed values ------------------------------------------------------------------------------------------

WHEN = datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


TYPED: list[tuple[object, object]] = [
    (None, None),
    (int, 10**40),
    (float, -0.0),
    (float, 1e16),
    (str, "\u0000\U0001f600"),
    (bytes, b"text"),
    (tuple, (1, "a")),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"a"})),
    (deque[int], deque([1, 2])),
    (dict[int, tuple[int, int]], {1: (1, 2)}),
    (dict[UUID, int], {UUID(int=1): 1}),
    (dict[date, int], {date(2024, 1, 1): 1}),
    (dict[Word, int], {Word.ONE: 1}),
    (defaultdict[str, int], defaultdict(int, a=1)),
    (Counter[str], Counter("aab")),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (datetime, WHEN),
    (datetime, WHEN.replace(tzinfo=None)),
    (datetime, WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))),
    (datetime, WHEN.astimezone(ZoneInfo("Europe/Berlin"))),
    (date, date(2024, 2, 29)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UUID, UUID(int=5)),
    (Decimal, Decimal("1.10")),
    (Path, Path("/home/a")),
    (IPv4Address, IPv4Address("10.0.0.1")),
    (Colour, Colour.RED),
    (Number, Number.ONE),
    (Literal["a", 1], 1),
    (int | str | None, "3"),
    (int | float, 3),
    (int | float, 3.0),
    (bool | int, True),
    (bool | int, 1),
    (Annotated[int, Field(gt=0)], 3),
    (Annotated[list[int], []], [1]),
    (list[Point], [Point(1, 2.0)]),
    (Plan, Plan(WHEN, (Point(1, -0.0),))),
    (Ticket, {"id": 1}),
    (Ticket, {"note": "before id", "id": 1}),
    (Pair, Pair(1, WHEN)),
    (Sheet, Sheet(rows=[Row(price=Decimal("1.50"), at=WHEN)], owner=UUID(int=1))),
    (Sheet | Ticket, {"id": 1}),
    (list[Sheet | Row], [Row(price=Decimal(1)), Sheet(rows=[])]),
    (Camel, Camel(First=1)),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    (Loose, Loose(more=[1])),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    (Page[int], Page[int](items=[1])),
    (Page[int], Page(items=[1])),
    (Notes, Notes(["a"])),
    (Remembering, Remembering(first=1)),
    (Computing, Computing(first=1)),
    (Nameless, Nameless(1)),
    (list[Nameless], [Nameless(1), Nameless(2)]),
    (Any, {"a": [1, None]}),
    (object, "text"),
    (Tree, Tree(children=[Tree(), Tree(children=[Tree()])])),
    (pydantic.JsonValue, {"a": [1, 2.0, None]}),
]


@pytest.mark.parametrize(("tp", "value"), TYPED)
def test_a_value_of_the_annotated_type_comes_back(tp: object, value: object) -> None:
    decoded = there_and_back(value, tp)
    assert isinstance(decoded, type(value)) or type(value) is Page
    if not isinstance(value, Nameless) and not (isinstance(value, list) and isinstance(value[0], Nameless)):
        assert decoded == value


def test_an_int_for_a_float_becomes_the_float_that_was_promised() -> None:
    decoded = there_and_back({"total": 0}, dict[str, float])
    assert type(decoded["total"]) is float


@pytest.mark.parametrize(
    ("tp", "value", "path"),
    [
        (Sheet, LongSheet(rows=[], pages=3), "$"),
        (list[Sheet], [LongSheet(rows=[])], "$[0]"),
        (int, True, "$"),
        (bool, 1, "$"),
        (int, "3", "$"),
        (str, 3, "$"),
        (str, Word.ONE, "$"),
        (float, 2**53 + 1, "$"),
        (float, True, "$"),
        (float, math.nan, "$"),
        (list[int], (1, 2), "$"),
        (list[int], [1, 2.5], "$[1]"),
        (tuple[int, ...], [1, 2], "$"),
        (set[int], frozenset({1}), "$"),
        (dict[str, int], {1: 2}, "$[1]"),
        (
            dict[str, list[Row]],
            {"a": [Row(price=Decimal(1)), Row.model_construct(price="x")]},
            "$.a[1].price",
        ),
        (Row, {"price": Decimal(1)}, "$"),
        (Point, Point(1, "x"), "$.y"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        (Ticket, {"id": 1, "more": 2}, "$.more"),
        (Ticket, {}, "$.id"),
        (SecretStr, SecretStr("abc"), "$"),
        (Odd, Odd(value=math.inf), "$"),
        (Hiding, Hiding(hidden=5), "$.hidden"),
        (None, 3, "$"),
        (Colour, "red", "$"),
        (Any, (1,), "$"),
        (bytes, b"\xff", "$"),
        (UUID, str(UUID(int=1)), "$"),
        (datetime, WHEN.isoformat(), "$"),
    ],
)
def test_a_value_that_its_type_would_change_is_refused(tp: object, value: object, path: str) -> None:
    assert refusal(value, tp).path == path


class Signless(BaseModel):
    value: float

    @pydantic.field_validator("value")
    @classmethod
    def positive(cls, value: float) -> float:
        return abs(value)


def test_the_sign_of_zero_is_part_of_a_value() -> None:
    assert there_and_back(Signless(value=0.0), Signless) == Signless(value=0.0)
    assert refusal(Signless.model_construct(value=-0.0), Signless).path == "$.value"


class Handle:
    """Equal to nothing but itself; its type writes it as a number, `step` higher each time it is read."""

    def __init__(self, number: int) -> None:
        self.number = number


def handle_type(step: int) -> object:
    return Annotated[
        Handle,
        pydantic.PlainValidator(lambda raw: raw if isinstance(raw, Handle) else Handle(raw + step)),
        pydantic.PlainSerializer(lambda handle: handle.number, return_type=int),
    ]


def test_values_without_equality_are_compared_by_what_they_encode_to() -> None:
    assert there_and_back(Handle(3), handle_type(step=0)).number == 3
    assert "encodes differently" in refusal([Handle(3)], list[handle_type(step=1)]).reason  # type: ignore[misc]


def test_private_data_of_a_model_is_not_lost_in_silence() -> None:
    model = Remembering(first=1)
    model._seen.append(5)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    assert refusal(model, Remembering).path == "$._seen[0]"


def test_a_subclass_is_named_in_the_refusal() -> None:
    assert "LongSheet would come back as a value of type Sheet" in str(refusal(LongSheet(rows=[]), Sheet))


def test_long_and_secret_values_are_not_shown() -> None:
    long = "x" * 5000
    assert len(str(refusal({"a": long}, dict[str, int]))) < 500
    assert len(str(refusal({long: (1,)}))) < 700
    assert "hunter2" not in str(refusal(SecretStr("hunter2"), SecretStr))


def test_a_value_over_the_limit_is_refused_with_both_sizes() -> None:
    with pytest.raises(SerializationError, match=r"takes 1,002 bytes as JSON and at most 1,000 are allowed"):
        PLAIN.round_trip("x" * 1000, where=WHERE, max_bytes=1000)
    with pytest.raises(SerializationError, match="1,002 bytes"):
        PLAIN.encode("\u00e9" * 500, where=WHERE, max_bytes=1000)
    assert PLAIN.encode("x" * 998, where=WHERE, max_bytes=1000)


@pytest.mark.parametrize("tp", [Opaque, list[Opaque], 3, dict[str, Opaque]])
def test_a_type_that_has_no_json_form_is_named(tp: object) -> None:
    with pytest.raises(SerializationError, match=r"Opaque|3"):
        codec_for(tp)


def test_what_is_stored_but_does_not_fit_any_more_is_an_error_with_the_place() -> None:
    with pytest.raises(SerializationError, match=r"at \$\.rows\[0\]\.price: what is stored does not fit Sheet"):
        codec_for(Sheet).decode('{"rows":[{}]}', where=WHERE)
    with pytest.raises(SerializationError, match="not JSON"):
        PLAIN.decode("{", where=WHERE)


def test_codecs_are_kept_by_type() -> None:
    assert codec_for(Sheet) is codec_for(Sheet)
    assert codec_for(Any) is codec_for(object) is PLAIN
    assert codec_for(Literal[1]) is not codec_for(Literal[True])


# --- values from outside -----------------------------------------------------------------------------------


def accepted(tp: object, value: object) -> Any:
    return codec_for(tp).validate(value, field="input")


def rejected(tp: object, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        accepted(tp, value)
    assert len(str(caught.value)) < 700
    return caught.value.field


def test_plain_json_that_describes_a_model_is_accepted() -> None:
    described = {
        "rows": [{"price": "1.5", "at": "2024-05-01T12:30:15.123456Z"}],
        "owner": "00000000-0000-0000-0000-000000000001",
        "colour": "red",
    }
    sheet = Sheet(rows=[Row(price=Decimal("1.5"), at=WHEN)], owner=UUID(int=1))
    assert accepted(Sheet, described) == sheet
    assert accepted(Sheet, sheet) == sheet
    assert accepted(Sheet, {"rows": [Row(price=Decimal("1.5"), at=WHEN)], "owner": UUID(int=1)}) == sheet


def test_an_instance_is_copied() -> None:
    sheet = Sheet(rows=[])
    assert accepted(Sheet, sheet) is not sheet


def test_unknown_fields_are_dropped_or_refused_as_the_model_says() -> None:
    text, value = codec_for(Row).parse({"price": "1", "more": 1}, field="input")
    assert text == '{"price":"1","at":null}'
    assert value == Row(price=Decimal(1))
    assert accepted(Loose, {"more": 1}) == Loose(more=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    assert rejected(Strict, {"first": 1, "more": 1}) == "input.more"


def test_aliases_and_names_are_both_accepted() -> None:
    assert accepted(Camel, {"First": 1}) == accepted(Camel, {"first": 1})
    assert codec_for(Camel).encode(accepted(Camel, {"First": 1}), where=WHERE) == '{"First":1}'


@pytest.mark.parametrize(
    ("tp", "value", "field"),
    [
        (int, "3", "input"),
        (int, 3.0, "input"),
        (int, True, "input"),
        (str, 3, "input"),
        (bool, 1, "input"),
        (bool, "true", "input"),
        (float, "3", "input"),
        (str, b"text", "input"),
        (str, UUID(int=1), "input"),
        (dict[str, int], {1: 2}, "input[1]"),
        (list[int], {1, 2}, "input"),
        (list[int], (1, 2), "input"),
        (Sheet, {}, "input.rows"),
        (Sheet, {"rows": [{"price": "1"}, {"price": "x"}]}, "input.rows[1].price"),
        (Sheet, None, "input"),
        (Sheet, "text", "input"),
        (Sheet, Row(price=Decimal(1)), "input"),
        (Sheet, LongSheet(rows=[]), "input"),
        (Sheet, Sheet.model_construct(rows=["x"]), "input.rows[0]"),
        (None, {}, "input"),
        (PLAIN_JSON, {"a": (1,)}, "input.a"),
        (PLAIN_JSON, math.nan, "input"),
        (float, math.nan, "input"),
        (Sheet, {"rows": [], "owner": 5}, "input.owner"),
        (Row, {"price": math.inf}, "input.price"),
    ],
)
def test_nothing_is_coerced_and_the_field_is_named(tp: object, value: object, field: str) -> None:
    got = rejected(tp, value)
    assert got == field or got.startswith(f"{field}.")


def test_a_validated_value_over_the_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"input: it takes 12 bytes .* at most 10"):
        PLAIN.parse("x" * 10, field="input", max_bytes=10)


def test_a_long_bad_value_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        codec_for(int).validate("x" * 5000, field="input")
    assert len(str(caught.value)) < 400
