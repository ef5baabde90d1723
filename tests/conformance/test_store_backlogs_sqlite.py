"""G14 on SQLite, backlog by backlog: the instructions of a claim are the same in front of a thousand and of many.

The operations are run through the engine as they are; SQLite counts the instructions of its machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from bench.backlog.measure import OPERATIONS, Subject
from bench.backlog.scenarios import Scenario
from tests.support.store import Store, inner_engine, private

FEW, MANY = 1_000, 20_000
KINDS = ("pending", "finished", "behind", "unserved", "later")
FINE = 1.1
"""What many may cost over few: the counts hardly ever differ at all."""


class Counted(Subject):
    """A subject of the benchmark that counts instructions in place of milliseconds."""

    async def timed(self, name: str, act: Callable[[], Awaitable[Any]]) -> Any:
        count = [0]

        def step() -> int:
            count[0] += 1
            return 0

        raw: sqlite3.Connection = private(private(inner_engine(self.database), "_writer"), "_raw")
        raw.set_progress_handler(step, 1)
        try:
            return await act()
        finally:
            raw.set_progress_handler(None, 0)
            self.times.setdefault(name, []).append(count[0])


@asynccontextmanager
async def counted(kind: str, size: int) -> AsyncGenerator[tuple[Store, Counted]]:
    async with Store("sqlite-memory", "sqlite:///:memory:") as store:
        scenario = Scenario(key=kind, title=kind, **{kind: size})  # pyright: ignore[reportArgumentType] - a field's name
        for text in scenario.statements("sqlite"):
            await store.sql(text)
        yield store, Counted(scenario, store.database, store.url, "sqlite")


async def costs(kind: str, size: int, *, analyze: bool) -> dict[str, float]:
    """Instructions of each operation, once the engine has learnt its calls."""
    async with counted(kind, size) as (store, subject):
        if analyze:
            await store.sql("ANALYZE")
        for _ in range(3):
            await subject.turn()
        return {name: values[-1] for name, values in subject.times.items()}


@pytest.mark.parametrize("analyze", [False, True], ids=["plain", "analyzed"])
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_costs_more_in_front_of_a_longer_backlog(kind: str, *, analyze: bool) -> None:
    few, many = [await costs(kind, size, analyze=analyze) for size in (FEW, MANY)]
    assert set(many) == set(OPERATIONS)
    assert {name: many[name] for name in many if many[name] > few[name] * FINE} == {}


@pytest.mark.parametrize("analyze", [False, True], ids=["plain", "analyzed"])
async def test_a_claim_looks_at_no_more_than_it_may_take_of_each_job(*, analyze: bool) -> None:
    """In front of a backlog there are ten candidates of each of ten jobs, else ten in all: a factor, and no growth."""
    none, many = [await costs("pending", size, analyze=analyze) for size in (0, MANY)]
    assert many["claim"] < none["claim"] * 3


async def test_an_operation_that_walks_a_backlog_would_be_noticed() -> None:
    walks: list[float] = []
    for size in (FEW, MANY):
        async with counted("pending", size) as (store, subject):
            await subject.timed("walk", partial(store.sql, "SELECT max(rank) FROM {runs}"))
            walks += subject.times["walk"]
    assert walks[1] > walks[0] * 5
