"""A worker process dies of SIGKILL: its runs continue elsewhere after their last stored step (G5, G6, G13)."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from durably import Durably, Job, RunFailed
from tests.processes.jobs import async_chain, chain, sync_chain
from tests.processes.points import DIE
from tests.support.processes import QUICK, Workers
from tests.support.stage import Stage
from tests.support.store import Store

SLACK = 5.0
"""Seconds that a loaded machine may add to what is measured."""
IN_TIME = QUICK["lease"] + QUICK["poll_interval"] + SLACK


@pytest.mark.parametrize(
    ("store_kind", "job"),
    [
        pytest.param("sqlite-file", chain, id="sqlite-file-async"),
        pytest.param("postgres", chain, id="postgres-async"),
        pytest.param("postgres", sync_chain, id="postgres-sync"),
    ],
    indirect=["store_kind"],
)
async def test_a_run_whose_worker_is_killed_in_a_step_repeats_only_that_step_elsewhere(
    job: Job[None, list[str]], durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G5, G6."""
    await workers.start_several(2)
    held = stage.hold("in b")
    run = await durably.trigger(job)
    victim = await held.reached()
    await workers.of(victim.pid).kill()
    died = monotonic()
    again = await stage.visited("in b", count=2)
    assert again.at - died < IN_TIME
    output = await durably.result(run, timeout=40)
    [a], [_, b], [c] = stage.at("in a"), stage.at("in b"), stage.at("in c")
    assert output == [a.made, b.made, c.made]
    assert a.pid == victim.pid != again.pid == c.pid


async def test_a_run_whose_worker_is_killed_between_two_steps_repeats_no_step(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G5, G6."""
    await workers.start_several(2)
    held = stage.hold("after b")
    run = await durably.trigger(chain)
    victim = await held.reached()
    await workers.of(victim.pid).kill()
    died = monotonic()
    again = await stage.visited("after b", count=2)
    assert again.at - died < IN_TIME
    output = await durably.result(run, timeout=40)
    assert output == [visit.made for point in ("in a", "in b", "in c") for visit in stage.at(point)]
    assert len(output) == 3
    assert [len(stage.at(f"after {name}")) for name in "abc"] == [2, 2, 1]


async def test_all_runs_of_a_killed_worker_continue_and_its_keys_are_not_leaked(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G6, G7: a slot moves with the run that holds it, so who waits for the key gets a turn, and no sooner."""
    victim = await workers.start(concurrency=10)
    held = stage.hold("in b", times=6)
    keys = ["x", "y", "z", None, None, None]
    runs = [await durably.trigger(chain, concurrency_key=key) for key in keys]
    await held.reached(6)
    waiting = [await durably.trigger(chain, concurrency_key=key) for key in "xyz"]
    [heir] = await workers.start_several(1)
    await victim.kill()
    died = monotonic()
    again = [await stage.visited("in b", run=run.id, pid=heir.pid) for run in runs]
    assert max(visit.at for visit in again) - died < IN_TIME
    await asyncio.gather(*(durably.result(run, timeout=40) for run in runs + waiting))
    assert {len(stage.at("in a", run=run.id)) for run in runs + waiting} == {1}
    for first, second in zip(runs, waiting, strict=False):
        [end], [start] = stage.at("after c", run=first.id), stage.at("in a", run=second.id)
        assert end.at < start.at


async def test_a_run_that_keeps_killing_its_worker_is_failed_and_keeps_its_steps(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G13, G12: it says why, and can be resumed when the cause is mended."""
    await workers.start_several(3, max_crashes=2)
    stage.answer("in b", DIE, times=2)
    run = await durably.trigger(chain)
    with pytest.raises(RunFailed, match="WorkerCrashed: the lease ran out 2 times without a new checkpoint"):
        await durably.result(run, timeout=40)
    assert [len(stage.at("in a")), len(stage.at("in b"))] == [1, 2]
    assert [step.name for step in await durably.get_steps(run)] == ["a"]
    await durably.resume(run)
    output = await durably.result(run, timeout=40)
    assert [output[0], output[1]] == [stage.at("in a")[0].made, stage.at("in b")[2].made]


async def test_crashes_with_a_checkpoint_in_between_are_counted_anew(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """G13: three crashes with `max_crashes=2`, but never two without progress."""
    await workers.start_several(4, max_crashes=2)
    for point in ("in a", "in b", "in c"):
        stage.answer(point, DIE)
    run = await durably.trigger(chain)
    output = await durably.result(run, timeout=40)
    assert output == [stage.at(point)[-1].made for point in ("in a", "in b", "in c")]
    assert [len(stage.at(point)) for point in ("in a", "in b", "in c")] == [2, 2, 2]
    assert len(workers.others()) == 1


async def test_hand_backs_do_not_count_as_crashes(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G13: three workers that stop in good order, then one crash; `max_crashes` is 2."""
    await workers.start_several(5, max_crashes=2, grace=0)
    held = stage.hold("in b", times=4)
    run = await durably.trigger(async_chain)
    for count in (1, 2, 3):
        visit = await held.reached(count)
        assert await workers.of(visit.pid).stop() == 0
    last = await held.reached(4)
    assert (await store.get(run.id)).crashes == 0
    await workers.of(last.pid).kill()
    await durably.result(run, timeout=40)
    stored = await store.get(run.id)
    assert (stored.generation, stored.attempt) == (5, 2)
