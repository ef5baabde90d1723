r"""From a statement's parameters to a text and the arguments that asyncpg sends with it. A batch is an array a column.

asyncpg takes half a microsecond for each element of an array, more than the server needs to store it. So arrays go as
their text, `{1,2}`, where the SQL says `:x::text::integer[]`, and as NULL where a batch's column has only nulls: beside
others, `unnest` fills it up. Where the SQL says `string_to_array(:x::text, E'\x1f')`, names or JSON go as one text with
that character between them, which neither has. Where it says `:x::integer`, a batch of one row, its cell is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from durably.store import catalogue
from durably.store.catalogue import Sql
from durably.store.operation import Batch, Param

_PACKED = re.compile(r":([a-z_][a-z0-9_]*)::text::(\w+)\[\]")
_JOINED = re.compile(r"string_to_array\(:([a-z_][a-z0-9_]*)::text, E'\\x1f'\)")
_SINGLE = re.compile(r":([a-z_][a-z0-9_]*)::\w+(?!\w|\[|::)")

Cells: TypeAlias = Sequence[Any]
Convert: TypeAlias = Callable[[Cells], object]


class Block:
    """A named block: its texts by which of its batches have rows, each made once, so that the server knows it again."""

    def __init__(self, sqls: Sequence[Sql]) -> None:
        self._sqls = sqls
        self._conditions = sorted(frozenset[str]().union(*map(catalogue.conditions, sqls)))
        self._chosen: dict[tuple[str, ...], list[_Text]] = {}

    def bind(self, params: Mapping[str, Param]) -> list[tuple[str, list[object]]]:
        """The statements to send, each with its arguments."""
        filled = tuple([name for name in self._conditions if _has_rows(params[name])])
        texts = self._chosen.get(filled)
        if texts is None:
            texts = self._chosen[filled] = self._texts(filled, params)
        return [(text.sql, text.arguments(params)) for text in texts]

    def _texts(self, filled: Collection[str], params: Mapping[str, Param]) -> list[_Text]:
        kept = [catalogue.chosen(sql, filled) for sql in self._sqls]
        return [_text(sql, params) for sql in kept if sql is not None]


@dataclass(frozen=True, slots=True)
class _Text:
    """One text of a block, and where its arguments come from."""

    sql: str
    batches: tuple[str, ...]
    sources: tuple[str | tuple[int, int, Convert], ...]
    """For each argument the parameter's name; or which of `batches`, which column of it, and how it is sent."""

    def arguments(self, params: Mapping[str, Param]) -> list[object]:
        tables = [_columns(params[name]) for name in self.batches]
        return [
            params.get(source) if isinstance(source, str) else source[2](tables[source[0]][source[1]])
            for source in self.sources
        ]


def _text(sql: Sql, params: Mapping[str, Param]) -> _Text:
    packed: dict[str, Convert] = dict.fromkeys(_SINGLE.findall(sql.text), _cell)
    packed |= {name: _PACKERS[kind] for name, kind in _PACKED.findall(sql.text)}
    packed |= dict.fromkeys(_JOINED.findall(sql.text), _joined)
    columns = {
        f"{name}_{column}": (name, place)
        for name, param in params.items()
        if isinstance(param, Batch)
        for place, column in enumerate(param.columns)
    }
    batches = tuple(dict.fromkeys(columns[name][0] for name in sql.params if name in columns))
    sources: list[str | tuple[int, int, Convert]] = []
    for name in sql.params:
        if name in columns:
            batch, place = columns[name]
            sources.append((batches.index(batch), place, packed.get(name, _cells)))
        else:
            sources.append(name)
    return _Text(catalogue.numbered(sql), batches, tuple(sources))


def _has_rows(param: Param) -> bool:
    return isinstance(param, Batch) and bool(param.rows)


def _columns(param: Param) -> Sequence[Cells]:
    if not isinstance(param, Batch):
        raise TypeError(f"no batch: {param!r}")
    return list(zip(*param.rows, strict=True)) if param.rows else ((),) * len(param.columns)


def _cells(cells: Cells) -> object:
    return None if cells and cells[0] is None and cells.count(None) == len(cells) else cells


def _cell(cells: Cells) -> object:
    return cells[0]


def _numbers(cells: Cells) -> object:
    if None not in cells:
        return "{" + str(list(cells))[1:-1] + "}"
    return None if cells.count(None) == len(cells) else "{" + str(list(cells))[1:-1].replace("None", "NULL") + "}"


def _words(cells: Cells) -> object:
    return "{" + ",".join(cells) + "}"


def _joined(cells: Cells) -> object:
    return "\x1f".join(cells)


def _times(cells: Cells) -> object:
    return None if cells.count(None) == len(cells) else "{" + ",".join(map(_time, cells)) + "}"


def _time(value: datetime | None) -> str:
    return "NULL" if value is None else value.isoformat()


def _seconds(cells: Cells) -> object:
    """Times as seconds since 1970, for `to_timestamp`: a double keeps the microsecond, and costs both sides less."""
    return _numbers([None if cell is None else cell.timestamp() for cell in cells])


_PACKERS: Mapping[str, Convert] = {
    "uuid": _words,
    "text": _words,
    "integer": _numbers,
    "bigint": _numbers,
    "boolean": _numbers,
    "timestamptz": _times,
    "float8": _seconds,
}
