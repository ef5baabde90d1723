"""G11: what a codec gives back is what it was given, or an error that names the place and the remedy."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from durably.codec import PLAIN_JSON, Codec, canonical_digest, codec_for, from_json, to_json
from durably.errors import SerializationError, UsageError, ValidationError

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


@given(json_values)
@example(1e16)
@example(-0.0)
@example([10**30, -(10**30), 2**63, 5e-324, 1.7976931348623157e308, 0.1 + 0.2])
@example({"": "\u0000", "\u0000": "\U0001f600", "e\u0301": "\u2028"})
@settings(max_examples=300)
def test_any_json_value_comes_back_the_same(value: object) -> None:
    text, decoded = PLAIN.round_trip(value, where=WHERE)
    assert same(decoded, value)
    assert same(PLAIN.decode(text, where=WHERE), value)
    assert same(json.loads(text), value), "others read the same text as the same value"


any_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.datetimes()
    | st.uuids()
    | st.decimals()
    | st.sampled_from([Colour.RED, Word.ONE, Number.ONE, Opaque(), Path("a"), range(2)]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(st.integers() | st.text(), max_size=3)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(any_values)
@settings(max_examples=500)
def test_any_value_at_all_comes_back_the_same_or_is_refused(value: object) -> None:
    try:
        decoded = there_and_back(value)
    except SerializationError:
        return
    assert same(decoded, value)


def test_the_first_value_is_the_decoded_one_not_the_object_that_was_returned() -> None:
    rows = [{"price": 1}]
    decoded = there_and_back(rows)
    assert decoded == rows
    assert decoded is not rows
    assert decoded[0] is not rows[0]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1, 2), "$"),
        ({"rows": [{"price": 1}, {"price": (1, 2)}]}, "$.rows[1].price"),
        ({1: "a"}, "$[1]"),
        ({"a": {True: 1}}, "$.a.True"),
        ({None: 1}, "$.None"),
        ([1.0, math.nan], "$[1]"),
        ({"x": math.inf}, "$.x"),
        (datetime(2024, 1, 1, tzinfo=UTC), "$"),
        ({"ids": {1, 2}}, "$.ids"),
        ([b"text"], "$[0]"),
        ([b"\xff"], "$[0]"),
        ({"name": "\ud800"}, "$.name"),
        ({"\ud800": 1}, "$.key"),
        ([[[Opaque()]]], "$[0][0][0]"),
        ({"a b": Decimal(1)}, "$['a b']"),
        (Word.ONE, "$"),
        ({Word.ONE: 1}, "$.one"),
        ([Number.ONE], "$[0]"),
        (Point(1, 2.0), "$"),
        (Sheet(rows=[]), "$"),
        (OrderedDict[str, int](a=1), "$"),
        (lambda: None, "$"),
        pytest.param(10**5000, "$", id="huge"),
    ],
)
def test_a_plain_value_that_would_change_is_refused_with_the_place(value: object, path: str) -> None:
    assert refusal(value).path == path


def test_the_remedy_is_part_of_the_message() -> None:
    error = refusal({"rows": (1, 2)})
    assert str(error) == (
        "the result of step 'read' at $.rows: a value of type tuple would come back as a value of type list; "
        "annotate the return type, or pass returns="
    )


@pytest.mark.parametrize(
    ("tp", "value", "message"),
    [
        (PLAIN_JSON, [math.nan], "at $[0]: JSON has no nan; use None or text"),
        (list[float], [1.0, -math.inf], "at $[1]: JSON has no -inf; use None or text"),
        (float | None, math.inf, "at $: JSON has no inf; use None or text"),
        (bytes, b"\xff", "bytes that are not UTF-8 text cannot be JSON; encode them, as with base64"),
        (PLAIN_JSON, "\ud800", "text with lone surrogates is not valid Unicode; replace them: "),
        (PLAIN_JSON, Opaque(), "a value of type Opaque cannot be written as JSON: "),
        (Sheet, LongSheet(rows=[]), "name the real type with returns="),
    ],
)
def test_each_refusal_has_a_remedy_that_helps(tp: object, value: object, message: str) -> None:
    assert message in str(refusal(value, tp))


def test_depth_is_an_error_and_not_a_crash() -> None:
    for depth in (190, 201, 250, 300, 5000, 100_000):
        nested: Any = None
        for _ in range(depth):
            nested = [nested]
        if depth < 200:
            assert same(there_and_back(nested), nested)
        else:
            assert "nested" in refusal(nested).reason
        while nested:  # without the recursion of the garbage collector
            nested = nested.pop()


def test_depth_of_a_typed_value_is_an_error_and_not_a_crash() -> None:
    tree = Tree()
    for _ in range(5000):
        tree = Tree.model_construct(children=[tree])
    assert refusal(tree, Tree).where == WHERE


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append({"again": loop})
    assert "contains itself" in refusal(loop).reason


def test_the_same_part_twice_is_no_loop() -> None:
    part = {"a": [1]}
    assert there_and_back([part, part, {"deep": part}]) == [part, part, {"deep": part}]


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


# --- payloads, digests, schemas ----------------------------------------------------------------------------


def test_payloads_are_compact_json() -> None:
    assert to_json({"leaseMs": 30, "owner": "a"}) == '{"leaseMs":30,"owner":"a"}'
    assert from_json("[1,2.0]") == [1, 2.0]
    with pytest.raises(SerializationError, match=r"\$\.a\[0\]"):
        to_json({"a": [Opaque()]})
    with pytest.raises(SerializationError):
        from_json("[NaN]")


@pytest.mark.parametrize("value", [Opaque(), {"a": [Opaque()]}, "\ud800", math.nan, {1: {2}}, b"\xff"])
def test_log_data_is_always_written(value: object) -> None:
    assert isinstance(json.loads(to_json(value, lenient=True)), object)


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    one = canonical_digest('{"a":1,"b":{"c":[1,2],"d":"\u00e9"}}')
    assert one == canonical_digest('{ "b": {"d": "\\u00e9", "c": [1, 2]}, "a": 1}')
    assert len(one) == 64
    others = [
        '{"a":1}',
        '{"a":1.0}',
        '{"a":true}',
        '{"a":"1"}',
        '{"a":[1]}',
        "[1,2]",
        "[2,1]",
        "10000000000000000",
        "1e16",
    ]
    assert len({canonical_digest(text) for text in others}) == len(others)


@given(json_values)
def test_any_value_has_a_digest(value: object) -> None:
    assert canonical_digest(PLAIN.encode(value, where=WHERE)) == canonical_digest(json.dumps(value))


def test_the_schema_is_that_of_the_type() -> None:
    assert PLAIN.json_schema() == {}
    assert codec_for(Row).json_schema()["required"] == ["price"]


def test_usage_errors_are_the_callers() -> None:
    assert isinstance(refusal((1,)), UsageError)
