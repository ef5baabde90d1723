"""A trigger wakes the workers of other processes: nobody waits for the poll."""

from __future__ import annotations

from pathlib import Path

import pytest

from durably import Durably
from tests.processes.jobs import short
from tests.support.processes import Workers
from tests.support.stage import Stage


@pytest.fixture(params=["sqlite-file", "sqlite-file-far-away", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a database; the second one lies too deep for the path of a socket, so its version is looked at."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    folder = tmp_path if request.param == "sqlite-file" else tmp_path / ("%64eep" * 20)
    folder.mkdir(exist_ok=True)
    return f"sqlite:///{folder}/jobs.db"


@pytest.fixture
def store_kind(store_url: str) -> str:
    return "postgres" if store_url.startswith("postgres") else "sqlite-file"


async def test_a_trigger_in_another_process_wakes_an_idle_worker(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """The worker polls every hour, so what starts at all was told of."""
    await workers.start(poll_interval=3600, lease=60)
    for count in range(1, 6):
        run = await durably.trigger(short)
        await stage.visited("start", count=count)
        await durably.result(run, timeout=40)
