"""A step blocks the event loop of its worker, which the guide says not to do: nothing is lost by it (G3)."""

from __future__ import annotations

from durably import Durably
from tests.processes.jobs import blocking, chain
from tests.support.processes import QUICK, Workers, until
from tests.support.stage import Stage
from tests.support.store import Store


async def test_a_blocked_event_loop_loses_no_lease_and_its_culprit_is_named(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G3: for three leases nobody answers in the loop, while an idle worker takes what a dead one left behind."""
    dying = await workers.start(concurrency=1)
    orphan = await stage.held_at("in b", durably.trigger(chain))
    blocked = await workers.start(concurrency=1)
    held = stage.hold("blocks the loop")
    run, _ = await durably.trigger(blocking), await held.reached()
    idle = await workers.start()
    await dying.kill()
    first = (await store.get(run.id)).lease_expires_at
    assert first is not None

    async def has_been_renewed() -> bool:
        last = (await store.get(run.id)).lease_expires_at
        return last is not None and (last - first).total_seconds() > 3 * QUICK["lease"]

    await until(has_been_renewed, "three more leases")
    await stage.visited("in b", run=orphan.id, pid=idle.pid)
    line = await blocked.says("the event loop has been blocked")
    assert f"step 'block' of run {run.id}" in line

    held.release()
    await durably.result(run, timeout=40)
    stored = await store.get(run.id)
    assert (stored.generation, stored.crashes, len(held.visits)) == (1, 0, 1)
    assert len(stage.at("blocks the loop")) == 1
    await blocked.says("the event loop works again")
