"""A KeyboardInterrupt inside a job ends the process, but hands the run back first."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from durably.environment import SystemEnvironment
from durably.jobs import job
from durably.runtime.context import Step, SyncStep
from durably.store.database import open_database
from tests.support.bench import Bench


def press() -> None:
    raise KeyboardInterrupt


@job("press")
async def pressed(step: Step) -> None:
    await step.run("first", lambda: 1)
    await step.run("press", press)


@job("press-sync")
def pressed_too(step: SyncStep) -> None:
    step.run("first", lambda: 1)
    step.run("press", press)


@pytest.mark.parametrize("which", [pressed, pressed_too], ids=["async", "sync"])
def test_a_keyboard_interrupt_hands_the_run_back_and_goes_on(tmp_path: Path, which: object) -> None:
    job_ = pressed if which is pressed else pressed_too

    async def main() -> None:
        database = open_database(f"sqlite:///{tmp_path}/k.db", environment=SystemEnvironment())
        await database.open()
        try:
            bench = Bench(database)
            await bench.trigger(job_)
            await bench.worker(job_).process_one()
        finally:
            await database.close()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    with sqlite3.connect(tmp_path / "k.db") as connection:
        [row] = connection.execute("SELECT status, attempt, crashes FROM durably_runs").fetchall()
        assert row == ("pending", 0, 0)
        assert connection.execute("SELECT name FROM durably_steps WHERE status = 'completed'").fetchall() == [
            ("first",)
        ]
    connection.close()
