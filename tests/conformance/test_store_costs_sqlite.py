"""G14 on SQLite: every statement uses its index, and costs the same however much is finished or waits."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from durably.environment import SystemEnvironment
from durably.store.catalogue import fill_tables
from durably.store.migrate import migrations
from durably.store.sqlite import SqliteEngine
from durably.store.url import parse_url
from tests.support.bulk import MANY, operations, statements

ENVIRONMENT = SystemEnvironment()
FEW = 300
NAMES = list(operations(FEW, "x"))
WALKS = {
    "list": "newest first, until the page is full",
    "list, next page": "newest first, until the page is full",
    "list by label": "labels have no index on SQLite",
    "purge_events": "oldest first, until the page is full",
    "find_drift": "looks at every key",
    "purge_keys": "looks at every key",
}
"""Operations that may walk along an index, and why."""
GROWS = {"list by label"}
TABLE = r"durably_(?:runs|steps|logs|events)|r|x|t|o|d|p|e|s|l|h|f|own|dup|swapped"
Loaded = tuple[sqlite3.Connection, int]


def filled(many: int, *, analyze: bool) -> sqlite3.Connection:
    raw = sqlite3.connect(":memory:", isolation_level=None)
    for migration in migrations("sqlite", "durably_"):
        for statement in migration.statements:
            raw.execute(statement)
    for statement in statements(many, postgres=False):
        raw.execute(statement)
    if analyze:
        raw.execute("ANALYZE")
    return raw


@pytest.fixture(scope="module")
def few() -> Iterator[sqlite3.Connection]:
    raw = filled(FEW, analyze=False)
    yield raw
    raw.close()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "analyzed"])
def many(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    raw = filled(MANY, analyze=bool(request.param))
    yield raw
    raw.close()


def bound(name: str, size: int) -> list[tuple[str, Any]]:
    """The operation's statements with their parameters, in order."""
    engine = SqliteEngine(parse_url("sqlite://"), ENVIRONMENT)
    operation = operations(size, ENVIRONMENT.new_id())[name]
    return [part for statement in operation.plan() for part in engine._bind(statement)]  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's own binding


def scans(raw: sqlite3.Connection, name: str) -> list[str]:
    """Steps of the operation's plans that read a whole table or index."""
    found: list[str] = []
    raw.execute("BEGIN")
    for sql, params in bound(name, MANY):
        details = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
        found += [
            f"{detail}\n    in {sql}" for detail in details if re.match(rf"SCAN (?:{TABLE})\b(?! VIRTUAL)", detail)
        ]
    raw.execute("ROLLBACK")
    return found


def cost(raw: sqlite3.Connection, name: str, size: int) -> int:
    """Instructions of SQLite's machine that the operation takes."""
    count = [0]

    def step() -> int:
        count[0] += 1
        return 0

    raw.execute("BEGIN")
    plan = bound(name, size)
    raw.set_progress_handler(step, 10)
    for sql, params in plan:
        raw.execute(sql, params).fetchall()
    raw.set_progress_handler(None, 0)
    raw.execute("ROLLBACK")
    return count[0] * 10


@pytest.mark.parametrize("name", NAMES)
def test_no_statement_reads_a_whole_table(many: sqlite3.Connection, name: str) -> None:
    if name not in WALKS:
        assert scans(many, name) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GROWS])
def test_the_cost_does_not_grow_with_what_is_finished_or_waits(
    few: sqlite3.Connection, many: sqlite3.Connection, name: str
) -> None:
    small, large = cost(few, name, FEW), cost(many, name, MANY)
    assert large <= small * 2 + 500


def test_a_plan_that_reads_everything_would_be_noticed(many: sqlite3.Connection) -> None:
    text = fill_tables("SELECT * FROM {runs} r WHERE r.output = 'x'", "durably_")
    [detail] = [row[3] for row in many.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert re.match(rf"SCAN (?:{TABLE})\b(?! VIRTUAL)", detail)
