"""SQLite's log: it is emptied when nobody is disturbed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from durably import Step, job
from durably.store.care import shrink_wal
from durably.store.operation import Operation
from tests.conformance.care_jobs import other, work
from tests.support.app import App, MakeApp, within
from tests.support.bench import Gate, eventually


def wal_size(app: App) -> int:
    return Path(f"{app.url.removeprefix('sqlite:///')}-wal").stat().st_size


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_an_idle_worker_empties_the_write_ahead_log(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durably.runtime.maintenance.WAL_SECONDS", 0.05)
    app = await make_app()
    await app.durably.trigger_many(other, [None] * 500)
    assert wal_size(app) > 0

    async def is_empty() -> bool:
        return wal_size(app) == 0

    async with app.durably.worker([work]):  # the runs of `other` stay: nothing else is written
        await eventually(is_empty)
    assert len(await app.durably.get_runs(limit=1000)) == 500


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_the_log_is_left_alone_while_a_run_is_executed(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.maintenance.WAL_SECONDS", 0.01)
    asked: list[None] = []

    def shrink() -> Operation[bool]:
        asked.append(None)
        return shrink_wal()

    monkeypatch.setattr("durably.runtime.maintenance.shrink_wal", shrink)
    app = await make_app()
    gate = Gate()

    @job("holds")
    async def holds(step: Step) -> None:
        await gate.wait()

    run = await app.durably.trigger(holds)
    async with app.durably.worker([holds]):
        await within(gate.reached.wait())
        asked.clear()
        for _ in range(20):
            await app.durably.get_runs(limit=1)
        assert asked == []
        gate.opened.set()
        await app.wait(run)
        await eventually(lambda: asked)


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_a_reader_keeps_the_log_and_harms_nobody(app: App) -> None:
    await app.durably.trigger_many(other, [None] * 100)
    reader = sqlite3.connect(app.url.removeprefix("sqlite:///"), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM durably_runs").fetchall()
    await app.durably.trigger(other)
    assert await app.outside.database.read(shrink_wal()) is False
    reader.close()
    assert await app.outside.database.read(shrink_wal()) is True
    assert wal_size(app) == 0


@pytest.mark.parametrize("store_kind", ["sqlite-memory", "postgres"], indirect=True)
async def test_where_there_is_no_such_log_nothing_is_done(app: App) -> None:
    assert await app.outside.database.read(shrink_wal()) is True
