"""Lists of runs: filters, and pages that stay put."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from types import MappingProxyType

import pytest

from durably.model import RunFilter, RunStatus, StoredRun
from durably.store import overview, runs
from tests.support.bulk import run_id
from tests.support.store import Store, ids

PENDING, LEASED, FAILED = RunStatus.PENDING, RunStatus.LEASED, RunStatus.FAILED


async def listed(store: Store, **conditions: object) -> list[StoredRun]:
    return await store.database.read(runs.list_runs(RunFilter(**conditions)))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the conditions of each test


async def a_mixture(store: Store) -> dict[str, StoredRun]:
    """One run of each kind that the filters tell apart, oldest first."""
    return {
        "failed": await store.in_status(FAILED, job="a", labels={"x": "1", "y": "1"}),
        "leased": await store.in_status(LEASED, job="b", labels={"x": "1"}, concurrency_key="k"),
        "plain": await store.trigger(job="a"),
        "labelled": await store.trigger(job="c", labels={"x": "2"}, concurrency_key="k"),
    }


async def test_runs_are_listed_newest_first(store: Store) -> None:
    triggered = [await store.trigger() for _ in range(4)]
    assert ids(await listed(store)) == ids(triggered)[::-1]
    assert await listed(store) == triggered[::-1]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, ["labelled", "plain", "leased", "failed"]),
        ({"jobs": ("a",)}, ["plain", "failed"]),
        ({"jobs": ("a", "b", "a", "absent")}, ["plain", "leased", "failed"]),
        ({"statuses": (PENDING,)}, ["labelled", "plain"]),
        ({"statuses": (FAILED, LEASED, FAILED)}, ["leased", "failed"]),
        ({"labels": {"x": "1"}}, ["leased", "failed"]),
        ({"labels": {"x": "1", "y": "1"}}, ["failed"]),
        ({"labels": {"x": "3"}}, []),
        ({"concurrency_key": "k"}, ["labelled", "leased"]),
        ({"jobs": ("a",), "statuses": (PENDING, LEASED)}, ["plain"]),
        ({"jobs": ("a", "b"), "labels": {"x": "1"}}, ["leased", "failed"]),
        ({"statuses": (PENDING, LEASED), "labels": {"x": "1"}}, ["leased"]),
        ({"labels": {"x": "2"}, "concurrency_key": "k"}, ["labelled"]),
        ({"jobs": ("b",), "statuses": (LEASED,), "labels": {"x": "1"}, "concurrency_key": "k"}, ["leased"]),
        ({"jobs": ("b",), "statuses": (LEASED,), "labels": {"x": "1"}, "concurrency_key": "other"}, []),
    ],
)
async def test_a_filter_finds_what_meets_all_its_conditions(
    store: Store, conditions: dict[str, object], names: list[str]
) -> None:
    mixture = await a_mixture(store)
    assert ids(await listed(store, **conditions)) == [mixture[name].id for name in names]


@pytest.mark.parametrize(
    "conditions",
    [{}, {"jobs": ("a", "b")}, {"statuses": (PENDING, LEASED)}, {"labels": {"x": "1"}}, {"concurrency_key": "k"}],
)
async def test_pages_follow_one_another_whatever_is_added_meanwhile(
    store: Store, conditions: dict[str, object]
) -> None:
    options = {"labels": {"x": "1"}, "concurrency_key": "k"}
    triggered = [await store.trigger(job="ab"[place % 2], **options) for place in range(7)]
    pages: list[str] = []
    while page := await listed(store, limit=3, before=pages[-1] if pages else None, **conditions):
        pages += ids(page)
        await store.trigger(job="a", **options)
    assert pages == ids(triggered)[::-1]


async def test_pages_miss_nothing_while_others_insert(store: Store) -> None:
    triggered = [await store.trigger() for _ in range(30)]
    other = await store.another()

    async def insert() -> None:
        for _ in range(40):
            await other.submit(runs.enqueue, store.new())

    async def read_pages() -> list[str]:
        pages = [triggered[-1].id]
        while page := await listed(store, limit=2, before=pages[-1]):
            pages += ids(page)
        return pages

    _, pages = await asyncio.gather(insert(), read_pages())
    assert pages == ids(triggered)[::-1]


async def test_a_page_has_no_more_than_its_limit(store: Store) -> None:
    for _ in range(4):
        await store.trigger(labels={"x": "1"})
    for conditions in ({}, {"jobs": ("job", "b")}, {"statuses": (PENDING, LEASED)}, {"labels": {"x": "1"}}):
        assert len(await listed(store, limit=3, **conditions)) == 3


# --- many jobs, each with runs in every status -------------------------------------------------------

MANY = 360
TEMPOS: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {
        "in turn": lambda place: place % 12,
        "in bursts": lambda place: place // 30,
        "unevenly": lambda place: place % 24 // 13,
    }
)
"""How a run's place tells its job."""
STATUSES = tuple(RunStatus)


@dataclass(frozen=True, slots=True)
class Placed:
    """What a list says of a run."""

    id: str
    job: str
    status: RunStatus


def placed(tempo: str) -> list[Placed]:
    """Runs of some jobs, newest first, of which the statuses follow one another unevenly."""
    jobs = TEMPOS[tempo]
    return [
        Placed(run_id(place + 1), f"j{jobs(place):02}", STATUSES[place * place % 7 % len(STATUSES)])
        for place in reversed(range(MANY))
    ]


async def placed_in(store: Store, tempo: str) -> list[Placed]:
    made = placed(tempo)
    at = "now()" if store.is_postgres else "1"
    ended = {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}
    values = [
        f"('{one.id}', '{one.job}', '1', '{one.status}', 1, {at}, {at if one.status in ended else 'NULL'})"
        for one in made
    ]
    columns = "id, job, input, status, rank, created_at, completed_at"
    await store.sql(f"INSERT INTO {{runs}} ({columns}) VALUES {', '.join(values)}")
    return made


def filters() -> Iterator[RunFilter]:
    """Every kind of list: of no, one, some and all jobs and statuses, from three places on."""
    jobs = ((), ("j01",), ("j11", "j00", "absent"), tuple(f"j{place:02}" for place in range(12)))
    statuses = ((), (RunStatus.FAILED,), (RunStatus.PENDING, RunStatus.COMPLETED), STATUSES[1:], STATUSES)
    for some, which, before in product(jobs, statuses, (None, run_id(200), run_id(7))):
        yield RunFilter(jobs=some, statuses=which, before=before)


def meeting(which: RunFilter, every: list[Placed]) -> list[str]:
    """The ids of those that meet the filter, newest first."""
    return [
        one.id
        for one in every
        if (not which.jobs or one.job in which.jobs)
        and (not which.statuses or one.status in which.statuses)
        and (which.before is None or one.id < which.before)
    ]


@pytest.mark.parametrize("tempo", TEMPOS)
async def test_a_page_is_the_newest_of_all_that_meet_the_filter(store: Store, tempo: str) -> None:
    every = await placed_in(store, tempo)
    for which, limit in product(filters(), (1, 7, 100, 1000)):
        page = await store.database.read(runs.list_runs(replace(which, limit=limit)))
        assert ids(page) == meeting(which, every)[:limit], (which, limit)


@pytest.mark.parametrize("tempo", TEMPOS)
async def test_a_place_in_a_list_is_that_of_the_whole_list(store: Store, tempo: str) -> None:
    every = await placed_in(store, tempo)
    for which in filters():
        whole = meeting(which, every)
        for offset in (1, 2, 40, len(whole), len(whole) + 1, 1 << 40):
            found = await store.database.read(overview.skip_runs(which, offset=max(offset, 1)))
            assert found == (whole[offset - 1] if 0 < offset <= len(whole) else None), (which, offset)


@pytest.mark.parametrize("tempo", TEMPOS)
async def test_counts_are_those_of_all_that_meet_the_filter(store: Store, tempo: str) -> None:
    every = await placed_in(store, tempo)
    by_id = {one.id: one for one in every}
    for which in filters():
        whole = [by_id[each] for each in meeting(which, every)]
        counts = await store.database.read(overview.count_runs(which, within=timedelta(days=1)))
        found = [(job, status) for job, several in counts.by_job.items() for status in several]
        assert sorted(found) == sorted({(one.job, one.status) for one in whole})
        numbers = {pair: counts.by_job[pair[0]][pair[1]] for pair in found}
        assert numbers == {pair: [(one.job, one.status) for one in whole].count(pair) for pair in found}
        pending = [one.id for one in whole if one.status is PENDING]
        assert (counts.oldest_pending and counts.oldest_pending.id) == (pending[-1] if pending else None)
