"""The statements of a transaction as one: SQLite runs them all in one call.

Each call into SQLite gives the interpreter's lock away and has to win it back, which takes up to the switch interval
(5 ms) while another thread computes; and so does each row that comes back. So the parts of a block become the bodies of
temporary triggers on one temporary view, and an INSERT into that view runs them: a transaction of its own. Each row of
it is one call, with the number of the part and its parameters, so that a batch is rows of values and no JSON to take
apart. Rows come back through `durably_rows`, which a statement calls only when there are any.

Many rows that are only collected for a later part (`-- ahead: x`) take less than half the time without a trigger: one
INSERT into its temporary table goes before the transaction, and takes no lock of the database.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeAlias

from durably.store import rows
from durably.store.catalogue import Catalogue, Sql
from durably.store.operation import Batch, Param, Rows
from durably.store.url import DatabaseUrl

_FITTING = frozenset({"write_runs", "claim", "insert_new_runs", "insert_runs", "lock_keys", "lock_runs", "admit"})
"""Blocks that a trigger can hold: no rows but through `durably_rows`, no aliases in updates, no WITH."""
_COLUMNS = 20
"""Of the view: the part's number, and its parameters."""
_MOST_VALUES = 28_000
"""SQLite takes 32,766 parameters in a statement, and up to an eighth more is added to round up."""
_PARAM = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_VIEW = "durably_calls"
_TABLES = {
    "durably_chosen": "place INTEGER",
    "durably_collected": "id, job, input",
    "durably_completed": "place, id, job, labels, seq, number, output",
}
"""Temporary tables for what is claimed, stored or completed at once, and their columns."""
_MANY = 100
"""Rows that are collected ahead."""
_AHEAD = re.compile(rf"INSERT INTO ((?:{'|'.join(_TABLES)}) \([a-z_, ]+\))\s+VALUES \((?::[a-z_]+(?:, )?)+\)")

Values: TypeAlias = list[Any]
Columns: TypeAlias = Sequence[Sequence[Any]]
"""Calls of one part: the part's number and its parameters, each a column with a value for each call."""
Collected: TypeAlias = tuple[str, Columns]
"""A temporary table, with its columns' names, and rows for it."""


class Part:
    """Statements that are run together: once, or once a row of a batch."""

    def __init__(self, number: int, sqls: Sequence[Sql], params: Mapping[str, Param]) -> None:
        self.number = number
        self.each = sqls[0].each
        self._only_if = sqls[0].only_if
        batch = params[self.each] if self.each is not None else None
        columns = batch.columns if isinstance(batch, Batch) else ()
        names = tuple(dict.fromkeys(name for sql in sqls for name in sql.params))
        self._places = [(columns.index(name), name.endswith("_at")) for name in names if name in columns]
        self._scalars = [name for name in names if name not in columns]
        self.table = _collecting(sqls, self._scalars) if sqls[0].is_ahead else None
        """With its columns, where the part does nothing but collect rows in it."""
        order = [*(columns[place] for place, _ in self._places), *self._scalars]
        cells = {name: f"NEW.c{place}" for place, name in enumerate(order, 1)}
        body = "; ".join(_PARAM.sub(lambda match: cells[match[1]], sql.text) for sql in sqls)
        event = f"INSTEAD OF INSERT ON {_VIEW} WHEN NEW.c0 = {number}"
        self.trigger = f"CREATE TEMP TRIGGER {_VIEW}_{number} {event} BEGIN {body}; END"

    def calls(self, params: Mapping[str, Param], scalar: Callable[[str], object]) -> Columns:
        """The rows to insert, by column, for that makes no object a row; none at all where there are none."""
        if self._only_if is not None and not _rows(params, self._only_if):
            return ()
        found = ((),) if self.each is None else _rows(params, self.each)
        if not found:
            return ()
        count, given = len(found), tuple(zip(*found, strict=True))
        columns = [_micros(given[place]) if is_time else given[place] for place, is_time in self._places]
        return ([self.number] * count, *columns, *([scalar(name)] * count for name in self._scalars))

    def collects(self, calls: Columns) -> Collected | None:
        """These calls as rows for its table, where that saves more than the further call into SQLite costs."""
        return None if self.table is None or len(calls[0]) < _MANY else (self.table, calls[1:])


@dataclass(frozen=True, slots=True)
class Block:
    """A named block as a connection runs it: calls of its parts, or statements with parameters."""

    parts: tuple[Part, ...] = ()
    calls: Sequence[Columns] = ()
    collected: Sequence[Collected] = ()
    """What the parts find in temporary tables."""
    texts: tuple[str, ...] = ()
    params: Mapping[str, object] = field(default_factory=dict[str, object])


class _Found:
    """A row that came back, by names or as a whole."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: Values) -> None:
        self._places = places
        self._values = values

    def __getitem__(self, column: str) -> object:
        return self._values[self._places[column]]

    def values(self) -> Values:
        return self._values


@dataclass(slots=True)
class Parts:
    """The parts of a dialect's blocks, each made when it is first needed. Their numbers are the same everywhere."""

    catalogue: Catalogue
    _made: dict[str, tuple[Part, ...]] = field(default_factory=dict[str, tuple[Part, ...]])

    def of(self, name: str, params: Mapping[str, Param]) -> tuple[Part, ...] | None:
        """The parts of this block; None for one that no trigger can hold."""
        if name not in _FITTING:
            return None
        made = self._made.get(name)
        if made is None:
            first = 100 * sorted(_FITTING).index(name)
            grouped = [list(sqls) for _, sqls in groupby(self.catalogue[name], key=attrgetter("each", "only_if"))]
            made = self._made[name] = tuple(Part(first + place, sqls, params) for place, sqls in enumerate(grouped, 1))
        return made


@dataclass(slots=True)
class Calls:
    """One connection's side of it: the view, its triggers, and the rows that came back. Used from its thread."""

    raw: sqlite3.Connection
    _known: set[int] = field(default_factory=set[int])
    _texts: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    _found: dict[int, tuple[str, list[str]]] = field(default_factory=dict[int, tuple[str, list[str]]])
    _collected: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.raw.create_function("durably_rows", 3, partial(_take, self._found))

    def forget(self) -> None:
        """Forget the rows of the last transaction, before another one begins."""
        self._found.clear()

    def collect(self, plan: Sequence[Block]) -> None:
        """Put rows into temporary tables, for the parts to find. Rows of nothing but None fill a statement up."""
        for table, columns in (one for block in plan for one in block.collected):
            self._collected.add(table.split()[0])
            for statement in self._statements(table, [columns], len(columns)):
                self.raw.execute(*statement)

    def drop_collected(self) -> None:
        """Forget what was collected for a transaction that failed."""
        for table in self._collected:
            self.raw.execute(f"DELETE FROM temp.{table}")  # noqa: S608  # names of ours
        self._collected.clear()

    def prepare(self) -> None:
        """Make what the triggers need: their view, and tables."""
        columns = ", ".join(f"NULL AS c{place}" for place in range(_COLUMNS))
        self.raw.execute(f"CREATE TEMP VIEW IF NOT EXISTS {_VIEW} AS SELECT {columns}")
        for table, columns in _TABLES.items():
            self.raw.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table} ({columns})")

    def learn(self, parts: Sequence[Part]) -> None:
        """Make the triggers that are not there yet. To be called outside a transaction."""
        for part in parts:
            if part.number not in self._known:
                if not self._known:
                    self.prepare()
                self.raw.execute(part.trigger)
                self._known.add(part.number)

    def statements(self, calls: Sequence[Columns]) -> list[tuple[str, Values]]:
        """The INSERTs, one if it can be, and their values."""
        width = max(map(len, calls), default=1)  # each cell costs as much as a few instructions of the trigger
        return self._statements(f"{_VIEW} ({', '.join(f'c{place}' for place in range(width))})", calls, width)

    def as_one(self, plan: Sequence[Block]) -> tuple[str, Values] | None:
        """The one statement that is this transaction, with its values; None when there is none."""
        if any(block.texts for block in plan):
            return None
        made = self.statements([columns for block in plan for columns in block.calls])
        return made[0] if len(made) == 1 else None

    def found(self, place: int) -> Rows:
        """The rows that the block at this place of the transaction gave to `durably_rows`."""
        if place not in self._found:
            return ()
        names, texts = self._found[place]
        places = {name.strip(): place for place, name in enumerate(names.split(","))}
        return [_Found(places, values) for text in texts for values in json.loads(text)]

    def _statements(self, into: str, calls: Sequence[Columns], width: int) -> list[tuple[str, Values]]:
        values = _flat(calls, width)
        most = _MOST_VALUES // width * width
        return [self._statement(into, values[at : at + most], width) for at in range(0, len(values), most)]

    def _statement(self, into: str, values: Values, width: int) -> tuple[str, Values]:
        count = _rounded(len(values) // width)
        text = self._texts.get((into, count))
        if text is None:
            row = f"({', '.join('?' * width)})"
            text = f"INSERT INTO temp.{into} VALUES {', '.join([row] * count)}"  # noqa: S608  # names of ours
            self._texts[into, count] = text
        values += [None] * (count * width - len(values))
        return text, values


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection, and what it has learnt."""

    raw: sqlite3.Connection
    calls: Calls


def connect(url: DatabaseUrl) -> Opened:
    """A new connection. Raises sqlite3.Error."""
    raw = sqlite3.connect(url.location, isolation_level=None, timeout=0, check_same_thread=False, cached_statements=512)
    raw.row_factory = sqlite3.Row
    return Opened(raw, Calls(raw))


def _collecting(sqls: Sequence[Sql], scalars: Sequence[str]) -> str:
    found = _AHEAD.fullmatch(sqls[0].text)
    if found is None or len(sqls) > 1 or scalars:
        raise ValueError(
            f"only rows of a batch, for a table of the connection's own, are collected ahead: {sqls[0].text}"
        )
    return found[1]


def _rows(params: Mapping[str, Param], name: str) -> Sequence[Sequence[Any]]:
    batch = params[name]
    if not isinstance(batch, Batch):
        raise TypeError(f"no batch: {name}")
    return batch.rows


def _micros(times: Sequence[datetime | None]) -> Sequence[int | None]:
    return [None if time is None else rows.micros_of_time(time) for time in times]


def _flat(calls: Sequence[Columns], width: int) -> Values:
    """Row after row of this width; what a row has not is None."""
    values: Values = [None] * (width * sum(len(columns[0]) for columns in calls))
    start = 0
    for columns in calls:
        end = start + width * len(columns[0])
        for place, column in enumerate(columns, start):
            values[place:end:width] = column
        start = end
    return values


def _rounded(count: int) -> int:
    """The next of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, ...: few different statements, few idle rows."""
    step = 1
    while step * 8 < count:
        step *= 2
    return -(-count // step) * step


def _take(found: dict[int, tuple[str, list[str]]], place: int, names: str, text: str) -> None:
    found.setdefault(place, (names, []))[1].append(text)
