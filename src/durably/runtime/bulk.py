"""Storing many runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any, Generic, TypeGuard, TypeVar

from durably.codec import Codec
from durably.errors import ValidationError
from durably.jobs import JobRef, Target, TriggerOptions, build_parsed
from durably.model import Enqueued, IfPending, Labels, NewRun
from durably.store import runs as store_runs
from durably.store.database import Database

InputT = TypeVar("InputT")

CHUNK = 1000
"""Runs of a `trigger_many` that are under way to the database at once."""


@dataclass(frozen=True)  # no slots: `TriggerItem[Row](row)` lets typing try to set an attribute
class TriggerItem(Generic[InputT]):
    """One run of a `trigger_many` that has more to say than its input."""

    input: InputT
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    if_pending: IfPending | None = None
    labels: Labels | None = None
    priority: int | None = None
    delay: timedelta | None = None
    run_at: datetime | None = None

    def options(self) -> TriggerOptions:
        """Everything but the input."""
        return TriggerOptions(
            idempotency_key=self.idempotency_key,
            concurrency_key=self.concurrency_key,
            if_pending=self.if_pending,
            labels=self.labels,
            priority=self.priority,
            delay=self.delay,
            run_at=self.run_at,
        )


def build_runs(
    target: Target[Any, Any] | str, items: Sequence[object], *, ids: Sequence[str], max_bytes: int
) -> list[NewRun]:
    """Return the runs that these items ask for: `TriggerItem`s, or bare inputs. Raises ValidationError."""
    target = target if isinstance(target, Target) else JobRef(target)
    codec = target.input_codec
    inputs = [item.input if _is_item(item) else item for item in items]
    parsed = _parsed_together(codec, inputs, max_bytes)
    built: list[NewRun] = []
    for index, (item, given, run_id, pair) in enumerate(zip(items, inputs, ids, parsed, strict=True)):
        options = item.options() if _is_item(item) else None
        try:
            text, value = pair or codec.parse(given, field="input", max_bytes=max_bytes)
            built.append(build_parsed(target, text, value, id=run_id, options=options))
        except ValidationError as error:
            raise ValidationError(f"items[{index}].{error.field}", error.reason) from error
    return built


def _parsed_together(
    codec: Codec[Any], inputs: Sequence[object], max_bytes: int
) -> Iterator[tuple[str, object] | None]:
    """The text and the value of each input; None for those of a chunk that cannot be parsed together."""
    for start in range(0, len(inputs), CHUNK):
        chunk = list(inputs[start : start + CHUNK])
        many = codec.parse_many(chunk, max_bytes=max_bytes)
        yield from zip(*many, strict=True) if many else repeat(None, len(chunk))


def _is_item(item: object) -> TypeGuard[TriggerItem[object]]:
    return isinstance(item, TriggerItem)


async def store_all(database: Database, built: Sequence[NewRun]) -> list[Sequence[Enqueued]]:
    """Store runs, a chunk together; each either is stored or met a conflict. Raises the first error."""
    chunks = [built[start : start + CHUNK] for start in range(0, len(built), CHUNK)]
    return [await database.submit_all(store_runs.enqueue, chunk) for chunk in chunks]
