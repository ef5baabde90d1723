"""G11: what a codec gives back is what it was given, or an error that names the place and the remedy."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durably.codec import PLAIN_JSON, canonical_digest, codec_for, from_json, to_json
from durably.errors import SerializationError, UsageError
from tests.unit.codec_values import (
    PLAIN,
    WHERE,
    Colour,
    LongSheet,
    Number,
    Opaque,
    Point,
    Row,
    Sheet,
    Tree,
    Word,
    json_values,
    refusal,
    same,
    there_and_back,
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
