"""How connections are made, and that a password never shows: not in errors, reprs or logs, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from durably import DatabaseUnavailable, Durably, DurablyError, Step, ValidationError, job
from durably.environment import SystemEnvironment
from durably.store.database import open_database
from durably.store.probe import probe
from durably.store.url import parse_url
from tests.support.app import within
from tests.support.bench import eventually
from tools.postgres_server import PostgresServer

SECRET = "s3cr3t-passw0rd"  # noqa: S105 - made up


@job("add")
async def add(step: Step, n: int) -> int:
    return await step.run("one", lambda: n + 1, returns=int)


# --- connect= ---------------------------------------------------------------------------------------


class Passwords:
    """A service that hands out passwords; the server checks nothing, so this one does."""

    def __init__(self) -> None:
        self.valid = "first"
        self.known = "first"
        self.calls: list[str] = []

    async def connect(self, dsn: str, **options: Any) -> Any:
        self.calls.append(dsn)
        if self.known != self.valid:
            self.known = self.valid  # the next call knows it
            raise asyncpg.InvalidPasswordError(f"password {self.known} is not valid")
        return await asyncpg.connect(dsn, **options)


async def test_every_connection_is_made_by_the_users_function(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    service = Passwords()
    async with Durably(postgres_url, connect=service.connect) as durably, durably.worker([add]):
        assert await durably.trigger_and_wait(add, 1, timeout=20) == 2
        count = postgres_server.execute(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{postgres_url.rpartition('/')[2]}'"
        )
        await eventually(lambda: len(service.calls) >= 5)  # three lanes, the keeper, the listener
        assert int(count) <= len(service.calls)
    assert set(service.calls) == {postgres_url}


@pytest.mark.parametrize(("lease", "seconds"), [(None, 10), (60, 10), (3, 3), (0.3, 1)])
async def test_a_connection_is_given_up_within_a_lease(postgres_url: str, lease: float | None, seconds: float) -> None:
    found: list[float] = []

    async def connect(dsn: str, **options: Any) -> Any:
        found.append(options["timeout"])
        return await asyncpg.connect(dsn, **options)

    span = None if lease is None else timedelta(seconds=lease)
    async with Durably(postgres_url, connect=connect, lease=span):
        pass
    assert set(found) == {seconds}


async def test_new_credentials_are_used_as_soon_as_a_connection_is_lost(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    service = Passwords()
    name = postgres_url.rpartition("/")[2]
    async with Durably(postgres_url, connect=service.connect) as durably, durably.worker([add]):
        assert await durably.trigger_and_wait(add, 1, timeout=20) == 2
        service.valid = "second"
        await asyncio.to_thread(
            postgres_server.execute,
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        assert await within(durably.trigger_and_wait(add, 2, timeout=40), seconds=40) == 3
    assert service.known == "second"


async def test_with_a_real_password_that_changes_the_runs_go_on(postgres_server: PostgresServer) -> None:
    """The server of the tests trusts everybody, so the role itself is what is renewed: the old one may not log in."""
    roles = iter(["rotated_a", "rotated_b"])
    url = postgres_server.create_database()
    for role in ("rotated_a", "rotated_b"):
        postgres_server.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} SUPERUSER LOGIN")
    current = next(roles)

    async def connect(dsn: str, **options: Any) -> Any:
        return await asyncpg.connect(dsn, user=current, **options)

    plain = url.replace("postgres@", "")
    async with Durably(plain, connect=connect) as durably, durably.worker([add]):
        assert await durably.trigger_and_wait(add, 1, timeout=20) == 2
        postgres_server.execute("ALTER ROLE rotated_a NOLOGIN")
        await asyncio.to_thread(
            postgres_server.execute,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'rotated_a'",
        )
        waiting = asyncio.create_task(durably.trigger_and_wait(add, 2, timeout=40))
        current = next(roles)
        assert await waiting == 3
    postgres_server.drop_database(url)


async def test_a_function_that_fails_makes_the_database_unavailable_without_saying_why(postgres_url: str) -> None:
    async def connect(dsn: str, **options: Any) -> Any:
        raise KeyError(f"no such secret: {SECRET}")

    with pytest.raises(DatabaseUnavailable, match="connect= raised KeyError") as caught:
        await Durably(postgres_url, connect=connect).get_runs()
    assert SECRET not in str(caught.value)


async def test_a_function_that_returns_something_else_is_named(postgres_url: str) -> None:
    with pytest.raises(
        ValidationError, match=r"^connect: must be an async function that returns an asyncpg connection"
    ):
        await Durably(postgres_url, connect=lambda *_, **__: "no connection").get_runs()


def test_sqlite_takes_neither_connect_nor_listen_url(tmp_path: object) -> None:
    for option in ({"connect": asyncpg.connect}, {"listen_url": "postgresql://host/x"}):
        with pytest.raises(ValidationError, match="is for PostgreSQL alone"):
            Durably("sqlite:///x.db", **option)  # pyright: ignore[reportArgumentType] - one of both
    with pytest.raises(ValidationError, match=r"^connect: must be an async function"):
        Durably("postgresql://host/x", connect="asyncpg")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - wrong on purpose


# --- listen_url= ------------------------------------------------------------------------------------


async def test_the_direct_address_is_for_listening_alone(postgres_url: str) -> None:
    direct = f"{postgres_url}?application_name=direct"
    seen: list[str] = []

    async def connect(dsn: str, **options: Any) -> Any:
        seen.append(dsn)
        return await asyncpg.connect(dsn, **options)

    async with Durably(postgres_url, listen_url=direct, connect=connect) as durably, durably.worker([add]):
        assert await durably.trigger_and_wait(add, 1, timeout=20) == 2
        await eventually(lambda: direct in seen)
    assert seen.count(direct) >= 1
    assert seen.count(postgres_url) >= 3


async def test_the_probe_says_whether_listen_hears(postgres_url: str) -> None:
    found = await probe(parse_url(postgres_url), SystemEnvironment())
    assert (found.hears, found.is_pooled, found.wal_bytes) == (True, False, None)


class Deaf:
    """A connection behind a pooler: LISTEN succeeds and hears nothing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def add_listener(self, channel: str, callback: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_a_connection_that_does_not_hear_is_found(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from durably.store import postgres_connect  # noqa: PLC0415 - to replace what it has

    real = postgres_connect.connect
    monkeypatch.setattr("durably.store.probe.HEARD_WITHIN", 0.05)

    async def connect(*arguments: Any, listening: bool = False, **options: Any) -> Any:
        made = await real(*arguments, listening=listening, **options)
        return Deaf(made) if listening else made

    monkeypatch.setattr(postgres_connect, "connect", connect)
    durably = Durably(postgres_url)
    found = {finding.check: finding for finding in await durably.diagnose()}["wake-ups"]
    assert found.level == "warning"
    assert "listen_url=" in str(found.remedy)
    await durably.close()


# --- passwords --------------------------------------------------------------------------------------


BAD_URLS = [
    f"postgresql://user:{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://user:{SECRET}@127.0.0.1:1,127.0.0.1:2/jobs",
    f"postgresql://user:{SECRET}@no-such-host.invalid/jobs",
    f"postgresql://user@127.0.0.1:1/jobs?password={SECRET}",
    f"postgresql://user:{SECRET}@127.0.0.1:1/jobs?sslmode=nonsense",
    f"postgresql://user:{SECRET}@127.0.0.1:1/jobs?sslmode=verify-full&sslrootcert=/no/such/file",
    f"postgresql://user:{SECRET}@127.0.0.1:1/jobs?target_session_attrs=nonsense",
    f"postgresql://user:{SECRET}@127.0.0.1:notaport/jobs",
    f"postgresql://user:pass/{SECRET}@127.0.0.1/jobs",
    f"postgresql://user:pass#{SECRET}@127.0.0.1/jobs",
    f"postgresql://user:pass?{SECRET}@127.0.0.1:1/jobs",
    f"postgresql://user:{SECRET}%zz@127.0.0.1:1/jobs",
    f"mysql://user:{SECRET}@host/jobs",
    f"user:{SECRET}@host/jobs",
    f"postgresql:/user:{SECRET}@host/jobs",
    f"sqlite:///jobs.db?password={SECRET}",
]


def everything_said(error: BaseException) -> str:
    """What a traceback in a log would show, causes included."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("url", BAD_URLS)
async def test_no_url_shows_its_password_when_it_leads_nowhere(url: str, caplog: pytest.LogCaptureFixture) -> None:
    said = ""
    with caplog.at_level(logging.DEBUG):
        try:
            durably = Durably(url)
        except DurablyError as error:
            said += everything_said(error)
        else:
            said += repr(durably) + str(durably) + repr(vars(durably))
            try:
                await durably.get_runs()
            except (DurablyError, ValueError, OSError) as error:
                said += everything_said(error)
            await durably.close()
    assert said
    assert SECRET not in said + caplog.text


async def test_a_worker_that_cannot_connect_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        worker = Durably(BAD_URLS[0]).worker([add])
        with pytest.raises(DatabaseUnavailable) as caught:
            await worker.start()
    assert SECRET not in everything_said(caught.value) + caplog.text + repr(worker)


async def test_a_wrong_password_is_refused_without_being_shown(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres_url.replace("postgres@", f"no_such_role:{SECRET}@")
    with caplog.at_level(logging.DEBUG), pytest.raises(DatabaseUnavailable, match="no_such_role") as caught:
        await Durably(url).get_runs()
    assert SECRET not in everything_said(caught.value) + caplog.text


async def test_what_works_shows_no_password_either(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    url = postgres_url.replace("postgres@", f"postgres:{SECRET}@")
    with caplog.at_level(logging.DEBUG):
        async with Durably(url, listen_url=url) as durably, durably.worker([add]) as worker:
            await durably.trigger_and_wait(add, 1, timeout=20)
            database = open_database(url, environment=SystemEnvironment())
            shown = [repr(each) for each in (durably, worker, vars(durably), database, vars(database), parse_url(url))]
            shown += [str(finding) for finding in await durably.diagnose()]
    assert "postgres:***@" in shown[0]
    assert SECRET not in "".join(shown) + caplog.text


def test_a_password_in_the_url_of_a_setting_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as caught:
        Durably.from_env({"DURABLY_URL": f"postgres:{SECRET}@host"})
    assert SECRET not in everything_said(caught.value)
    with pytest.raises(ValidationError) as caught:
        Durably("postgresql://host/x", listen_url=f"sqlite:///user:{SECRET}@x")
    assert caught.value.field == "listen_url"
