"""G14 on SQLite: every statement uses its index, and costs the same however much is finished or waits.

What is written most often is one call into SQLite, which gives the interpreter's lock away once.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from durably.environment import SystemEnvironment
from durably.model import Verdict
from durably.store import catalogue, leases, sqlite_calls, steps
from durably.store.catalogue import fill_tables
from durably.store.migrate import migrations
from durably.store.operation import Batch, Lane, Operation, Statement, combine
from durably.store.sqlite import SqliteEngine
from durably.store.sqlite_calls import Block, Calls
from durably.store.url import parse_url
from tests.support.bulk import MANY, operations, statements
from tests.support.store import LEASE, Store, a_checkpoint, an_end, inner_engine, private

ENVIRONMENT = SystemEnvironment()
FEW = 300
NAMES = list(operations(FEW, "x"))
WALKS = {
    "list": "newest first, until the page is full",
    "list, next page": "newest first, until the page is full",
    "list by label": "labels have no index on SQLite",
    "skip": "newest first, until the place is reached",
    "purge_events": "oldest first, until the page is full",
    "find_drift": "looks at every key",
    "purge_keys": "looks at every key",
}
"""Operations that may walk along an index, and why."""
GROWS = {"list by label"}
TABLE = r"durably_(?:runs|steps|logs|events)|r|x|t|o|d|p|e|s|l|h|f|own|dup|swapped"
SQL = catalogue.load("sqlite", "durably_")


class Loaded(sqlite3.Connection):
    """A connection with the calls of its engine."""

    calls: Calls


def filled(many: int, *, analyze: bool) -> Loaded:
    raw = sqlite3.connect(":memory:", isolation_level=None, factory=Loaded)
    for migration in migrations("sqlite", "durably_"):
        for statement in migration.statements:
            raw.execute(statement)
    for statement in statements(many, postgres=False):
        raw.execute(statement)
    if analyze:
        raw.execute("ANALYZE")
    raw.calls = Calls(raw)
    raw.calls.prepare()
    return raw


@pytest.fixture(scope="module")
def few() -> Iterator[Loaded]:
    raw = filled(FEW, analyze=False)
    yield raw
    raw.close()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "analyzed"])
def many(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    raw = filled(MANY, analyze=bool(request.param))
    yield raw
    raw.close()


def blocks(operation: Operation[Any]) -> list[Block]:
    """The operation as a connection gets it."""
    engine = SqliteEngine(parse_url("sqlite://"), ENVIRONMENT)
    return [engine._bind(statement, place) for place, statement in enumerate(operation.plan())]  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's own binding


def texts(statement: Statement) -> list[tuple[str, dict[str, Any]]]:
    """The statements that a block comes to, each by itself, with parameters."""
    found: list[tuple[str, dict[str, Any]]] = []
    batches = {name: value for name, value in statement.params.items() if isinstance(value, Batch)}
    scalars: dict[str, Any] = {name: None for name in statement.params if name not in batches} | {"now": 1, "block": 0}
    for sql in SQL[statement.name]:
        batch = None if sql.each is None else batches[sql.each]
        if (batch is None or batch.rows) and "RAISE(" not in sql.text:
            row = dict.fromkeys(() if batch is None else batch.columns)
            found.append((sql.text, scalars | dict.fromkeys(batches, "[]") | row))
    return found


def scans(raw: Loaded, name: str) -> list[str]:
    """Steps of the operation's plans that read a whole table or index."""
    found: list[str] = []
    raw.execute("BEGIN")
    plan = operations(MANY, ENVIRONMENT.new_id())[name].plan()
    for sql, params in [text for statement in plan for text in texts(statement)]:
        details = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
        found += [
            f"{detail}\n    in {sql}" for detail in details if re.match(rf"SCAN (?:{TABLE})\b(?! VIRTUAL)", detail)
        ]
    raw.execute("ROLLBACK")
    return found


def statements_of(raw: Loaded, block: Block) -> list[tuple[str, Any]]:
    """A block as its connection runs it."""
    calls = raw.calls
    calls.learn(block.parts)
    return [*calls.statements(block.calls), *((text, block.params) for text in block.texts)]


def cost(raw: Loaded, name: str, size: int) -> int:
    """Instructions of SQLite's machine that the operation takes."""
    count = [0]

    def step() -> int:
        count[0] += 1
        return 0

    found = blocks(operations(size, ENVIRONMENT.new_id())[name])
    plan = [statement for block in found for statement in statements_of(raw, block)]
    raw.execute("BEGIN")
    raw.set_progress_handler(step, 10)
    for sql, params in plan:
        raw.execute(sql, params).fetchall()
    raw.set_progress_handler(None, 0)
    raw.execute("ROLLBACK")
    return count[0] * 10


@pytest.mark.parametrize("name", NAMES)
def test_no_statement_reads_a_whole_table(many: Loaded, name: str) -> None:
    if name not in WALKS:
        assert scans(many, name) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GROWS])
def test_the_cost_does_not_grow_with_what_is_finished_or_waits(few: Loaded, many: Loaded, name: str) -> None:
    small, large = cost(few, name, FEW), cost(many, name, MANY)
    assert large <= small * 2 + 500


OF_ALL_RUNS = {
    *(name for name in NAMES if name.startswith(("list by", "skip by", "count of")) and name != "list by label"),
    *("claim_expired", "claim_expired, some held", "look", "look, nothing there", "claimed", "crashed", "read_expired"),
}
"""Operations that go through the index of all runs: lists, and who looks for leases."""


@pytest.mark.parametrize("name", NAMES)
def test_only_lists_and_who_looks_for_leases_go_through_the_index_of_all_runs(many: Loaded, name: str) -> None:
    many.execute("BEGIN")
    found = [text for statement in operations(MANY, ENVIRONMENT.new_id())[name].plan() for text in texts(statement)]
    details = [row[3] for sql, params in found for row in many.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
    many.execute("ROLLBACK")
    used = [detail for detail in details if "durably_runs_by_status" in detail]
    assert bool(used) == (name in OF_ALL_RUNS), used
    assert [detail for detail in used if not re.search(r"\(status=\?(?: AND job[=<]\?.*)?\)", detail)] == []


def test_a_plan_that_reads_everything_would_be_noticed(many: Loaded) -> None:
    text = fill_tables("SELECT * FROM {runs} r WHERE r.output = 'x'", "durably_")
    [detail] = [row[3] for row in many.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert re.match(rf"SCAN (?:{TABLE})\b(?! VIRTUAL)", detail)


# --- one call a transaction -------------------------------------------------------------------------


ONE_CALL = ("claim", "write_runs", "write_runs, endings", "enqueue, plain")


@pytest.fixture
def fresh() -> Iterator[Loaded]:
    """A connection that knows no calls yet: EXPLAIN shows those of the others too."""
    raw = filled(FEW, analyze=False)
    yield raw
    raw.close()


def program(raw: Loaded, *names: str) -> list[Any]:
    """What SQLite does, instruction by instruction, for these operations in one transaction."""
    made = operations(FEW, ENVIRONMENT.new_id())
    parts = blocks(combine([made[name] for name in names]))
    assert not any(block.texts for block in parts)
    raw.calls.learn([part for block in parts for part in block.parts])
    [(text, values)] = raw.calls.statements([call for block in parts for call in block.calls])
    return raw.execute(f"EXPLAIN {text}", values).fetchall()


def written_indexes(raw: Loaded, instructions: list[Any]) -> set[str]:
    """The indexes of runs that the instructions change."""
    roots = dict(
        raw.execute("SELECT rootpage, name FROM sqlite_master WHERE tbl_name = 'durably_runs' AND type = 'index'")
    )
    opened: dict[int, str] = {}
    changed: set[str] = set()
    for address, opcode, cursor, root, database, *_ in instructions:
        if address == 0:
            opened = {}  # the program of another trigger
        if opcode == "OpenWrite" and database == 0 and root in roots:
            opened[cursor] = roots[root]
        elif opcode in {"IdxInsert", "IdxDelete"} and cursor in opened:
            changed.add(opened[cursor])
    return changed


def test_a_checkpoint_touches_no_index_of_runs(fresh: Loaded) -> None:
    assert written_indexes(fresh, program(fresh, "write_runs")) == set()
    assert "durably_runs_by_status" in written_indexes(fresh, program(fresh, "write_runs, endings"))


@pytest.mark.parametrize("name", ONE_CALL)
def test_a_program_takes_the_lock_of_the_file_before_it_reads(fresh: Loaded, name: str) -> None:
    begun = [(row[2], row[3]) for row in program(fresh, name) if row[1] == "Transaction"]
    assert begun[0] == (0, 1)


@pytest.fixture
def calls(store: Store) -> Iterator[list[str]]:
    """Statements that were handed to SQLite; those of a trigger's body are told as the statement that fired it."""
    raw: sqlite3.Connection = private(private(inner_engine(store.database), "_writer"), "_raw")
    found: list[str] = []
    raw.set_trace_callback(lambda text: None if text in found else found.append(text))
    yield found
    raw.set_trace_callback(None)


@pytest.mark.parametrize("store_kind", ["sqlite-file", "sqlite-memory"], indirect=True)
async def test_what_is_written_most_often_is_one_call(store: Store, calls: list[str]) -> None:
    for round_ in range(2):
        calls.clear()
        await store.trigger()
        [run] = await store.claim()
        await store.store(a_checkpoint(run))
        await store.store(an_end(run, number=2))
        made = [text for text in calls if text.startswith("CREATE TEMP TRIGGER")]
        assert len(made) == (9 if round_ == 0 else 0)
    assert len(calls) == 4


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_a_claim_beside_a_write_is_the_same_call(store: Store, calls: list[str]) -> None:
    for _ in range(2):
        run = await store.leased()
        other = await store.trigger()
        calls.clear()
        claim = leases.claim(["job"], limit=1, owner="me", token=ENVIRONMENT.new_id(), lease=LEASE)
        both = combine([steps.write_fast.build([a_checkpoint(run)]), claim])
        results: Any = await store.database.run(both, lane=Lane.FAST)
        assert [each.id for each in results[1]] == [other.id]
    assert len(calls) == 1


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
@pytest.mark.parametrize("is_one_call", [True, False])
async def test_the_rows_of_a_claim_are_what_it_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, is_one_call: bool
) -> None:
    if not is_one_call:
        monkeypatch.setattr(sqlite_calls, "_MOST_VALUES", 20)
    await store.trigger(labels={"a": 'b"\\'}, input='{"é":"\\u0000"}', concurrency_key="k")
    [run] = await store.claim()
    assert run == await store.get(run)
    again = a_checkpoint(replace(run, generation=7))
    assert await store.store(again) is Verdict.REFUSED
    assert await store.store(a_checkpoint(run)) is Verdict.STORED
    assert await store.end(run, number=2) is Verdict.STORED
    assert await store.event_types(run) == [
        "run:trigger",
        "run:leased",
        "step:start",
        "log:write",
        "step:complete",
        "run:complete",
    ]
    assert await store.is_sound()
