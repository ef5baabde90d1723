"""Bringing a database up to date: by call, from another process, from printed SQL."""

from __future__ import annotations

import sqlite3
from typing import Any

import asyncpg
import pytest

from durably import Durably, SchemaError
from tests.conformance.care_jobs import work


async def test_migrate_names_what_it_applied_and_finds_nothing_the_second_time(url: str) -> None:
    durably = Durably(url, migrate="check")
    with pytest.raises(SchemaError) as caught:
        await durably.get_runs()
    assert caught.value.version == 0
    applied = await durably.migrate()
    assert applied[0] == "0001 initial"
    assert await durably.migrate() == ()
    assert await durably.get_runs() == []
    await durably.close()


async def run_by_hand(url: str, text: str) -> None:
    """What an administrator does with the printed SQL."""
    if url.startswith("sqlite"):
        raw = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        raw.executescript(text)
        raw.close()
    else:
        connection: Any = await asyncpg.connect(url)
        await connection.execute(text)
        await connection.close()


async def test_the_printed_sql_makes_what_migrate_makes(url: str) -> None:
    durably = Durably(url, migrate="check")
    text = await durably.migration_sql()
    assert "CREATE TABLE" in text
    with pytest.raises(SchemaError):
        await durably.get_runs()  # printing changed nothing
    await run_by_hand(url, text)
    assert await durably.migration_sql() == ""
    assert await durably.migrate() == ()
    run = await durably.trigger(work, 1)
    await durably.worker([work]).process_until_idle()
    assert await durably.result(run) == 2
    await durably.close()


async def test_a_database_that_is_too_new_is_not_migrated(url: str) -> None:
    durably = Durably(url)
    await durably.migrate()
    prefix = "durably_" if url.startswith("sqlite") else "durably."
    await run_by_hand(url, f"UPDATE {prefix}migrations SET serves = 99;")
    for call in (durably.migrate, durably.migration_sql):
        with pytest.raises(SchemaError, match="upgrade durably") as caught:
            await call()
        assert caught.value.is_too_new
