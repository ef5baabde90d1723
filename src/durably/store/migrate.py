"""Numbered SQL files, forward only. Which of them a database lacks, and whether this code may use it at all.

The database keeps, with each migration, the oldest version of the code that it still serves (`-- serves: N` in the
file's first line, else the migration's own number does not matter to old code). Only older code than that is refused,
so that rolling deploys and roll-backs work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

from durably.errors import SchemaError
from durably.store.catalogue import fill_tables

Mode: TypeAlias = Literal["auto", "check"]

_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")
_SERVES = re.compile(r"^-- serves: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered change of the schema."""

    version: int
    name: str
    statements: tuple[str, ...]
    serves: int
    """The oldest schema version whose code still works after it."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a database says of itself: its newest migration, and the oldest code that it serves. Zeros when empty."""

    version: int
    serves: int


@cache
def migrations(dialect: str, prefix: str) -> tuple[Migration, ...]:
    """All migrations of a dialect, in order, for tables with this prefix."""
    found: list[Migration] = []
    for file in files("durably.store").joinpath("migrations", dialect).iterdir():
        match = _FILE.match(file.name)
        if match is not None:
            text = file.read_text(encoding="utf-8")
            serves = _SERVES.search(text)
            statements = tuple(part.strip() for part in re.split(r";\s*\n", fill_tables(text, prefix)) if part.strip())
            found.append(Migration(int(match[1]), match[2], statements, int(serves[1]) if serves else 1))
    return tuple(sorted(found, key=lambda migration: migration.version))


def pending(known: Sequence[Migration], applied: Applied, mode: Mode) -> tuple[Migration, ...]:
    """What has to be applied. Raises SchemaError when the database is too new, or lacks something in mode "check"."""
    newest = known[-1].version
    if applied.serves > newest:
        message = (
            f"the database has schema version {applied.version} and serves code from version {applied.serves} on, "
            f"but this durably knows only version {newest}: upgrade durably"
        )
        raise SchemaError(message, version=applied.version, is_too_new=True)
    missing = tuple(migration for migration in known if migration.version > applied.version)
    if missing and mode == "check":
        message = (
            f"the database has schema version {applied.version}, this durably needs {newest}: "
            'run once with migrate="auto", or apply the migrations with `durably migrate`'
        )
        raise SchemaError(message, version=applied.version)
    return missing


def script(dialect: str, schema: str, *, after: int) -> str:
    """The SQL that brings a database from schema version `after` (0: no tables) to the newest, for people to run.

    What a worker does at its start, it does too: one transaction a migration, and the record of it.
    """
    is_server = dialect == "postgres"
    prefix = f'"{schema}".' if is_server else "durably_"
    parts = [_PREPARATIONS[dialect].format(schema=schema, prefix=prefix)] if not after else []
    now = "clock_timestamp()" if is_server else "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
    for each in migrations(dialect, prefix):
        if each.version > after:
            record = (
                f"INSERT INTO {prefix}migrations (version, name, serves, applied_at)\n"  # names of ours
                f"VALUES ({each.version}, '{each.name}', {each.serves}, {now})"
            )
            parts.append(";\n\n".join(["BEGIN", *each.statements, record, "COMMIT"]))
    return "".join(f"{part};\n\n" for part in parts)


_PREPARATIONS = {
    "postgres": (
        'CREATE SCHEMA IF NOT EXISTS "{schema}";\n\nCREATE TABLE {prefix}migrations (version integer PRIMARY KEY, '
        "name text NOT NULL, serves integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    ),
    "sqlite": (
        "PRAGMA journal_mode = WAL;\n\nCREATE TABLE {prefix}migrations "
        "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, serves INTEGER NOT NULL, applied_at INTEGER NOT NULL)"
    ),
}
