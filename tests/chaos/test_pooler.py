"""Behind a real PgBouncer in transaction mode: what is served, and what `doctor` says of wake-ups."""

from __future__ import annotations

import pytest

from chaos.pgbouncer import PgBouncer
from durably import Durably, Step, job


@job("add")
async def add(step: Step, n: int) -> int:
    return await step.run("one", lambda: n + 1, returns=int)


@pytest.mark.parametrize("is_direct", [False, True])
async def test_doctor_tells_of_a_pooler_that_swallows_wake_ups(postgres_url: str, *, is_direct: bool) -> None:
    with PgBouncer(postgres_url) as pooler:
        async with Durably(pooler.url, listen_url=postgres_url if is_direct else None) as durably:
            [found] = [finding for finding in await durably.diagnose() if finding.check == "wake-ups"]
    assert found.level == ("ok" if is_direct else "warning")
    assert is_direct or "listen_url=" in (found.remedy or "")


async def test_several_processes_of_one_pooler_serve(postgres_url: str) -> None:
    with PgBouncer(postgres_url) as pooler:
        async with (
            Durably(pooler.url) as one,
            Durably(pooler.url) as two,
            one.worker([add]),
            two.worker([add]),
        ):
            runs = [*await one.trigger_many(add, range(20)), *await two.trigger_many(add, range(20))]
            assert [await one.result(run, timeout=60) for run in runs] == [*range(1, 21)] * 2
