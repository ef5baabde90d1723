"""The tables of the user, on the same database as durably's: what is imported, and who did what.

`imported_rows` has a column for each one of the CSV. `executions` has a row for each time that the body of a batch
started, and says whether it committed: it witnesses what was executed how often. This is what both databases have
in common; each has a module of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from demo.source import ROW_NUMBER, Row

# ON CONFLICT makes the insert idempotent. It has to be: a crash after this commit and before the checkpoint of the
# step repeats the step, and the rows are there already.
INSERT = f"INSERT INTO imported_rows {{values}} ON CONFLICT ({ROW_NUMBER}) DO NOTHING"
EXECUTIONS = "SELECT id, batch, attempt, committed FROM executions ORDER BY id"
COUNT = f"SELECT count(*), count(DISTINCT {ROW_NUMBER}) FROM imported_rows"  # noqa: S608  # a constant
ROWS = f"SELECT * FROM imported_rows ORDER BY {ROW_NUMBER}"  # noqa: S608  # a constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One start of the body of a batch."""

    id: int
    batch: int
    attempt: int
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a table, or a CSV file, holds."""

    rows: int
    distinct: int
    """How many different row numbers."""
    digest: str
    """SHA-256 over all values, in the order of the rows."""


class Tables(Protocol):
    """The two tables, on whatever database."""

    async def create(self, columns: Sequence[str]) -> None:
        """Make them, unless they are there."""
        ...

    async def insert(self, first_row: int, rows: Sequence[Row], *, batch: int, attempt: int) -> int:
        """Note that the body of a batch starts; then, in one transaction, insert its rows and note that it committed.

        Returns how many rows the batch has. Safe to repeat.
        """
        ...

    async def executions(self) -> list[Execution]:
        """Return who did what, in order; empty before `create`."""
        ...

    async def contents(self) -> Contents:
        """Count and sum up what was imported."""
        ...


def definitions(columns: Sequence[str], identity: str) -> Iterator[str]:
    """Yield the SQL that makes both tables. Names of columns are letters, digits and underscores."""
    fields = "".join(f", {column} TEXT" for column in columns)
    yield f"CREATE TABLE IF NOT EXISTS imported_rows ({ROW_NUMBER} BIGINT PRIMARY KEY{fields})"
    yield (
        "CREATE TABLE IF NOT EXISTS executions "
        f"(id {identity}, batch INTEGER NOT NULL, attempt INTEGER NOT NULL, committed INTEGER NOT NULL DEFAULT 0)"
    )


class Digest:
    """The SHA-256 of rows, without their numbers, one after the other."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: Sequence[object]) -> None:
        """Add the values of a row."""
        self._hash.update(json.dumps(list(row)).encode())

    def text(self) -> str:
        """Return the digest of all that was added."""
        return self._hash.hexdigest()


def contents_of(rows: Iterable[Row]) -> Contents:
    """Count and sum up rows that are not in a table."""
    digest, count = Digest(), 0
    for row in rows:
        digest.add(row)
        count += 1
    return Contents(rows=count, distinct=count, digest=digest.text())
