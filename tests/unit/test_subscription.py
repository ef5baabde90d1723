"""A subscriber's buffer is bounded, and where it stopped is exact."""

from __future__ import annotations

import asyncio

import pytest

from durably.model import Event, EventType
from durably.runtime import tail
from durably.runtime.position import Position
from durably.runtime.tail import Subscription


def event(event_id: int, job: str = "j") -> Event:
    return Event(type=EventType.RUN_TRIGGER, run_id="r", job=job, labels={}, id=event_id, seq=1, cursor=event_id)


def everything(_: Event) -> bool:
    return True


async def drain(subscription: Subscription) -> list[int | None]:
    got: list[int | None] = []
    async with asyncio.timeout(1):
        while (one := await subscription.next()) is not None:
            got.append(one.id)
    return got


async def test_a_full_buffer_detaches_the_subscriber_where_the_page_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BUFFER", 2)
    subscription = Subscription(everything)
    subscription.join(Position(0, gaps={}), cursor=None)
    subscription.offer([event(1), event(2)], Position(0))
    subscription.offer([event(3)], Position(2, gaps={1: 9}))
    subscription.offer([event(4)], Position(3))
    assert await drain(subscription) == [1, 2]
    assert subscription.resume == Position(2, gaps={1: 9})


async def test_unwanted_events_fill_no_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BUFFER", 1)
    subscription = Subscription(lambda one: one.job == "mine")
    subscription.offer([event(number) for number in range(9)], Position(0))
    assert subscription.resume is None


async def test_what_was_read_before_joining_comes_no_second_time() -> None:
    subscription = Subscription(everything)
    subscription.offer([event(3), event(4), event(5)], Position(2))
    subscription.join(Position(4, gaps={3: 7}), cursor=None)
    subscription.offer([event(3), event(4), event(6)], Position(5))
    got = [await subscription.next() for _ in range(3)]
    assert [one and one.id for one in got] == [3, 5, 6]


async def test_no_cursor_passes_a_gap_that_only_the_subscriber_knew() -> None:
    subscription = Subscription(everything)
    subscription.offer([event(8)], Position(7))
    subscription.join(Position(7, gaps={4: 9}), cursor=3)
    one = await subscription.next()
    assert one is not None
    assert one.cursor == 3


async def test_a_reader_ahead_of_the_tail_resumes_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BUFFER", 1)
    subscription = Subscription(everything)
    subscription.join(Position(9, gaps={5: 3}), cursor=None)
    subscription.offer([event(10), event(11)], Position(4))
    assert subscription.resume == Position(9, gaps={5: 3})


async def test_a_reader_resumes_without_the_gaps_that_it_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BUFFER", 1)
    subscription = Subscription(everything)
    subscription.join(Position(5), cursor=None)
    subscription.offer([event(21), event(22)], Position(20, gaps={4: 9, 15: 9}))
    assert subscription.resume == Position(20, gaps={15: 9})
