"""Storing many runs at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any, Generic, TypeGuard, TypeVar

from durably.errors import ValidationError
from durably.jobs import JobRef, Target, TriggerOptions, build_parsed
from durably.jobs.job import NO_DEFAULTS
from durably.model import Enqueued, IfPending, Labels, NewRun, PlainRuns
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
) -> list[Sequence[NewRun]]:
    """Return the runs that these items ask for, in chunks: `TriggerItem`s, or bare inputs. Raises ValidationError."""
    target = target if isinstance(target, Target) else JobRef(target)
    chunks = [slice(start, start + CHUNK) for start in range(0, len(items), CHUNK)]
    return [_build_chunk(target, items[at], ids[at], first=at.start, max_bytes=max_bytes) for at in chunks]


def _build_chunk(
    target: Target[Any, Any], items: Sequence[object], ids: Sequence[str], *, first: int, max_bytes: int
) -> Sequence[NewRun]:
    """The same for a chunk whose inputs are parsed together, if they can be; `first` is the place of its first item."""
    codec, are_bare = target.input_codec, not any(issubclass(kind, TriggerItem) for kind in set(map(type, items)))
    inputs = [item.input if _is_item(item) else item for item in items] if not are_bare else list(items)
    many = codec.parse_many(inputs, max_bytes=max_bytes)
    if many is not None and are_bare and target.defaults is NO_DEFAULTS:
        return PlainRuns(target.name, ids, many[0])
    parsed: Iterable[tuple[str, object] | None] = zip(*many, strict=True) if many else repeat(None, len(items))
    built: list[NewRun] = []
    for index, (item, given, run_id, pair) in enumerate(zip(items, inputs, ids, parsed, strict=True), first):
        options = item.options() if _is_item(item) else None
        try:
            text, value = pair or codec.parse(given, field="input", max_bytes=max_bytes)
            built.append(build_parsed(target, text, value, id=run_id, options=options))
        except ValidationError as error:
            raise ValidationError(f"items[{index}].{error.field}", error.reason) from error
    return built


def _is_item(item: object) -> TypeGuard[TriggerItem[object]]:
    return isinstance(item, TriggerItem)


async def store_all(database: Database, chunks: Sequence[Sequence[NewRun]]) -> list[Sequence[Enqueued]]:
    """Store runs, a chunk together; each either is stored or met a conflict. Raises the first error."""
    return [await database.submit_all(store_runs.enqueue, chunk) for chunk in chunks]
