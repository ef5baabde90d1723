"""Migrations: applied once however many processes start, and refused where code and database do not fit."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import asyncpg
import pytest

from durably.environment import SystemEnvironment
from durably.errors import DatabaseRefused, DatabaseUnavailable, SchemaError
from durably.model import Event, LogLine, StepRecord, StoredRun
from durably.store import catalogue, rows, runs
from durably.store.database import open_database
from durably.store.engine import Channel
from durably.store.migrate import Applied, Migration, migrations, pending
from durably.store.operation import Param, Statement
from tests.support.store import Store, a_checkpoint, inner_engine

SQL = Path(catalogue.__file__).parent / "sql"
ENVIRONMENT = SystemEnvironment()
OPEN = """
import asyncio, os, sys, traceback
from durably.environment import SystemEnvironment
from durably.store import postgres
from durably.store.database import open_database

async def main():
    database = open_database(sys.argv[1], environment=SystemEnvironment())
    await database.open()
    await database.close()

go, gun = os.pipe()
children = []
for _ in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(gun)
        os.read(go, 1)  # until the parent lets go
        try:
            asyncio.run(main())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
os.close(gun)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.fixture
def empty_url(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database without our tables, that several processes can share."""
    if store_kind == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'empty.db'}"


shared_kinds = pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)


async def execute(url: str, text: str) -> None:
    """Run SQL that names the tables {migrations} and so on."""
    if url.startswith("sqlite"):
        raw = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        raw.execute(catalogue.fill_tables(text, "durably_"))
        raw.close()
    else:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(catalogue.fill_tables(text, "durably."))
        finally:
            await connection.close()


async def migrate(url: str) -> None:
    database = open_database(url, environment=ENVIRONMENT)
    await database.open()
    await database.close()


@shared_kinds
async def test_eight_processes_that_start_at_once_all_succeed(empty_url: str) -> None:
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPEN, empty_url, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await parent.communicate()
    assert output.decode() == f"{[0] * 8}\n"
    async with Store("postgres" if empty_url.startswith("postgres") else "sqlite-file", empty_url) as store:
        assert await store.value("SELECT count(*) FROM {migrations}") == len(migrations("sqlite", ""))
        await store.trigger()


@shared_kinds
async def test_many_connections_of_one_process_may_open_at_once(empty_url: str) -> None:
    await asyncio.gather(*(migrate(empty_url) for _ in range(8)))


@shared_kinds
async def test_opening_again_changes_nothing(empty_url: str) -> None:
    await migrate(empty_url)
    await migrate(empty_url)
    database = open_database(empty_url, environment=ENVIRONMENT, migrate="check")
    await database.open()
    await database.close()


@shared_kinds
async def test_a_check_of_an_empty_database_is_refused_naming_the_remedy_and_leaves_it_empty(empty_url: str) -> None:
    database = open_database(empty_url, environment=ENVIRONMENT, migrate="check")
    with pytest.raises(SchemaError, match='migrate="auto"'):
        await database.open()
    await database.close()
    with pytest.raises((sqlite3.OperationalError, asyncpg.PostgresError)):
        await execute(empty_url, "SELECT * FROM {migrations}")


@shared_kinds
@pytest.mark.parametrize("mode", ["auto", "check"])
async def test_a_database_that_serves_only_newer_code_is_refused_naming_the_remedy(empty_url: str, mode: str) -> None:
    await migrate(empty_url)
    await execute(empty_url, "UPDATE {migrations} SET version = 99, serves = 98")
    database = open_database(empty_url, environment=ENVIRONMENT, migrate="auto" if mode == "auto" else "check")
    with pytest.raises(SchemaError, match="upgrade durably") as caught:
        await database.open()
    await database.close()
    assert "99" in str(caught.value)


@shared_kinds
async def test_a_newer_database_that_still_serves_this_code_is_used(empty_url: str) -> None:
    await migrate(empty_url)
    await execute(empty_url, "UPDATE {migrations} SET version = 99, serves = 1")
    database = open_database(empty_url, environment=ENVIRONMENT)
    await database.open()
    assert await database.read(runs.get_run(ENVIRONMENT.new_id())) is None
    await database.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and rather more of them than a header holds\n" * 100)
    database = open_database(f"sqlite:///{path}", environment=ENVIRONMENT)
    with pytest.raises(SchemaError, match="not a usable SQLite database"):
        await database.open()
    await database.close()


async def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/none/jobs.db", environment=ENVIRONMENT)
    with pytest.raises(DatabaseUnavailable):
        await database.open()
    await database.close()


async def test_two_schemas_of_one_database_know_nothing_of_each_other(postgres_url: str) -> None:
    one = open_database(postgres_url, environment=ENVIRONMENT, schema="one")
    two = open_database(postgres_url, environment=ENVIRONMENT, schema="two")
    await asyncio.gather(one.open(), two.open())
    async with Store("sqlite-memory", "sqlite:///:memory:") as words:
        new = words.new()
        await one.submit(runs.enqueue, new)
    assert await one.read(runs.get_run(new.id)) is not None
    assert await two.read(runs.get_run(new.id)) is None
    await asyncio.gather(one.close(), two.close())


async def test_a_server_that_isolates_more_by_default_changes_nothing(postgres_url: str) -> None:
    """What the rules need is READ COMMITTED, whatever somebody set as the default."""
    await execute(
        postgres_url,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation ="
        " serializable', current_database()); END $$",
    )
    async with Store("postgres", postgres_url) as store:
        await store.sql(
            "CREATE FUNCTION durably.check_level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE 'isolated more'; END IF;"
            " RETURN NULL; END $$"
        )
        await store.sql(
            "CREATE TRIGGER check_level AFTER INSERT OR UPDATE ON durably.runs EXECUTE FUNCTION durably.check_level()"
        )
        databases = await store.others(4)
        enqueued = await asyncio.gather(
            *(database.submit(runs.enqueue, store.new(concurrency_key="k")) for database in databases for _ in range(5))
        )
        assert len(enqueued) == 20
        assert len(await store.claim()) == 1
        assert await store.is_sound()
        connection = await store.connect()
        assert await connection.fetchval("SHOW default_transaction_isolation") == "serializable"


# --- what has to be applied --------------------------------------------------------------------------

KNOWN = tuple(Migration(version, f"m{version}", (), serves=1) for version in (1, 2, 3))


def test_what_is_missing_is_applied_in_order() -> None:
    assert [migration.version for migration in pending(KNOWN, Applied(1, 1), "auto")] == [2, 3]


def test_nothing_is_missing_when_all_is_applied() -> None:
    assert pending(KNOWN, Applied(3, 1), "check") == ()


def test_something_missing_is_refused_by_a_check() -> None:
    with pytest.raises(SchemaError, match="needs 3"):
        pending(KNOWN, Applied(2, 1), "check")


def test_migrations_are_numbered_without_gaps_and_alike_in_both_dialects() -> None:
    sqlite, postgres = migrations("sqlite", ""), migrations("postgres", "")
    assert [each.version for each in sqlite] == list(range(1, len(sqlite) + 1))
    assert [(each.version, each.name, each.serves) for each in sqlite] == [
        (each.version, each.name, each.serves) for each in postgres
    ]


# --- the catalogue ----------------------------------------------------------------------------------


def test_both_dialects_have_statements_of_the_same_names() -> None:
    assert set(catalogue.load("sqlite", "")) == set(catalogue.load("postgres", ""))


def test_no_name_is_given_twice_in_a_file() -> None:
    for file in SQL.glob("*.sql"):
        names = re.findall(r"^-- (?:name|fragment): (\w+)$", file.read_text("utf-8"), re.MULTILINE)
        assert sorted(names) == sorted(set(names)), file.name


def test_every_statement_says_what_it_is_for() -> None:
    for file in SQL.glob("*.sql"):
        for name, purpose in re.findall(r"^-- name: (\w+)\n(.*)$", file.read_text("utf-8"), re.MULTILINE):
            assert re.fullmatch(r"-- [A-Z].*", purpose), f"{file.name}: {name}"


class Recorded(dict[str, object]):
    """A row that remembers which of its columns were read."""

    def __init__(self, row: Mapping[str, object]) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> object:
        self.read.add(column)
        return super().__getitem__(column)


async def test_every_column_that_a_statement_returns_is_decoded(store: Store) -> None:
    run = await store.leased(labels={"a": "b"})
    await store.store(a_checkpoint(run))
    await store.end(run, number=2)
    reads = {"get_run": rows.run, "load_steps": rows.step, "load_logs": rows.log_line, "run_events": rows.events}
    engine = inner_engine(store.database)
    params: dict[str, Param] = {"run_id": run.id, "after_seq": 0, "limit": 100}
    for name, decode in reads.items():
        [found] = await engine.transact([Statement(name, params)], Channel.READ, readonly=True)
        recorded = [Recorded(dict(row)) for row in found]
        for row in recorded:
            decode(row)
        unread = set(recorded[0]) - set().union(*(row.read for row in recorded))
        assert unread <= {"rank"}, name


def test_every_field_of_a_record_has_a_column() -> None:
    renamed = {"input_json": "input", "output_json": "output", "data_json": "data", "payload_json": "payload"}
    made_up = {"cursor"}
    fragments = "".join(path.read_text("utf-8") for path in sorted((SQL / "sqlite").glob("*.sql")))
    for record in (StoredRun, StepRecord, LogLine, Event):
        for each in fields(record):
            column = renamed.get(each.name, each.name)
            assert each.name in made_up or re.search(rf"\b{column}\b", fragments), f"{record.__name__}.{each.name}"


@pytest.mark.parametrize(
    "change",
    [
        "status = 'unknown', completed_at = created_at",
        "status = 'pending', hold = 'unknown'",
        "hold = 'time'",
        "status = 'completed'",
        "completed_at = created_at",
        "status = 'failed', completed_at = created_at, slot = (1 = 1)",
    ],
)
async def test_a_run_that_cannot_be_is_refused_by_the_table(store: Store, change: str) -> None:
    await store.leased()
    before = await store.snapshot()
    with pytest.raises((sqlite3.IntegrityError, asyncpg.CheckViolationError, DatabaseRefused), match=r"CHECK|check"):
        await store.sql(f"UPDATE {{runs}} SET {change}")
    assert await store.snapshot() == before
