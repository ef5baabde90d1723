"""Runs: storing new ones and looking at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import overload

from durably.model import Disposition, Enqueued, Hold, NewRun, PlainRuns, RunFilter, RunStatus, StepRecord, StoredRun
from durably.store import rows
from durably.store.operation import Batch, Lane, Operation, Param, Rows, Statement, Wake, Write

PRIORITY_US = 60_000_000
"""How much earlier one unit of priority lets a run start: it overtakes what was triggered up to a minute before."""

_ITEM = (
    "ord",
    "id",
    "job",
    "input",
    "input_digest",
    "idempotency_key",
    "concurrency_key",
    "if_pending",
    "labels",
    "priority",
    "delay_us",
    "run_at",
)
_PLAIN = ("id", "job", "input")
_CHECKPOINT = ("name", "position", "output", "started_at", "completed_at")

_FIELDS = [one.name for one in fields(StoredRun)]
_LABELS = _FIELDS.index("labels")
_values = attrgetter(*_FIELDS)
_stored: Callable[..., StoredRun] = StoredRun
_enqueued: Callable[..., Enqueued] = Enqueued


class NewlyStored(Sequence[Enqueued]):
    """What became of runs that say nothing but job and input, stored at one time. Each is made when it is asked for."""

    def __init__(self, items: Sequence[tuple[str, str, str]], at: datetime) -> None:
        """`items` are id, job and input."""
        self._items = items
        self._at = at

    def rows(self) -> Iterator[Sequence[object]]:
        """The values of each `StoredRun`, in the order of its fields; one list, which is used again for the next."""
        values = list(_values(_created(NewRun(id="", job="", input_json=""), None, self._at).run))
        for values[:3] in self._items:
            values[_LABELS] = {}
            yield values

    def __iter__(self) -> Iterator[Enqueued]:
        for values in self.rows():
            yield _enqueued(_stored(*values), Disposition.CREATED)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Enqueued: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Enqueued]: ...
    def __getitem__(self, index: int | slice) -> Enqueued | Sequence[Enqueued]:
        return list(self)[index]


class _Items(Mapping[str, Param]):
    """The parameters of storing new runs; a batch is made when it is asked for.

    Those that say nothing but job and input (`plain_items`) have a way of their own, which costs half as much.
    """

    def __init__(self, items: Sequence[NewRun]) -> None:
        self._items = items
        self._made: dict[str, Param] = {}

    def __getitem__(self, name: str) -> Param:
        if name not in self._made:  # Postgres asks twice: whether there are rows, and for them
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Param:
        match name:
            case "items":
                return Batch(_ITEM, tuple(map(_row, range(len(self._items)), self._items)))
            case "plain_items":
                plain = [(item.id, item.job, item.input_json) for item in self._items if _says_nothing(item)]
                return Batch(_PLAIN, tuple(plain))
            case "other_items":
                others = [_row(place, item) for place, item in enumerate(self._items) if not _says_nothing(item)]
                return Batch(_ITEM, tuple(others))
            case "priority_us":
                return PRIORITY_US
            case _:
                raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("items", "plain_items", "other_items", "priority_us"))

    def __len__(self) -> int:
        return 4


def _enqueue(items: Sequence[NewRun]) -> Operation[Sequence[Enqueued]]:
    """Store new runs. Safe to repeat.

    Ids are made just before, so nothing has them yet, unless this is a repetition: then the database refuses, since ids
    are unique in runs and, for runs that were deleted, in events. Looking first would cost it a third more.
    """
    if isinstance(items, PlainRuns):
        return _enqueue_new(items, tuple(items.rows()))
    if all(map(_says_nothing, items)):
        return _enqueue_new(items, tuple((item.id, item.job, item.input_json) for item in items))
    return _enqueue_wary(items)


def _enqueue_new(items: Sequence[NewRun], plain: tuple[tuple[str, str, str], ...]) -> Operation[Sequence[Enqueued]]:
    """Store runs that say nothing but what is in `plain`, and are not there. Fails as a whole when one is."""

    def decode(results: Sequence[Rows]) -> Sequence[Enqueued]:
        row: rows.AnyRow = results[0][0]
        return NewlyStored(plain, rows.time(row["created_at"]))

    return Operation(
        statements=(Statement("insert_new_runs", {"new_items": Batch(_PLAIN, plain)}),),
        decode=decode,
        wakes=Wake.WORK | Wake.EVENTS,
        otherwise=lambda: _enqueue_wary(list(items)),
    )


def _enqueue_wary(items: Sequence[NewRun], *, is_read_back: bool = False) -> Operation[list[Enqueued]]:
    """Store those runs that are not there, merged or in the way of an idempotency key, and read what became of each.

    What an item was merged into, or has the idempotency key of, is also read at once: the rest of the transaction may
    cancel or delete that run, and then the last look does not find it any more, or another one.
    """
    params = _Items(items)
    merges = any(item.if_pending != "queue" for item in items)
    statements = [Statement("insert_runs", params)]
    if merges:
        statements = [Statement("pin_unstarted", params), Statement("merge_runs", params), *statements]
    is_read = is_read_back or not all(item.is_plain for item in items)
    reads = (Statement("read_enqueued", params),) if is_read else ()
    last = len(statements) - 1
    is_read_early = merges or any(item.idempotency_key is not None for item in items)
    if is_read_early:
        statements += reads

    def decode(results: Sequence[Rows]) -> list[Enqueued]:
        if not reads:
            return _all_created(items, results[last])
        late: dict[object, rows.AnyRow] = {row["ord"]: row for row in results[-1]}
        early = {row["ord"]: row for row in results[last + 1]} if is_read_early else late
        return [_found(item, early.get(place), late.get(place)) for place, item in enumerate(items)]

    return Operation(
        statements=tuple(statements),
        decode=decode,
        keys=tuple(sorted({item.concurrency_key for item in items if item.concurrency_key is not None})),
        reads=reads,
        wakes=Wake.WORK | Wake.EVENTS,
    )


def _says_nothing(item: NewRun) -> bool:
    """Whether an item is job and input, and all else as it is when nothing is said."""
    return item.is_plain and not item.labels and item.priority == 0 and item.delay is None and item.run_at is None


def _row(place: int, item: NewRun) -> tuple[str | int | datetime | None, ...]:
    delay = None if item.delay is None else rows.micros(item.delay)
    labels = json.dumps(dict(item.labels), sort_keys=True) if item.labels else "{}"
    return (
        place,
        item.id,
        item.job,
        item.input_json,
        item.input_digest,
        item.idempotency_key,
        item.concurrency_key,
        item.if_pending,
        labels,
        item.priority,
        delay,
        item.run_at,
    )


def _found(item: NewRun, early: rows.AnyRow | None, late: rows.AnyRow | None) -> Enqueued:
    """What became of an item. One that nobody finds was stored before, by a commit in doubt, and has been deleted."""
    return _created(item, None, None) if early is None else _became(_later(early, late))


def _later(early: rows.AnyRow, late: rows.AnyRow | None) -> rows.AnyRow:
    """The row as it was read last, if that is still the run that it was."""
    return late if late is not None and late["id"] == early["id"] else early


def _became(row: rows.AnyRow) -> Enqueued:
    became = row["became"]
    return Enqueued(run=rows.run(row), disposition=None if became == "conflict" else Disposition(became))


def _all_created(items: Sequence[NewRun], stored: Rows) -> list[Enqueued]:
    """Runs without keys cannot have become anything else, so they need not be read back.

    `stored` says it of each, or by a row without id when those were stored of which it says nothing else.
    """
    by_id: dict[object, rows.AnyRow] = {row["id"]: row for row in stored}
    at = rows.time(by_id[None]["created_at"]) if None in by_id else None
    return [_created(item, by_id.get(item.id), at) for item in items]


def _created(item: NewRun, row: rows.AnyRow | None, at: datetime | None) -> Enqueued:
    if row is not None:
        hold, created_at = row["hold"], rows.time(row["created_at"])
        available_at = rows.optional_time(row["available_at"])
    else:
        created_at = at or rows.time(_time_of_id(item.id))
        available_at = item.run_at if item.delay is None else created_at + item.delay
        hold = Hold.TIME if at is not None and available_at is not None and available_at > at else None
    run = StoredRun(
        id=item.id,
        job=item.job,
        input_json=item.input_json,
        status=RunStatus.PENDING,
        hold=None if hold is None else Hold(hold),
        priority=item.priority,
        idempotency_key=None,
        concurrency_key=None,
        labels=item.labels,
        generation=0,
        attempt=0,
        crashes=0,
        output_json=None,
        error=None,
        progress=None,
        next_step=0,
        completed_steps=0,
        lease_owner=None,
        lease_expires_at=None,
        available_at=available_at,
        created_at=created_at,
        started_at=None,
        completed_at=None,
    )
    return Enqueued(run=run, disposition=Disposition.CREATED)


def _time_of_id(run_id: str) -> int:
    """When a UUIDv7 was made, in microseconds since 1970: stands in where a write in doubt had been stored already."""
    return int(run_id.replace("-", "")[:12], 16) * 1000


def _take(items: Sequence[NewRun]) -> int:
    """At most one item other than "queue" for a (job, key) in a statement, and then no other item of that pair."""
    if isinstance(items, PlainRuns):
        return len(items)
    merging: dict[tuple[str, str], bool] = {}
    for place, item in enumerate(items):
        if item.concurrency_key is not None:
            pair, merges = (item.job, item.concurrency_key), item.if_pending != "queue"
            if merging.get(pair, False) or (merges and pair in merging):
                return place
            merging[pair] = merges
    return len(items)


enqueue: Write[NewRun, Enqueued] = Write("enqueue", Lane.KEYED, _enqueue, _take)


def retrigger(new: NewRun, steps: Sequence[StepRecord]) -> Operation[Enqueued]:
    """Store a new run with these checkpoints of another one, which may be gone by now. Safe to repeat."""
    stored = _enqueue_wary([new], is_read_back=True)
    taken = tuple((step.name, step.position, step.output_json, step.started_at, step.completed_at) for step in steps)
    copy = Statement("copy_steps", {"run_id": new.id, "steps": Batch(_CHECKPOINT, taken)})
    return Operation(
        statements=(*stored.statements, copy),
        decode=lambda results: stored.decode(
            [*results[: len(stored.statements)], *results[len(stored.statements) + 1 :]]
        )[0],
        keys=stored.keys,
        runs=(new.id,),
        reads=stored.reads,
        wakes=stored.wakes,
    )


def get_run(run_id: str) -> Operation[StoredRun | None]:
    """The run, or None when there is no such run."""
    return Operation(
        statements=(Statement("get_run", {"run_id": run_id}),),
        decode=lambda results: rows.run(results[0][0]) if results[0] else None,
        readonly=True,
    )


def list_runs(which: RunFilter) -> Operation[list[StoredRun]]:
    """A page of runs, newest first."""
    return Operation(
        statements=(in_list("list_runs", which, limit=which.limit),),
        decode=lambda results: [rows.run(row) for row in results[0]],
        readonly=True,
    )


def in_list(name: str, which: RunFilter, *, limit: int) -> Statement:
    """That of the statements `name`, `name`_by_part and `name`_by_label whose index narrows most."""
    params = filter_params(which) | {"limit": limit}
    if params["jobs"] is not None or params["statuses"] is not None:
        return Statement(f"{name}_by_part", in_parts(params))
    return Statement(name if params["labels"] is None else f"{name}_by_label", params)


def filter_params(which: RunFilter) -> dict[str, Param]:
    """The filter for SQL: None is a condition that says nothing."""
    statuses = tuple(dict.fromkeys(which.statuses))
    return {
        "jobs": tuple(dict.fromkeys(which.jobs)) or None,
        "statuses": statuses if 0 < len(statuses) < len(RunStatus) else None,
        "labels": json.dumps(dict(which.labels)) if which.labels else None,
        "concurrency_key": which.concurrency_key,
        "before": which.before,
    }


def in_parts(params: Mapping[str, Param]) -> dict[str, Param]:
    """The same for a statement that goes through the parts of the index, status by status."""
    return {**params, "statuses": params["statuses"] or tuple(RunStatus)}
