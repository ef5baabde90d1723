"""Lists of runs: filters, and pages that stay put."""

from __future__ import annotations

import asyncio

import pytest

from durably.model import RunFilter, RunStatus, StoredRun
from durably.store import runs
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
