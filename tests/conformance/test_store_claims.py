"""G3: one owner. Claims, leases that run out, crashes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from durably.model import Lease, LeaseState, RunStatus
from durably.store import leases
from durably.store.operation import Lane
from tests.support.store import EXPIRED, LEASE, Store, a_checkpoint, ids


async def test_a_claim_leases_the_oldest_runs_first(store: Store) -> None:
    triggered = [await store.trigger() for _ in range(5)]
    claimed = await store.claim(limit=3)
    assert ids(claimed) == ids(triggered[:3])
    assert {(run.status, run.generation, run.attempt) for run in claimed} == {(RunStatus.LEASED, 1, 1)}


async def test_a_claimed_run_says_who_holds_it_until_when(store: Store) -> None:
    run = await store.leased()
    assert run.lease_owner == "me"
    assert run.started_at is not None
    assert run.lease_expires_at == run.started_at + LEASE


async def test_many_claimers_at_once_never_share_a_run(store: Store) -> None:
    triggered = await store.enqueue_batch(*(store.new() for _ in range(60)))
    databases = await store.others(6)
    claims = [store.claim(limit=7, database=database) for database in databases for _ in range(3)]
    claimed = [run.id for got in await asyncio.gather(*claims) for run in got]
    claimed += ids(await store.claim(limit=60))
    assert sorted(claimed) == sorted(item.run.id for item in triggered)
    assert await store.value("SELECT count(*) FROM {events} WHERE type = 'run:leased'") == 60


async def test_a_claim_takes_no_more_than_its_limit_beside_other_claimers(store: Store) -> None:
    await store.enqueue_batch(*(store.new(f"job-{place % 3}") for place in range(150)))
    databases = await store.others(6)
    jobs = ("job-0", "job-1", "job-2")
    claims = (store.claim(*jobs, limit=3, database=database) for database in databases for _ in range(5))
    sizes = [len(got) for got in await asyncio.gather(*claims)]
    assert max(sizes) == 3
    assert await store.value("SELECT count(*) FROM {runs} WHERE status = 'leased'") == sum(sizes)


async def test_a_claim_passes_over_runs_of_other_jobs(store: Store) -> None:
    await store.trigger(job="unserved")
    mine = await store.trigger(job="mine")
    assert ids(await store.claim("mine", "absent")) == [mine.id]


async def test_jobs_are_served_by_age_across_their_names(store: Store) -> None:
    triggered = [await store.trigger(job=job) for job in ("b", "a", "c", "a", "b")]
    assert ids(await store.claim("a", "b", "c", limit=4)) == ids(triggered[:4])


async def test_naming_a_job_twice_changes_nothing(store: Store) -> None:
    triggered = [await store.trigger() for _ in range(3)]
    assert ids(await store.claim("job", "job", limit=2)) == ids(triggered[:2])


async def test_a_floor_leaves_out_what_ranks_before_it(store: Store) -> None:
    early, late = await store.trigger(), await store.trigger()
    floor = await store.value(f"SELECT rank FROM {{runs}} WHERE id = '{late.id}'")
    assert ids(await store.claim(floor=floor)) == [late.id]
    assert ids(await store.claim()) == [early.id]


async def test_a_claim_in_doubt_is_read_back_by_its_token(store: Store) -> None:
    await store.enqueue_batch(store.new(), store.new(), store.new())
    token = store.environment.new_id()
    claim = leases.claim(["job"], limit=2, owner="me", token=token, lease=LEASE)
    claimed = await store.database.run(claim, lane=Lane.FAST)
    await store.claim(limit=1)
    assert await store.database.run(leases.claimed(["job"], token=token)) == claimed


async def test_a_live_lease_is_nobodys_to_take(store: Store) -> None:
    await store.leased()
    assert await store.claim() == []
    assert await store.claim_expired() == []


async def test_an_expired_lease_is_taken_over_with_a_new_generation_and_counted(store: Store) -> None:
    run = await store.leased()
    again = await store.taken_over(run)
    assert (again.generation, again.attempt, again.crashes, again.lease_owner) == (2, 2, 1, "other")
    assert again.started_at == run.started_at
    assert await store.event_types(run) == ["run:trigger", "run:leased", "run:leased"]


async def test_an_expired_lease_is_taken_over_once(store: Store) -> None:
    await store.enqueue_batch(*(store.new() for _ in range(20)))
    await store.claim(limit=20, lease=EXPIRED)
    databases = await store.others(5)
    takers = (store.claim_expired(limit=6, database=database) for database in databases for _ in range(2))
    taken = [run.id for got in await asyncio.gather(*takers) for run in got]
    assert len(taken) == len(set(taken)) == 20


async def test_taking_over_respects_its_limit_and_its_jobs(store: Store) -> None:
    triggered = [await store.trigger(job=job) for job in ("a", "b", "a", "a")]
    await store.claim("a", "b", lease=EXPIRED)
    assert ids(await store.claim_expired("a", limit=2)) == [triggered[0].id, triggered[2].id]


async def test_live_leases_do_not_stand_before_expired_ones(store: Store) -> None:
    live = [await store.leased() for _ in range(3)]
    expired = await store.leased()
    await store.expire(expired)
    assert ids(await store.claim_expired(limit=1)) == [expired.id]
    assert [(await store.get(run)).generation for run in live] == [1, 1, 1]


async def test_whoever_takes_over_leaves_out_what_it_executes_itself(store: Store) -> None:
    mine, theirs, also_mine = [await store.leased() for _ in range(3)]
    await store.expire(mine, theirs, also_mine)
    held = [mine.id, also_mine.id, store.environment.new_id()]
    assert ids(await store.claim_expired(limit=2, held=held)) == [theirs.id]
    assert [(await store.get(run)).generation for run in (mine, theirs, also_mine)] == [1, 2, 1]
    assert await store.event_types(mine) == ["run:trigger", "run:leased"]


async def test_a_new_checkpoint_forgets_the_crashes(store: Store) -> None:
    run = await store.taken_over(await store.taken_over(await store.leased()))
    assert run.crashes == 2
    await store.store(a_checkpoint(run))
    assert (await store.get(run)).crashes == 0


async def test_a_write_without_a_completed_step_forgets_no_crash(store: Store) -> None:
    run = await store.taken_over(await store.leased())
    await store.write(run, 1)
    assert (await store.get(run)).crashes == 1


async def test_a_run_that_crashed_too_often_is_not_claimed_but_failed(store: Store) -> None:
    run = await store.taken_over(await store.leased())
    await store.expire(run)
    assert await store.claim_expired(max_crashes=2) == []
    [failed] = await store.fail_crashed(max_crashes=2)
    assert (failed.id, failed.status, failed.crashes) == (run.id, RunStatus.FAILED, 2)
    assert failed.error is not None
    assert failed.error.type == "WorkerCrashed"
    assert (await store.event_types(run))[-1] == "run:fail"


async def test_a_run_that_crashed_less_often_is_not_failed(store: Store) -> None:
    run = await store.taken_over(await store.leased())
    await store.expire(run)
    assert await store.fail_crashed(max_crashes=3) == []
    assert [got.crashes for got in await store.claim_expired(max_crashes=3)] == [2]


async def test_a_crashed_run_that_was_renewed_meanwhile_is_not_failed(store: Store) -> None:
    run = await store.leased()
    await store.expire(run)
    found = await store.database.read(leases.crashed(["job"], max_crashes=1, limit=10))
    await store.database.run(leases.renew([Lease(run.id, run.generation)], lease=LEASE))
    assert ids(found) == [run.id]
    assert await store.database.run(leases.fail_crashed(found, max_crashes=1)) == []
    assert (await store.get(run)).status is RunStatus.LEASED


async def test_failing_a_crashed_run_passes_its_slot_on(store: Store) -> None:
    run = await store.leased(concurrency_key="k")
    waiting = await store.trigger(concurrency_key="k")
    await store.expire(run)
    await store.fail_crashed(max_crashes=1)
    assert ids(await store.claim()) == [waiting.id]
    assert await store.is_sound()


async def test_a_renewal_extends_the_lease_from_now(store: Store) -> None:
    run = await store.leased()
    [state] = await store.database.run(leases.renew([Lease(run.id, 1)], lease=timedelta(hours=1)))
    renewed = (await store.get(run)).lease_expires_at
    assert state is LeaseState.RENEWED
    assert renewed is not None
    assert run.started_at is not None
    assert renewed >= run.started_at + timedelta(hours=1)


async def test_a_late_renewal_succeeds_when_nobody_was_faster(store: Store) -> None:
    run = await store.leased()
    await store.expire(run)
    assert await store.database.run(leases.renew([Lease(run.id, 1)], lease=LEASE)) == [LeaseState.RENEWED]
    assert await store.claim_expired() == []


async def test_a_look_at_leases_tells_those_that_are_not_in_force_and_changes_nothing(store: Store) -> None:
    live, late, lost, cancelled, ended = [await store.leased() for _ in range(5)]
    await store.taken_over(lost)
    await store.cancel(cancelled)
    await store.end(ended)
    await store.expire(late)
    before = await store.snapshot()
    asked = [Lease(run.id, 1) for run in (cancelled, live, late, lost, ended)]
    absent = Lease(store.environment.new_id(), 1)
    found = await store.database.read(leases.lapsed([*asked, absent]))
    assert found == {
        asked[0]: LeaseState.CANCELLED,
        asked[2]: LeaseState.BUSY,
        asked[3]: LeaseState.LOST,
        asked[4]: LeaseState.LOST,
        absent: LeaseState.LOST,
    }
    assert await store.snapshot() == before


async def test_a_renewal_tells_what_became_of_each_lease_in_order(store: Store) -> None:
    live, lost, cancelled, ended = [await store.leased() for _ in range(4)]
    await store.taken_over(lost)
    await store.cancel(cancelled)
    await store.end(ended)
    asked = [Lease(run.id, 1) for run in (cancelled, live, lost, ended)] + [Lease(store.environment.new_id(), 1)]
    states = await store.database.run(leases.renew(asked, lease=LEASE))
    gone = LeaseState.LOST
    assert states == [LeaseState.CANCELLED, LeaseState.RENEWED, gone, gone, gone]
