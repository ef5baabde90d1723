"""JSON text to Python values and back: the only package that knows pydantic.

A value is stored as JSON text and handed out as what that text decodes to, the first time too. So a value
that decoding would change (a tuple without annotation, a subclass's fields, NaN) is refused before it is
stored, with the place in it and the remedy. No I/O; nothing here knows what the values are for.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from functools import cache, lru_cache, partial
from typing import Any, Final, Generic, TypeVar

import pydantic
import pydantic_core
from pydantic import Json, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from durably.codec.equality import is_plain, is_same
from durably.codec.places import MISSING, Unfit, culprit, cut, load_reason, mismatch, path_text, type_name
from durably.errors import SerializationError, ValidationError

__all__ = ["PLAIN_JSON", "Codec", "PlainJson", "canonical_digest", "codec_for", "from_json", "to_json"]

T = TypeVar("T")


class PlainJson(Enum):
    """The type of `PLAIN_JSON`."""

    PLAIN_JSON = "plain JSON"

    def __str__(self) -> str:
        return self.value


PLAIN_JSON: Final = PlainJson.PLAIN_JSON
"""The type of values without annotation: None, bool, int, float, str, lists and str-keyed dicts of them."""

_MOST_TOGETHER = 4_000_000
"""Characters of values that are parsed together."""
_JSON_TYPES = (type(None), bool, int, float, str, list, dict)
_ANNOTATE = "annotate the return type, or pass returns="
_NAME_EXACTLY = "return exactly what the annotation says, or name the real type with returns="


class Codec(Generic[T]):
    """Encodes and decodes values of one type. Get one from `codec_for`, which keeps them."""

    __slots__ = ("_adapter", "_many", "type")

    def __init__(self, tp: object) -> None:
        """Raise SerializationError when values of this type cannot be written as JSON."""
        self.type = tp
        self._adapter: TypeAdapter[Any] | None = None if tp is PLAIN_JSON else _adapter(tp)
        self._many: TypeAdapter[list[Any]] | None = None

    def __repr__(self) -> str:
        return f"Codec({type_name(self.type)})"

    def encode(self, value: T, *, where: str, max_bytes: int | None = None) -> str:
        """The text of `round_trip`, which raises for a value that the text would not give back."""
        return self.round_trip(value, where=where, max_bytes=max_bytes)[0]

    def decode(self, text: str, *, where: str) -> T:
        """The value of a stored text. Raises SerializationError, naming `where` and the place."""
        try:
            return self._load(text)
        except Unfit as flaw:
            reason = f"what is stored does not fit {type_name(self.type)}: {flaw.reason}"
            raise SerializationError(where, path_text(flaw.path), reason) from flaw.__cause__

    def round_trip(self, value: T, *, where: str, max_bytes: int | None = None) -> tuple[str, T]:
        """The text to store, and the value that it decodes to: equal to `value`, and of the same types.

        Raises SerializationError, naming `where` and the place (`$.rows[3].price`), when the value cannot be
        written, would come back changed, or takes more than `max_bytes` of UTF-8. One change is accepted: an
        int where the annotation says float.
        """
        try:
            return self._checked(value, max_bytes)
        except Unfit as flaw:
            advice = flaw.advice
            if advice is None:
                advice = _ANNOTATE if self._adapter is None else _NAME_EXACTLY
            reason = f"{flaw.reason}; {advice}" if advice else flaw.reason
            raise SerializationError(where, path_text(flaw.path), reason) from flaw.__cause__

    def validate(self, value: object, *, field: str) -> T:
        """What a value from outside means to this type. `parse` gives its text too."""
        return self.parse(value, field=field)[1]

    def parse(self, value: object, *, field: str, max_bytes: int | None = None) -> tuple[str, T]:
        """Take a value from outside: the text to store, and the value that it decodes to.

        Accepts an instance of the type, or plain JSON that describes one (`"2024-01-01"` for a date), and
        coerces nothing: "3" is not 3. Unknown fields are dropped or refused as the type says. Raises
        ValidationError with the path of the field (`input.rows[3].price`).
        """
        try:
            return self._checked(self._accepted(value), max_bytes)
        except Unfit as flaw:
            place = field + path_text(flaw.path).removeprefix("$")
            reason = f"{flaw.reason}; {flaw.advice}" if flaw.advice else flaw.reason
            raise ValidationError(place, reason) from flaw.__cause__

    def parse_many(self, values: list[object], *, max_bytes: int | None = None) -> tuple[list[str], list[T]] | None:
        """The texts and the values that `parse` returns for these, in a few calls. None: ask it for each by itself.

        So it is where one of them is not plain JSON that fits: `parse` takes what is no JSON, and says what is wrong;
        and where they are long, for together they take several times as much memory, and no less time.
        """
        try:
            texts: list[str] = _plain_texts().dump_python(values, round_trip=True)
            if sum(map(len, texts)) > _MOST_TOGETHER:
                return None
            plain = pydantic_core.from_json(f"[{','.join(texts)}]", allow_inf_nan=False)
            if not is_plain(values, plain) or _is_suspect(texts, max_bytes):
                return None
            return (texts, plain) if self._adapter is None else self._typed_many(texts, max_bytes)
        except Exception:  # noqa: BLE001  # whatever a type's own code raises, `parse` will meet it again
            return None

    def json_schema(self) -> dict[str, object]:
        """The JSON schema of the type, `{}` (anything) for plain JSON. Raises SerializationError."""
        if self._adapter is None:
            return {}
        try:
            return self._adapter.json_schema()
        except PydanticUserError as error:
            raise SerializationError(f"type {type_name(self.type)}", "", "it has no JSON schema") from error

    def _checked(self, value: Any, max_bytes: int | None) -> tuple[str, T]:
        text = self._dump(value)
        if max_bytes is not None:
            _check_size(text, max_bytes)
        decoded = self._load(text, original=value)
        if not is_same(value, decoded) and self._dump(decoded) != text:
            raise Unfit(None, "it defines no equality (__eq__) and encodes differently after decoding")
        return text, decoded

    def _typed_many(self, texts: list[str], max_bytes: int | None) -> tuple[list[str], list[T]] | None:
        """Like `_checked` after `_accepted`, for many."""
        if self._many is None:
            self._many = _texts_adapter(self.type)
        load = partial(self._many.validate_python, strict=True, by_alias=True, by_name=True)
        accepted = load(texts)
        dumped: list[str] = self._many.dump_python(
            accepted, mode="json", by_alias=True, round_trip=True, warnings=False
        )
        if _is_suspect(dumped, max_bytes) or not is_same(accepted, load(dumped)):
            return None
        return dumped, accepted

    def _accepted(self, value: object) -> object:
        """Validate without coercion: plain JSON as JSON, everything else as the Python objects that it is."""
        if self._adapter is None:
            return value
        if type(value) in _JSON_TYPES and (text := _plain_text(value)) is not None:
            return self._load(text)
        try:
            return self._adapter.validate_python(value, strict=True, by_alias=True, by_name=True)
        except pydantic.ValidationError as error:
            raise mismatch(error) from error
        except (RecursionError, PydanticUserError) as error:
            raise Unfit(None, load_reason(error)) from error

    def _dump(self, value: Any) -> str:
        try:
            if self._adapter is None:
                return pydantic_core.to_json(value, inf_nan_mode="null").decode()
            # the adapter's dump_json passes twenty defaults on, which takes twice as long as to write a small value
            raw = self._adapter.serializer.to_json(value, by_alias=True, round_trip=True, warnings=False)
        except (ValueError, TypeError, AttributeError, RecursionError, PydanticUserError) as error:
            raise culprit(value, error) from error
        if b"NaN" in raw or b"Infinity" in raw:
            _check_numbers(raw)
        return raw.decode()

    def _load(self, text: str, *, original: object = MISSING) -> T:
        """`original` is what the text was made of, for the message."""
        try:
            if self._adapter is None:
                plain: T = pydantic_core.from_json(text, allow_inf_nan=False)
                return plain
            typed: T = self._adapter.validate_json(text, strict=True, by_alias=True, by_name=True)
        except pydantic.ValidationError as error:
            raise mismatch(error, original) from error
        except (ValueError, RecursionError, PydanticUserError) as error:
            raise Unfit(None, load_reason(error), advice="") from error
        return typed


def codec_for(tp: object) -> Codec[Any]:
    """The codec of a type: a class, a `list[int]`, a union. `Any`, `object` and PLAIN_JSON mean plain JSON.

    Raises SerializationError when values of this type cannot be written as JSON.
    """
    if tp is Any or tp is object:
        tp = PLAIN_JSON
    try:
        hash(tp)
    except TypeError:  # Annotated[int, []]
        return Codec(tp)
    return _kept(tp)


@lru_cache(maxsize=1024)
def _kept(tp: object) -> Codec[Any]:
    return Codec(tp)


def _adapter(tp: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(tp)
    except PydanticSchemaGenerationError as error:
        remedy = "use a pydantic model, a dataclass, a TypedDict or the types of plain JSON"
        reason = f"its values cannot be stored as JSON: {remedy}"
        raise SerializationError(f"type {type_name(tp)}", "", reason) from error
    except (PydanticUserError, PydanticUndefinedAnnotation, pydantic_core.SchemaError, TypeError) as error:
        reason = f"its values cannot be stored as JSON: {cut(str(error).partition('For further')[0])}"
        raise SerializationError(f"type {type_name(tp)}", "", reason) from error


def _texts_adapter(tp: Any) -> TypeAdapter[list[Any]]:
    """Between a list of values and, where it is dumped for a round trip, a list of their texts."""
    a_list: Any = list
    a_text: Any = Json
    return TypeAdapter(a_list[a_text[tp]])


@cache
def _plain_texts() -> TypeAdapter[list[Any]]:
    return _texts_adapter(Any)


def to_json(value: object, *, lenient: bool = False) -> str:
    """Compact JSON text of a payload, datetimes and the like as text. Raises SerializationError.

    `lenient` writes what has no JSON form as the text of it: for log data, which must never stop a run.
    """
    try:
        return pydantic_core.to_json(value, inf_nan_mode="strings", serialize_unknown=lenient).decode()
    except (ValueError, TypeError, RecursionError) as error:
        if lenient:
            return pydantic_core.to_json(f"a value of type {type(value).__name__} that has no JSON form").decode()
        flaw = culprit(value, error)
        raise SerializationError("JSON", path_text(flaw.path), flaw.reason) from error


def from_json(text: str) -> object:
    """The plain value of JSON text. Raises SerializationError."""
    value: object = codec_for(PLAIN_JSON).decode(text, where="JSON")
    return value


def canonical_digest(text: str) -> str:
    """SHA-256 (hex) of JSON text, the same for every order of keys."""
    canonical = json.dumps(from_json(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain_text(value: object) -> str | None:
    """The text of a value that is plain JSON throughout, else None."""
    try:
        text = pydantic_core.to_json(value, inf_nan_mode="null").decode()
        return text if is_plain(value, pydantic_core.from_json(text, allow_inf_nan=False)) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_suspect(texts: list[str], max_bytes: int | None) -> bool:
    """Whether one may be too long, or have what is no JSON: it needs a look of its own."""
    joined = "".join(texts)
    return (
        "NaN" in joined
        or "Infinity" in joined
        or (max_bytes is not None and max(map(len, texts), default=0) * 4 > max_bytes)
    )


def _check_size(text: str, limit: int) -> None:
    if len(text) * 4 <= limit:  # no character takes more than four bytes
        return
    if (size := len(text.encode())) > limit:
        reason = f"it takes {size:,} bytes as JSON and at most {limit:,} are allowed"
        raise Unfit(None, reason, advice="keep it elsewhere and pass a reference to it")


def _check_numbers(raw: bytes) -> None:
    try:
        pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Unfit(None, "it contains NaN or Infinity, which JSON lacks", advice="use None or text") from error
