"""A store operation is a value: named statements with parameters, and a function that turns their rows into a result.

It does no I/O and reads no result in between; what must, is two operations. `Database` runs it, inside a
transaction of its own or together with others (`combine`). The locks that it needs are data too, so that any
combination takes them in the one lock order: key rows sorted, run rows sorted, then its statements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, Flag, auto
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Scalar: TypeAlias = str | int | float | bool | datetime | None


class Row(Protocol):
    """A result row, read by column name."""

    def __getitem__(self, column: str, /) -> object:
        """The value of a column."""
        ...


Rows: TypeAlias = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows handed to a statement: `json_each(:name)` on SQLite, one array a column (`:name_column`) on Postgres."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Scalar, ...], ...]


Param: TypeAlias = Scalar | Batch | tuple[str, ...]


class Wake(Flag):
    """Whom a commit concerns, so that they are woken after it."""

    NOBODY = 0
    WORK = auto()
    """Workers: something may have become claimable, or due earlier."""
    EVENTS = auto()
    """Tails: there are new events."""
    CANCEL = auto()
    """Keepers: a leased run was cancelled or deleted."""


class Lane(Enum):
    """Which queue of writes an operation joins (`store-rules`, section 1)."""

    FAST = "fast"
    """Touches only rows that this process has leased, or takes what is free: waits for nobody."""
    KEYED = "keyed"
    """Locks rows that others may hold."""
    CLAIM = "claim"
    """Takes what is free. Beside the writes where the database commits two transactions at once, else with them."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A named block of SQL with its parameters. `:now` is bound by the engine."""

    name: str
    params: Mapping[str, Param]


@dataclass(frozen=True, slots=True)
class Operation(Generic[T_co]):
    """What is to be done in one transaction, as a value."""

    statements: tuple[Statement, ...]
    decode: Callable[[Sequence[Rows]], T_co]
    """Gets the rows of `statements`, then of `reads`, one sequence a statement."""
    keys: tuple[str, ...] = ()
    """Concurrency keys locked before everything else; free slots of them are handed out after `statements`."""
    runs: tuple[str, ...] = ()
    """Existing runs locked after the keys, by id."""
    reads: tuple[Statement, ...] = ()
    """Run after the slots were handed out."""
    wakes: Wake = Wake.NOBODY
    """Whom it concerns; nobody when the result is an empty list or 0."""
    readonly: bool = False
    is_repeatable: bool = True
    """False: when its commit is in doubt, the caller has to find out before it does it again."""
    otherwise: Callable[[], Operation[T_co]] | None = None
    """What is done instead when a constraint refuses this, since it took for granted what is true nearly always."""

    def plan(self) -> tuple[Statement, ...]:
        """All statements in order, locks first. `results` undoes what it adds."""
        return (*self._locks(), *self.statements, *self._admission(), *self.reads)

    def result(self, rows: Sequence[Rows]) -> T_co:
        """Decode the rows of `plan()`."""
        first = len(self._locks())
        last = first + len(self.statements)
        return self.decode([*rows[first:last], *rows[last + len(self._admission()) :]])

    def _locks(self) -> tuple[Statement, ...]:
        keys = (Statement("lock_keys", {"keys": self.keys}),) if self.keys else ()
        runs = (Statement("lock_runs", {"runs": self.runs}),) if self.runs else ()
        return (*keys, *runs)

    def _admission(self) -> tuple[Statement, ...]:
        return (Statement("admit", {"keys": self.keys}),) if self.keys else ()


@dataclass(frozen=True, slots=True)
class Write(Generic[ItemT, ResultT]):
    """A plural write: items of one kind that arrive while a transaction is under way become one operation."""

    name: str
    lane: Lane
    build: Callable[[Sequence[ItemT]], Operation[Sequence[ResultT]]]
    """One result an item, in order."""
    take: Callable[[Sequence[ItemT]], int] = len
    """How many of these items, from the first on, may share an operation."""
    order: Callable[[ItemT], str | None] = lambda _: None
    """Items of the same order key (not None) are stored in the order in which they were submitted."""


def combine(operations: Sequence[Operation[object]]) -> Operation[list[object]]:
    """One operation that does all of them in order, in one transaction. Results in the same order."""

    def decode(rows: Sequence[Rows]) -> list[object]:
        results: list[object] = []
        start, read = 0, sum(len(op.statements) for op in operations)
        for op in operations:
            end, read_end = start + len(op.statements), read + len(op.reads)
            results.append(op.decode([*rows[start:end], *rows[read:read_end]]))
            start, read = end, read_end
        return results

    wakes = Wake.NOBODY
    for op in operations:
        wakes |= op.wakes
    return Operation(
        statements=tuple(statement for op in operations for statement in op.statements),
        decode=decode,
        keys=_union(op.keys for op in operations),
        runs=_union(op.runs for op in operations),
        reads=tuple(statement for op in operations for statement in op.reads),
        wakes=wakes,
        readonly=all(op.readonly for op in operations),
        otherwise=partial(_combine_wary, operations) if any(op.otherwise for op in operations) else None,
    )


def _combine_wary(operations: Sequence[Operation[object]]) -> Operation[list[object]]:
    return combine([op if op.otherwise is None else op.otherwise() for op in operations])


def _union(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({item for part in parts for item in part}))


def nothing(_rows: Sequence[Rows]) -> None:
    """Decode for operations that return nothing."""
