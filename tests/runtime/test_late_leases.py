"""Leases that ran out in the hands of a worker that is alive, as they do when the database was away."""

from __future__ import annotations

from datetime import UTC, datetime

from durably.jobs import job
from durably.model import RunStatus
from durably.runtime.context import Step
from tests.support.bench import Bench, Gate, eventually
from tests.support.store import Store


async def test_a_lease_that_its_living_holder_renews_late_is_no_crash(bench: Bench, store: Store) -> None:
    """The keeper comes back to it after its backoff; the look for crashed runs is often sooner."""
    gate = Gate()

    @job("patient")
    async def patient(step: Step) -> str:
        await step.run("wait", gate.wait)
        return "done"

    async with bench.worker(patient, max_crashes=1):
        run = await bench.trigger(patient)
        await gate.reached.wait()
        for _ in range(5):
            await store.expire(await bench.run(run))

            async def is_renewed() -> bool:
                now = await bench.run(run)
                return now.lease_expires_at is None or now.lease_expires_at > datetime.now(UTC)

            await eventually(is_renewed)
        gate.opened.set()
        ended = await bench.until(run)

    assert (ended.status, ended.generation, ended.crashes) == (RunStatus.COMPLETED, 1, 0)
