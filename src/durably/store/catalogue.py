"""The named SQL of one dialect, read from `sql/*.sql`.

A file is a list of blocks, `-- name: claim` and a line of purpose, then statements separated by `;`. A `-- fragment: x`
is text for `{x}`. Tables are `{runs}` and so on. Nothing here is made from values: those are always parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

TABLES = ("runs", "steps", "logs", "events", "concurrency_keys", "migrations")

_HEAD = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_HOLE = re.compile(r"\{(\w+)\}")
_PARAM = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_CONDITION = re.compile(r"^-- if: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sql:
    """One statement: its text, the parameters it names in order of appearance, and the batch it depends on."""

    text: str
    params: tuple[str, ...]
    only_if: str | None
    """The statement is left out when this batch is empty."""


Catalogue = Mapping[str, tuple[Sql, ...]]


@cache
def load(dialect: str, prefix: str) -> Catalogue:
    """All blocks of a dialect, with `prefix` before the table names. A dialect's block wins over a common one."""
    names: dict[str, str] = {}
    fragments = {table: prefix + table for table in TABLES}
    for file in ("common", dialect):
        text = files("durably.store").joinpath("sql", f"{file}.sql").read_text(encoding="utf-8")
        parts = _HEAD.split(text)[1:]
        for kind, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            (names if kind == "name" else fragments)[name] = body.strip()
    return {name: _statements(_fill(body, fragments)) for name, body in names.items()}


def numbered(sql: Sql) -> str:
    """The text with `$1`, `$2`, ... in place of the names, in the order of `sql.params`."""
    places = {name: f"${place}" for place, name in enumerate(sql.params, 1)}
    return _PARAM.sub(lambda match: places[match[1]], sql.text)


def fill_tables(text: str, prefix: str) -> str:
    """A migration's text with the names of the tables filled in."""
    return _fill(text, {table: prefix + table for table in TABLES})


def _fill(text: str, fragments: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        return _fill(_COMMENT.sub("", fragments[match[1]]).strip(), fragments)

    return _HOLE.sub(replace, text)


def _statements(body: str) -> tuple[Sql, ...]:
    statements: list[Sql] = []
    for part in re.split(r";\s*\n", body + "\n"):
        condition = _CONDITION.search(part)
        text = _COMMENT.sub("", part).strip()
        if text:
            params = tuple(dict.fromkeys(_PARAM.findall(text)))
            statements.append(Sql(text, params, condition[1] if condition else None))
    return tuple(statements)
