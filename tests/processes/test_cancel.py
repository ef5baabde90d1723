"""A run is cancelled in another process than the one that executes it (G10)."""

from __future__ import annotations

from time import monotonic

import pytest

from durably import Durably, EventType, RunCancelled
from tests.processes.jobs import async_chain, attentive
from tests.support.processes import Workers, step_started
from tests.support.stage import Stage, within

DEAF = "postgresql://nobody@127.0.0.1:1/nowhere"
SECOND = 1.0


@pytest.mark.parametrize(
    ("store_kind", "is_deaf"),
    [
        pytest.param("sqlite-file", False, id="sqlite-file"),
        pytest.param("postgres", False, id="postgres"),
        pytest.param("postgres", True, id="postgres-without-wake-ups"),
    ],
    indirect=["store_kind"],
)
async def test_a_cancelled_run_is_interrupted_within_a_second_and_stores_no_further_step(
    *, is_deaf: bool, durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G10: the code sees it where it waits, and at its next step; also in a worker that hears no wake-ups."""
    worker = await workers.start(lease=30, **({"listen_url": DEAF} if is_deaf else {}))
    async with durably.events(job=async_chain) as events:
        run = await stage.held_at("in b", durably.trigger(async_chain))
        await step_started(durably, run, "b")
        await durably.cancel(run)
        done = monotonic()
        interrupted = await stage.visited("step interrupted", pid=worker.pid)
        assert interrupted.at - done < SECOND
        assert interrupted.facts["by"] in {"CancelledError", "Cancelled"}
        assert (await stage.visited("refused")).facts["by"] == "Cancelled"
        seen: list[EventType] = []
        async with within(10, "step:cancel"):
            async for event in events:
                seen.append(event.type)
                if event.type is EventType.STEP_CANCEL:
                    break
    assert seen[-2:] == [EventType.RUN_CANCEL, EventType.STEP_CANCEL]
    with pytest.raises(RunCancelled):
        await durably.result(run)
    assert await worker.stop() == 0
    assert [step.name for step in await durably.get_steps(run)] == ["a"]
    assert [event.type async for event in durably.events(run=run)] == seen


async def test_a_cancel_is_seen_by_code_in_a_thread_within_a_second(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G10: `aborted` becomes true, what the step then returns is not stored, and its next step is refused."""
    worker = await workers.start()
    run, _ = await durably.trigger(attentive), await stage.visited("in watch")
    await step_started(durably, run, "watch")
    await durably.cancel(run)
    done = monotonic()
    assert (await stage.visited("saw aborted")).at - done < SECOND
    assert (await stage.visited("interrupted")).facts["by"] == "Cancelled"
    new, _ = await durably.trigger(attentive), await stage.visited("in watch", count=2)
    await durably.cancel(new)
    await stage.visited("interrupted", count=2)
    assert await worker.stop() == 0
    assert await durably.get_steps(run) == []
