"""durably's SQL without the inserts into the table of events, to measure what they cost. For the benchmark only."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from durably.store import catalogue
from durably.store.catalogue import Catalogue, Sql

WRITES = ("claim", "claim_expired", "write_runs")
"""The statements of W1 and W2 that write events, beside the trigger."""

_INSERT = re.compile(r"INSERT INTO \S*events\b")
_NAMED = re.compile(r",?\s*event AS \(")
_PARAM = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@contextmanager
def without_events() -> Generator[None]:
    """Inside, databases that are opened write no events for claims, steps and ends. Raises LookupError if none go."""
    load = catalogue.load

    def load_without(dialect: str, prefix: str) -> Catalogue:
        blocks = dict(load(dialect, prefix))
        for name in WRITES:
            blocks[name] = tuple(cut for sql in blocks[name] if (cut := _cut(sql)) is not None)
            if blocks[name] == load(dialect, prefix)[name]:
                raise LookupError(f"found no events to leave out of {name!r}")
        return blocks

    with patch.object(catalogue, "load", load_without):
        yield


def _cut(sql: Sql) -> Sql | None:
    """The statement without its insert of events; None when it does nothing else."""
    if not _INSERT.search(sql.text):
        return sql
    begin = _NAMED.search(sql.text)
    if begin is None:
        return None
    end, depth = begin.end(), 1
    while depth:
        depth += {"(": 1, ")": -1}.get(sql.text[end], 0)
        end += 1
    text = sql.text[: begin.start()] + sql.text[end:]
    return replace(sql, text=text, params=tuple(dict.fromkeys(_PARAM.findall(text))))
