"""URLs, settings and databases that cannot work: a clear error that names the field, and nothing is written."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from durably import DatabaseRefused, DatabaseUnavailable, Durably, SchemaError, Step, SyncDurably, ValidationError, job
from tests.support.app import NO_RUN, make_durably, within
from tests.support.store import Store

SECRET = "s3cr3t-word"  # noqa: S105 - a word to look for in messages


@job("order")
async def order(step: Step) -> None: ...


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (f"mysql://user:{SECRET}@host/db", "unknown scheme 'mysql'"),
        ("sqlite:/one-slash.db", "is no URL"),
        ("jobs.db", "is no URL"),
        ("", "is no URL"),
        ("sqlite://two-slashes.db", "two slashes"),
        ("sqlite:///jobs.db?synchronous=off", "synchronous"),
        ("sqlite:///jobs.db?mode=ro", "unknown option 'mode'"),
        (f"user:{SECRET}@host/db", "is no URL"),
        (f"postgresql://u:{SECRET}@host/db?sslmode=require&channel_binding=require", "channel_binding does not exist"),
        (f"postgresql://u:{SECRET}@host/db?connect_timeout=10", "connect_timeout does not exist"),
        (f"postgresql://u:{SECRET}@host/db?pgbouncer=true", "pgbouncer does not exist"),
        (f"postgresql://u:{SECRET}@host/db?sslmode=on", "sslmode must be one of"),
        (f"postgresql://u:{SECRET}@host:70000/db", "port 70000"),
        (f"postgresql://u:{SECRET}@host:0/db", "port 0"),
        (f"postgresql://u:{SECRET}@[::1/db", "brackets"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, hint: str) -> None:
    """Naming the remedy, without the password; nothing is connected."""
    with pytest.raises(ValidationError, match=hint) as caught:
        Durably(url)
    assert caught.value.field == "url"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("migrate", {"migrate": "never"}),
        ("lease", {"lease": timedelta(0)}),
        ("lease", {"lease": timedelta(milliseconds=99)}),
        ("renewal", {"lease": timedelta(seconds=9), "renewal": timedelta(seconds=3.1)}),
        ("renewal", {"lease": timedelta(seconds=9), "renewal": timedelta(seconds=10)}),
        ("renewal", {"renewal": timedelta(0)}),
        ("poll_interval", {"poll_interval": timedelta(0)}),
        ("poll_interval", {"poll_interval": timedelta(seconds=-1)}),
        ("max_concurrent_runs", {"max_concurrent_runs": 0}),
        ("max_concurrent_runs", {"max_concurrent_runs": True}),
        ("max_concurrent_runs", {"max_concurrent_runs": 1.5}),
        ("max_crashes", {"max_crashes": 0}),
        ("max_value_bytes", {"max_value_bytes": -1}),
        ("retain_runs", {"retain_runs": timedelta(0)}),
        ("retain_events", {"retain_events": timedelta(seconds=-1)}),
        ("lease", {"lease": 30}),
        ("lease", {"lease": "30s"}),
        ("lease", {"lease": timedelta.max}),
        ("renewal", {"renewal": 1.5}),
        ("poll_interval", {"poll_interval": 1}),
        ("poll_interval", {"poll_interval": None}),
        ("retain_runs", {"retain_runs": 30}),
        ("retain_events", {"retain_events": "7d"}),
        ("preserve_steps", {"preserve_steps": "false"}),
        ("max_concurrent_runs", {"max_concurrent_runs": 2**40}),
        ("schema", {"schema": 5}),
        ("schema", {"schema": "a" * 56}),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(field: str, settings: dict[str, Any]) -> None:
    """When the Durably is made, not when it is used; a renewal may take a third of the lease at most."""
    with pytest.raises(ValidationError) as caught:
        Durably("sqlite:///:memory:", **settings)
    assert caught.value.field == field


@pytest.mark.parametrize("url", [None, 5, b"sqlite:///jobs.db", Path("jobs.db"), "sqlite:///jobs\0.db"])
def test_what_is_no_url_at_all_is_refused_by_name(url: Any) -> None:
    """A path is not one either."""
    with pytest.raises(ValidationError) as caught:
        Durably(url)
    assert caught.value.field == "url"


def test_a_listen_url_that_is_none_is_refused_by_name() -> None:
    """As the url is."""
    wrong: Any = Path("host")
    with pytest.raises(ValidationError) as caught:
        Durably("postgresql://host/db", listen_url=wrong)
    assert caught.value.field == "listen_url"


@pytest.mark.parametrize("schema", ["", "Upper", "a-b", 'a"b', "1a", "a b"])
def test_a_schema_that_is_no_plain_name_is_refused(schema: str) -> None:
    """On Postgres, where it becomes part of the SQL."""
    with pytest.raises(ValidationError) as caught:
        Durably("postgresql://host/db", schema=schema)
    assert caught.value.field == "schema"


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("max_concurrent_runs", {"max_concurrent_runs": 0}),
        ("grace", {"grace": timedelta(seconds=-1)}),
        ("grace", {"grace": 5}),
        ("deps", {"deps": 5}),
        ("only", {"only": "order"}),
        ("exclude", {"exclude": "order"}),
    ],
)
def test_a_setting_of_a_worker_is_refused_by_name(field: str, settings: dict[str, Any]) -> None:
    """As those of the Durably are."""
    with pytest.raises(ValidationError) as caught:
        Durably("sqlite:///:memory:").worker([order], **settings)
    assert caught.value.field == field


@pytest.mark.parametrize("jobs", [order, "tests.processes.jobs", None, 5])
def test_a_worker_of_what_is_no_list_is_refused(jobs: Any) -> None:
    """The name of a module would be taken letter by letter."""
    for worker in (Durably("sqlite:///:memory:").worker, SyncDurably("sqlite:///:memory:").worker):
        with pytest.raises(ValidationError, match="brackets") as caught:
            worker(jobs)
        assert caught.value.field == "jobs"


def test_a_listener_that_is_no_function_is_refused() -> None:
    """At once, not with the first event."""
    wrong: Any = "print"
    with pytest.raises(ValidationError, match=r"^fn: "):
        Durably("sqlite:///:memory:").on("run:fail", wrong)


async def test_a_server_that_is_not_there_is_told_soon_and_without_the_password() -> None:
    """DatabaseUnavailable, from whatever is called first; the next call may succeed."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    durably = Durably(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: durably.trigger("job"), durably.get_runs, lambda: durably.cancel(NO_RUN), durably.worker([order]).start,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(DatabaseUnavailable) as caught:
            await within(call(), seconds=5)
        assert caught.value.retryable
        assert SECRET not in "".join(map(str, chain(caught.value)))
    assert SECRET not in repr(durably)
    await durably.close()


def chain(error: BaseException | None) -> list[BaseException]:
    """The error and what led to it, as a traceback shows them."""
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


async def test_a_server_that_refuses_the_user_says_so(postgres_url: str) -> None:
    """A wrong database is no wrong run."""
    durably = Durably(postgres_url.rpartition("/")[0] + "/no_such_database")
    with pytest.raises(DatabaseUnavailable, match="no_such_database"):
        await within(durably.trigger("job"))
    await durably.close()


async def test_a_setting_that_the_server_does_not_know_is_told(postgres_url: str) -> None:
    durably = Durably(f"{postgres_url}?no_such_setting=1")
    with pytest.raises(DatabaseRefused, match='unrecognized configuration parameter "no_such_setting"') as caught:
        await within(durably.trigger("job"))
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
    await durably.close()


async def test_rights_that_are_missing_are_told(postgres_url: str) -> None:
    """PostgreSQL: somebody who may make no schema."""
    name = f"guest_{uuid4().hex}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
    try:
        server = postgres_url.rpartition("@")[2]
        durably = Durably(f"postgresql://{name}:{SECRET}@{server}")
        with pytest.raises(DatabaseRefused, match="permission denied for database") as caught:
            await within(durably.trigger("job"))
        assert SECRET not in str(caught.value)
        await durably.close()
    finally:
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_tables_that_somebody_has_dropped_are_told(store: Store) -> None:
    await store.sql("DROP TABLE {runs}")
    with pytest.raises(DatabaseRefused, match="runs"):
        await within(store.trigger())


async def test_a_folder_or_a_file_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """SQLite: a folder that is not there, a folder in place of the file, a file that is no database."""
    text = tmp_path / "text.db"
    text.write_text("no database at all, only words\n" * 100)
    for path, error in (
        (tmp_path / "none" / "jobs.db", DatabaseUnavailable),
        (tmp_path, DatabaseUnavailable),
        (text, SchemaError),
    ):
        durably = Durably(f"sqlite:///{path}")
        with pytest.raises(error, match=path.name):
            await within(durably.trigger("job"))
        await durably.close()
    assert text.read_text().startswith("no database")


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_schema_from_a_newer_durably_is_refused_and_left_alone(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The error says what to upgrade."""
    url = f"sqlite:///{tmp_path}/jobs.db" if store_kind == "sqlite-file" else request.getfixturevalue("postgres_url")
    async with make_durably(url) as durably:
        await durably.trigger("job")
    if store_kind == "sqlite-file":
        with sqlite3.connect(tmp_path / "jobs.db") as raw:
            raw.execute("INSERT INTO durably_migrations VALUES (999, 'future', 999, 0)")
        raw.close()
    else:
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO durably.migrations VALUES (999, 'future', 999)")
        await connection.close()

    for migrate in ("auto", "check"):
        old = make_durably(url, migrate=migrate)
        with pytest.raises(SchemaError, match=r"999.*upgrade durably"):
            await within(old.trigger("job"))
        await old.close()


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_database_without_tables_is_refused_where_it_may_not_be_changed(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`migrate="check"`."""
    url = f"sqlite:///{tmp_path}/jobs.db" if store_kind == "sqlite-file" else request.getfixturevalue("postgres_url")
    durably = make_durably(url, migrate="check")
    with pytest.raises(SchemaError, match='migrate="auto"'):
        await within(durably.trigger("job"))
    await durably.close()
