"""The named SQL of one dialect, read from `sql/common/*.sql` and, say, `sql/sqlite/*.sql`: one file per theme.

A file is a list of blocks, `-- name: claim` and a line of purpose, then statements separated by `;`. A `-- fragment: x`
is text for `{x}`. Tables are `{runs}` and so on. Nothing here is made from values: those are always parameters.

`-- if: steps` leaves a statement out when the batch `steps` is empty; together with an `-- end` further down it leaves
out the lines between the two. Such a part may hold others, and may name several batches: `-- if: logs or events`.
`-- each: steps` says that the statements from there to the next `-- each: x` or `-- once` are for one row of a batch;
`-- once: steps` that they are run once, unless that batch is empty. `-- ahead: steps` says of one INSERT into a
temporary table that it may be done for all rows of the batch before the transaction begins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

TABLES = ("runs", "steps", "logs", "events", "concurrency_keys", "migrations")

_HEAD = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_HOLE = re.compile(r"\{(\w+)\}")
_PARAM = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_CONDITION = re.compile(r"-- if: (\w+)$", re.MULTILINE)
_BEGIN = re.compile(r"^ *-- if: (\w+(?: or \w+)*)$", re.MULTILINE)
_END = re.compile(r"^ *-- end$", re.MULTILINE)
_EACH = re.compile(r"^-- (?:(each|ahead): (\w+)|once(?:: (\w+))?)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--(?! if: | end$).*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sql:
    """One statement: its text, the parameters it names in order of appearance, and the batch it depends on."""

    text: str
    """With the lines that begin and end its conditional parts, if it has any: see `chosen`."""
    params: tuple[str, ...]
    only_if: str | None
    """The statement is left out when this batch is empty."""
    each: str | None = None
    """The statement is for one row of this batch, whose columns are among its parameters."""
    is_ahead: bool = False
    """It only collects these rows, where no other connection sees them."""


Catalogue = Mapping[str, tuple[Sql, ...]]


@cache
def load(dialect: str, prefix: str) -> Catalogue:
    """All blocks of a dialect, with `prefix` before the table names. A dialect's block wins over a common one."""
    names: dict[str, str] = {}
    fragments = {table: prefix + table for table in TABLES}
    for text in (*_texts("common"), *_texts(dialect)):
        parts = _HEAD.split(text)[1:]
        for kind, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            (names if kind == "name" else fragments)[name] = body.strip()
    return {name: _statements(_fill(body, fragments)) for name, body in names.items()}


def _texts(folder: str) -> Iterator[str]:
    for file in sorted(files("durably.store").joinpath("sql", folder).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            yield file.read_text(encoding="utf-8")


def conditions(sql: Sql) -> frozenset[str]:
    """The batches that it depends on."""
    named = [sql.only_if] if sql.only_if else []
    return frozenset(named).union(*(names.split(" or ") for names in _BEGIN.findall(sql.text)))


def chosen(sql: Sql, filled: Collection[str]) -> Sql | None:
    """The statement without the parts that only matter to other batches than these; None if it is one of them."""
    if sql.only_if is not None and sql.only_if not in filled:
        return None
    kept: list[str] = []
    within = [True]
    for line in sql.text.splitlines():
        if begin := _BEGIN.fullmatch(line):
            within.append(within[-1] and not set(begin[1].split(" or ")).isdisjoint(filled))
        elif _END.fullmatch(line):
            within.pop()
        elif within[-1]:
            kept.append(line)
    if within != [True]:
        raise ValueError(f"-- if and -- end do not match: {sql.text}")
    return _sql("\n".join(kept), sql.only_if)


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
    how = each = once = ""
    for part in re.split(r";\s*\n", body + "\n"):
        if marks := _EACH.findall(part):
            how, each, once = marks[-1]
        text, only_if = _COMMENT.sub("", part).strip(), once or None
        condition = _CONDITION.match(text)
        if condition and len(_BEGIN.findall(text)) > len(_END.findall(text)):  # no end: it is about all of it
            only_if, text = condition[1], text[condition.end() :].strip()
        if text:
            statements.append(replace(_sql(text, only_if), each=each or None, is_ahead=how == "ahead"))
    return tuple(statements)


def _sql(text: str, only_if: str | None) -> Sql:
    return Sql(text, tuple(dict.fromkeys(_PARAM.findall(text))), only_if)
