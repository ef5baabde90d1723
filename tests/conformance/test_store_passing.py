"""Which errors of PostgreSQL pass, by the class of their SQLSTATE: what was asked is asked again. Others are told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from durably import DatabaseRefused
from durably.store import runs
from tests.support.store import Store

pytestmark = pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)

TWICE = 2
PASSING = {
    "08000": "the connection is broken",
    "08006": "the connection failed",
    "08P01": "a pooler lost its place in the protocol",
    "25006": "a standby takes no writes",
    "25P03": "too long idle in a transaction",
    "25P04": "a transaction took too long",
    "26000": "a pooler has another session",
    "40001": "a conflict with another transaction",
    "40P01": "a deadlock",
    "42P05": "a pooler has a session that is known",
    "53000": "something is used up",
    "53100": "the disk is full",
    "53200": "the memory is full",
    "53300": "there are too many connections",
    "53400": "a limit of the configuration",
    "57014": "a query was cancelled",
    "57P01": "the server is shut down",
    "57P02": "the server crashed",
    "57P03": "the server starts",
    "57P05": "a session was idle for too long",
    "57P99": "a way of being shut down that the driver does not know yet",
    "58000": "the system failed",
    "58030": "an I/O error",
    "58P01": "a file is not there",
    "58P02": "a file is there already",
}
LASTING = {
    "22001": "a value is too long",
    "42501": "a right is missing",
    "42P01": "a table is missing",
    "XX000": "something that cannot be",
    "XX001": "a corrupted page: asking again would hide it, and read what is wrong",
    "XX002": "a corrupted index: the same",
}


@asynccontextmanager
async def refusing(store: Store, state: str) -> AsyncGenerator[None]:
    """Let the server refuse the first writes of runs with this error."""
    await store.sql("CREATE SEQUENCE durably.refusals")
    await store.sql(
        "CREATE FUNCTION durably.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('durably.refusals') <= {TWICE} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END IF;"
        " RETURN NEW; END $$"
    )
    await store.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON durably.runs FOR EACH ROW EXECUTE FUNCTION durably.refuse()"
    )
    try:
        yield
    finally:
        await store.sql("DROP FUNCTION durably.refuse() CASCADE")
        await store.sql("DROP SEQUENCE durably.refusals")


@pytest.mark.parametrize("state", PASSING, ids=lambda state: f"{state}: {PASSING[state]}")
async def test_a_passing_error_is_outlived(store: Store, state: str) -> None:
    async with refusing(store, state):
        run = await store.trigger()
        assert await store.value("SELECT last_value FROM durably.refusals") == TWICE + 1
    assert await store.exists(run)


@pytest.mark.parametrize("state", LASTING, ids=lambda state: f"{state}: {LASTING[state]}")
async def test_a_lasting_error_is_told_at_once(store: Store, state: str) -> None:
    async with refusing(store, state):
        with pytest.raises(DatabaseRefused, match=r"^the database refuses: refused$") as caught:
            await store.database.submit(runs.enqueue, store.new(), timeout=30)
        assert await store.value("SELECT last_value FROM durably.refusals") == 1
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
    assert caught.value.__cause__.sqlstate == state
    await store.trigger()
