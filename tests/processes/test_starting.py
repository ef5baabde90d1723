"""Worker processes come up: many at once, of different releases, before their database, and while others work."""

from __future__ import annotations

from pathlib import Path

import pytest

from durably import Durably, RunStatus
from tests.processes.jobs import chain, short
from tests.processes.later_jobs import from_the_next_release
from tests.support.processes import JOBS, READY, Workers
from tests.support.stage import Stage
from tests.support.store import Store

LATER = "tests.processes.later_jobs"


async def test_eight_processes_that_start_at_once_on_an_empty_database_all_serve(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """Migrations are applied once, whoever comes first; each worker gets a run that only it can take."""
    loaded = stage.hold("loaded", times=8)
    started = [await workers.launch(concurrency=1, lease=30, waits_when_loaded=True) for _ in range(8)]
    await loaded.reached(8)
    loaded.release()
    for worker in started:
        await worker.says(READY, seconds=30)
    held = stage.hold("start", times=8)
    runs = await durably.trigger_many(short, [None] * 8)
    await held.reached(8)
    assert {visit.pid for visit in held.visits} == {worker.pid for worker in started}
    held.release()
    for run in runs:
        await durably.result(run, timeout=40)


async def test_a_worker_leaves_alone_the_runs_of_jobs_that_it_does_not_know(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """A rolling deploy: neither waiting runs nor those of a dead worker are touched before the new release is here."""
    new = await workers.start(jobs=[LATER], concurrency=1, max_crashes=2)
    began = await stage.held_at("in a", durably.trigger(from_the_next_release))
    waiting = await durably.trigger(from_the_next_release)
    old = await workers.start(jobs=JOBS, concurrency=1, max_crashes=2)
    known = await stage.held_at("in b", durably.trigger(chain))
    await new.kill()
    await old.kill()
    heir = await workers.start(jobs=JOBS, max_crashes=1)
    await durably.wait(known, timeout=40)  # failed as crashed: so it looks for expired leases, and those have expired
    await durably.result(await durably.trigger(short), timeout=40)
    untouched = [await store.get(run.id) for run in (began, waiting)]
    assert [(run.status, run.generation) for run in untouched] == [(RunStatus.LEASED, 1), (RunStatus.PENDING, 0)]

    await workers.start(jobs=[*JOBS, LATER])
    for run in (began, waiting):
        assert await durably.result(run, timeout=40) == stage.at("in a", run=run.id)[-1].made
    assert not stage.at("in a", pid=heir.pid)


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_a_worker_waits_for_a_database_that_is_not_there_yet(tmp_path: Path, workers: Workers) -> None:
    """It says so, does not spin, and serves when the folder appears; before that it can be stopped."""
    folder = tmp_path / "later"
    url = f"sqlite:///{folder}/jobs.db"
    patient, impatient = [await workers.launch(url=url) for _ in range(2)]
    await impatient.says("trying again")
    assert await impatient.stop() == 0
    await patient.says("trying again", count=2)
    folder.mkdir()
    await patient.says(READY)
    assert len(patient.said("trying again")) < 5
    async with Durably(url) as durably:
        assert await durably.trigger_and_wait(short, timeout=40) == "go"
