"""The statements of a transaction as one: SQLite runs them all in one call.

Each call into SQLite gives the interpreter's lock away and has to win it back, which takes up to the switch interval
(5 ms) while another thread computes; and so does each row. So the statements become the body of a temporary trigger,
on a temporary view with a column for each parameter, and an INSERT runs them: a transaction of its own. Rows come back
through `durably_rows`, which a statement calls only when there are any.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from durably.store.operation import Rows

_MOST = 64
"""Programs of a connection. Which batches are filled makes different ones; what goes beyond runs one by one."""
_MOST_BLOCKS = 4
_FITTING = frozenset({"write_runs", "claim", "insert_runs", "lock_keys", "lock_runs", "admit"})
"""Blocks that a trigger can hold: no rows but through `durably_rows`, no aliases in updates, no WITH."""
_PARAM = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Block:
    """The statements of a named block that are to be run, and their parameters."""

    name: str
    texts: tuple[str, ...]
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """The INSERT that runs blocks, and which parameters of which block it takes, in order."""

    text: str
    columns: tuple[tuple[int, str], ...]

    def values(self, blocks: Sequence[Block]) -> list[object]:
        """What to bind."""
        return [blocks[place].params[name] for place, name in self.columns]


@dataclass(slots=True)
class Programs:
    """The programs of one connection, made when they are first needed. Used from the connection's thread."""

    raw: sqlite3.Connection
    _made: dict[tuple[tuple[str, ...], ...], Program] = field(
        default_factory=dict[tuple[tuple[str, ...], ...], Program]
    )
    _found: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])

    def __post_init__(self) -> None:
        self.raw.create_function("durably_rows", 3, partial(_take, self._found))

    def forget(self) -> None:
        """Forget the rows of the last transaction, before another one begins."""
        self._found.clear()

    def program(self, blocks: Sequence[Block]) -> Program | None:
        """The program of these blocks; None when they have to run one by one. To be called outside a transaction."""
        key = tuple(block.texts for block in blocks)
        program = self._made.get(key)
        if program is None and _fits(blocks) and len(self._made) < _MOST:
            program = self._made[key] = self._make(blocks)
        return program

    def found(self, place: int) -> Rows:
        """The rows that the block at this place of the transaction gave to `durably_rows`."""
        if place not in self._found:
            return ()
        names, text = self._found[place]
        columns = [name.strip() for name in names.split(",")]
        return [dict(zip(columns, values, strict=True)) for values in json.loads(text)]

    def _make(self, blocks: Sequence[Block]) -> Program:
        name = f"durably_program_{len(self._made)}"
        columns: dict[tuple[int, str], str] = {}
        body: list[str] = []
        for place, block in enumerate(blocks):

            def column(match: re.Match[str], place: int = place) -> str:
                return f"NEW.{columns.setdefault((place, match[1]), f'p{place}_{match[1]}')}"

            body += [_PARAM.sub(column, text) for text in block.texts]
        names = ", ".join(columns.values())
        view = ", ".join(f"NULL AS {column}" for column in columns.values())
        self.raw.execute(f"DROP VIEW IF EXISTS temp.{name}")  # left over where making the trigger failed
        self.raw.execute(f"CREATE TEMP VIEW {name} AS SELECT {view}")
        self.raw.execute(f"CREATE TEMP TRIGGER {name}_run INSTEAD OF INSERT ON {name} BEGIN {'; '.join(body)}; END")
        places = ", ".join("?" * len(columns))
        text = f"INSERT INTO temp.{name} ({names}) VALUES ({places})"  # noqa: S608  # names of ours
        return Program(text, tuple(columns))


def _take(found: dict[int, tuple[str, str]], place: int, names: str, text: str) -> None:
    found[place] = (names, text)


def _fits(blocks: Sequence[Block]) -> bool:
    return len(blocks) <= _MOST_BLOCKS and all(block.name in _FITTING for block in blocks)
