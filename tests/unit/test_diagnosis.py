"""What the facts about a database mean: each check, from what it reads to what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from durably.model import (
    AppliedMigration,
    Condition,
    Connections,
    ExpiredLeases,
    Finding,
    IndexSize,
    Level,
    ServerState,
    TableSize,
    WaitingJob,
)
from durably.rules.diagnosis import diagnose

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MIB = 1024 * 1024


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def a_server(**fields: object) -> ServerState:
    state = ServerState(is_vacuuming=True, oldest_transaction=None, slot_bytes=None)
    return replace(state, **fields)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - named by the test


def a_table(**fields: object) -> TableSize:
    table = TableSize(name="durably.runs", entries=0, dead=0, bytes=0, is_vacuumed=True, vacuumed_at=None)
    return replace(table, **fields)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - named by the test


WELL = Condition(
    is_server=True,
    now=NOW,
    skew=timedelta(0),
    uncertainty=timedelta(milliseconds=1),
    migrations=(AppliedMigration(version=1, name="initial", serves=1, applied_at=NOW),),
    newest=1,
    connections=Connections(hears=True),
    tables=(a_table(entries=1000, dead=900),),
    indexes=(IndexSize(name="i", bytes=MIB, expected=1),),
    server=a_server(oldest_transaction=timedelta(minutes=1), slot_bytes=MIB),
)
WAITING = WaitingJob(job="mail", runs=1, since=ago(minutes=5), is_served=False)
LATE = ExpiredLeases(job="mail", runs=2, since=ago(minutes=3))
NEWER = AppliedMigration(version=2, name="next", serves=1, applied_at=NOW)


def findings(**fields: object) -> list[Finding]:
    condition = replace(WELL, **fields)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - named by the test
    return [finding for finding in diagnose(condition) if finding.level is not Level.OK]


def test_nine_checks_say_that_all_is_well() -> None:
    assert findings() == []
    assert len(diagnose(WELL)) == 9


@pytest.mark.parametrize(
    ("fields", "check", "level", "says", "remedy"),
    [
        ({"migrations": (NEWER,)}, "schema", "warning", "schema version 2, this durably knows 1", "upgrade"),
        ({"skew": timedelta(seconds=90)}, "clock", "warning", "90 s ahead of", "NTP"),
        ({"skew": timedelta(seconds=-4)}, "clock", "warning", "4 s behind", "NTP"),
        ({"connections": Connections(hears=False)}, "wake-ups", "warning", "LISTEN hears nothing", "listen_url="),
        ({"drifted_keys": tuple("abcdefg")}, "slots", "problem", "a, b, c, d, e and 2 more", "worker"),
        ({"expired": (LATE,)}, "leases", "problem", "2 runs of 'mail' expired up to 3 min ago", "start a worker"),
        ({"waiting": (WAITING,)}, "jobs", "warning", "1 run of 'mail' waiting for 5 min, and none", "start a worker"),
        ({"waiting": (WAITING,), "served": frozenset({"x"})}, "jobs", "problem", "no job here", "cancel them"),
        (
            {"waiting": (replace(WAITING, runs=1000),)},
            "jobs", "warning", "1000 or more runs of 'mail'", "slot",
        ),
        (
            {"tables": (a_table(entries=30_000, dead=20_000),)},
            "bloat", "warning", "20,000 dead rows beside 30,000 live ones; never vacuumed", "VACUUM durably.runs",
        ),
        (
            {"tables": (a_table(entries=30_000, dead=20_000, vacuumed_at=NOW),)},
            "bloat", "warning", "last vacuumed 2026-01-02 03:04", "VACUUM durably.runs",
        ),
        (
            {"indexes": (IndexSize(name="i", bytes=90 * MIB, expected=20 * MIB),)},
            "bloat", "warning", "index i takes 90 MiB where about 20 MiB would do", "REINDEX INDEX CONCURRENTLY i",
        ),
        (
            {"is_server": False, "tables": (a_table(name="the file", entries=10_000, dead=6_000, bytes=40 * MIB),)},
            "bloat", "warning", "24 MiB of the 40 MiB of the file are free", "VACUUM",
        ),
        ({"server": a_server(is_vacuuming=False)}, "autovacuum", "problem", "off on this server", "ALTER SYSTEM"),
        (
            {"tables": (a_table(is_vacuumed=False),)},
            "autovacuum", "problem", "off for durably.runs", "ALTER TABLE durably.runs RESET",
        ),
        (
            {"server": a_server(oldest_transaction=timedelta(hours=5))},
            "autovacuum", "warning", "open for 5 h", "pg_stat_activity",
        ),
        (
            {"server": a_server(oldest_transaction=timedelta(days=3))},
            "autovacuum", "warning", "open for 3 days", "pg_stat_activity",
        ),
        ({"connections": Connections(wal_bytes=65 * MIB)}, "wal", "warning", "has 65 MiB", "long reads"),
        ({"server": a_server(slot_bytes=2048 * MIB)}, "wal", "warning", "keeps 2 GiB", "pg_drop_replication_slot"),
    ],
)  # fmt: skip
def test_a_check_says_what_is_wrong_and_what_to_do(
    fields: dict[str, object], check: str, level: str, says: str, remedy: str
) -> None:
    [found] = findings(**fields)
    assert (found.check, found.level) == (check, level)
    assert says in found.message
    assert remedy in str(found.remedy)


@pytest.mark.parametrize(
    "fields",
    [
        {"skew": timedelta(seconds=3), "uncertainty": timedelta(seconds=3)},
        {"connections": Connections(hears=None, wal_bytes=63 * MIB)},
        {"expired": (replace(LATE, since=ago(seconds=9)),)},
        {"waiting": (replace(WAITING, since=ago(seconds=59)),)},
        {"waiting": (replace(WAITING, is_served=True),)},
        {"waiting": (replace(WAITING, is_served=True),), "served": frozenset({"mail"})},
        {"tables": (a_table(entries=100_000, dead=20_000),)},
        {"indexes": (IndexSize(name="i", bytes=50 * MIB, expected=20 * MIB),)},
        {"is_server": False, "tables": (a_table(entries=10_000, dead=4_000),)},
        {"server": a_server(oldest_transaction=timedelta(minutes=9), slot_bytes=1000 * MIB)},
    ],
)
def test_what_is_usual_is_not_reported(fields: dict[str, object]) -> None:
    assert findings(**fields) == []
