"""A Durably on each database, and the end of a run without a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias

import pytest

from durably.app import Durably
from durably.environment import SystemEnvironment
from durably.model import Ending, Lease, Run, RunError, RunStatus, RunWrite, StepRecord, StepStatus
from durably.store.database import open_database
from durably.store.leases import claim
from durably.store.steps import store_write

Finish: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
async def durably(url: str) -> AsyncIterator[Durably]:
    async with Durably(url) as opened:
        yield opened


@pytest.fixture
def finish(url: str) -> Finish:
    """Give a stand-in for a worker of another process: it claims one run and ends it."""

    async def finish(
        run: Run[object], *, output_json: str | None = None, error: RunError | None = None, steps: tuple[str, ...] = ()
    ) -> None:
        environment = SystemEnvironment()
        database = open_database(url, environment=environment)
        await database.open()
        token = environment.new_id()
        [leased] = await database.run(claim([run.job], limit=1, owner="test", token=token, lease=timedelta(seconds=30)))
        lease, at = Lease(leased.id, leased.generation), environment.now()
        records = tuple(
            StepRecord(
                run_id=leased.id, name=name, position=place, status=StepStatus.COMPLETED, output_json="1", error=None,
                generation=leased.generation, started_at=at, completed_at=at,
            )
            for place, name in enumerate(steps)
        )  # fmt: skip
        status = RunStatus.FAILED if error else RunStatus.COMPLETED
        ending = Ending(status=status, output_json=None if error else output_json, error=error)
        write = RunWrite(lease=lease, number=1, concurrency_key=leased.concurrency_key, steps=records, ending=ending)
        await store_write(database, write)
        await database.close()

    return finish
