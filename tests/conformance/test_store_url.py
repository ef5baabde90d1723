"""URLs: every accepted spelling, errors that say what to do, and passwords that stay where they are."""

from __future__ import annotations

import pytest

from durably.environment import SystemEnvironment
from durably.errors import DatabaseUnavailable, ValidationError
from durably.store.database import open_database
from durably.store.url import parse_url

MEMORY = ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://:memory:", "sqlite3:///:memory:"]


@pytest.mark.parametrize("url", MEMORY)
def test_sqlite_without_a_path_is_in_memory(url: str) -> None:
    parsed = parse_url(url)
    assert (parsed.dialect, parsed.location) == ("sqlite", ":memory:")
    assert not open_database(url, environment=SystemEnvironment()).is_shared


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite3", "sqlite+aiosqlite", "sqlite+pysqlite"])
@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("/jobs.db", "jobs.db"),
        ("/data/jobs.db", "data/jobs.db"),
        ("//srv/jobs.db", "/srv/jobs.db"),
        ("/./a b.db", "./a b.db"),
    ],
)
def test_three_slashes_are_a_relative_path_and_four_an_absolute_one(scheme: str, rest: str, path: str) -> None:
    parsed = parse_url(f"{scheme}://{rest}")
    assert (parsed.dialect, parsed.location, parsed.synchronous) == ("sqlite", path, "full")


@pytest.mark.parametrize(("given", "kept"), [("normal", "normal"), ("FULL", "full"), ("extra", "extra")])
def test_sqlite_takes_the_option_synchronous(given: str, kept: str) -> None:
    assert parse_url(f"sqlite:///jobs.db?synchronous={given}").synchronous == kept


@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2", "postgres+asyncpg"],
)
def test_every_postgres_spelling_means_the_same(scheme: str) -> None:
    parsed = parse_url(f"{scheme}://user:secret@host:5433/jobs?sslmode=require")
    assert (parsed.dialect, parsed.location) == ("postgres", "postgresql://user:secret@host:5433/jobs?sslmode=require")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no URL"),
        ("jobs.db", "no URL"),
        ("mysql://host/jobs", "unknown scheme 'mysql'"),
        ("libsql://host", "unknown scheme 'libsql'"),
        ("SQLITE", "no URL"),
        ("sqlite://jobs.db", "two slashes"),
        ("sqlite:///jobs.db?synchronous=off", "synchronous='off' is unknown"),
        ("sqlite:///jobs.db?mode=ro", "unknown option 'mode'"),
        ("sqlite:///jobs.db?synchronous", "synchronous='' is unknown"),
        ("postgresql://host:port/jobs", "port"),
    ],
)
def test_an_unusable_url_is_refused_with_what_to_do(url: str, says: str) -> None:
    with pytest.raises(ValidationError, match="url: ") as caught:
        parse_url(url)
    assert says in str(caught.value)


PASSWORDS = [
    "postgresql://user:s3cret@host/jobs",
    "postgresql://user:s3cret/s3cret@host/jobs",
    "postgresql://user:s3cret#s3cret@host/jobs",
    "postgresql://user:s3cret?s3cret@host/jobs",
    "postgresql://user:s3cret@s3cret@host/jobs",
    "postgresql://user:s3cret@host:5432/jobs?password=s3cret",
    "postgresql://host/jobs?user=u&PASSWORD=s3cret&sslmode=require",
    "postgresql://host/jobs?sslpassword=s3cret",
    "mysql://user:s3cret@host/jobs",
    "user:s3cret@host/jobs",
    "postgresql://user:s3cret@host:port/jobs",
]


@pytest.mark.parametrize("url", PASSWORDS)
def test_no_password_is_shown_in_a_repr_or_an_error(url: str) -> None:
    try:
        parsed = parse_url(url, listen_url=url)
        database = open_database(url, environment=SystemEnvironment(), listen_url=url)
        shown = repr(parsed) + str(parsed) + database.shown + repr(database) + repr(vars(database))
    except ValidationError as error:
        shown = str(error) + repr(error)
    assert "s3cret" not in shown


def test_what_is_shown_still_says_which_database() -> None:
    url = "postgresql://user:s3cret@host:5433/jobs?sslmode=require"
    assert parse_url(url).shown == "postgresql://user:***@host:5433/jobs?sslmode=require"
    assert parse_url("sqlite:///jobs.db").shown == "sqlite:///jobs.db"


async def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    database = open_database("postgresql://user:s3cret@127.0.0.1:1/jobs", environment=SystemEnvironment())
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.open()
    causes = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert "s3cret" not in causes
    await database.close()


@pytest.mark.parametrize("schema", ["", "Jobs", "my-jobs", 'a"b', "1st", "a b", "jobs;drop", "é"])
def test_a_schema_name_that_is_not_plain_is_refused(schema: str) -> None:
    with pytest.raises(ValidationError, match="schema: "):
        open_database("postgresql://host/jobs", environment=SystemEnvironment(), schema=schema)


def test_the_url_to_listen_on_takes_the_same_spellings() -> None:
    assert parse_url("postgres://pool/db", listen_url="postgres+asyncpg://direct/db").listen == "postgresql://direct/db"


def test_the_url_to_listen_on_has_to_be_postgres() -> None:
    with pytest.raises(ValidationError, match="listen_url: "):
        parse_url("postgres://pool/db", listen_url="sqlite:///jobs.db")
