"""How an event loop hands work to the thread of a SQLite connection: what is given up, and a loop that is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from durably.environment import SystemEnvironment
from durably.store.operation import Rows
from durably.store.sqlite import _Connection  # pyright: ignore[reportPrivateUsage] - the thread itself is tested
from durably.store.url import parse_url


@pytest.fixture
def connection() -> Iterator[_Connection]:
    made = _Connection(parse_url("sqlite://"), SystemEnvironment(), "test")
    yield made
    asyncio.run(made.close())


class Blocked:
    """Work that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> list[Rows]:
        self.begun.set()
        assert self.go.wait(30)
        return []


def test_a_loop_that_was_closed_meanwhile_leaves_the_thread_to_others(connection: _Connection) -> None:
    blocked = Blocked()

    async def leave() -> None:
        waiter = asyncio.create_task(connection.call(blocked))
        await asyncio.to_thread(blocked.begun.wait, 30)
        waiter.cancel()

    asyncio.run(leave())
    blocked.go.set()
    assert asyncio.run(connection.call(lambda: [()])) == [()]


async def test_work_that_nobody_waits_for_is_not_begun(connection: _Connection) -> None:
    blocked, begun = Blocked(), threading.Event()

    def begin() -> list[Rows]:
        begun.set()
        return []

    first = asyncio.create_task(connection.call(blocked))
    await asyncio.to_thread(blocked.begun.wait, 30)
    second = asyncio.create_task(connection.call(begin))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    blocked.go.set()
    assert await first == []
    assert await connection.call(list) == []
    assert not begun.is_set()


async def test_an_answer_that_comes_after_its_waiter_left_harms_nobody(connection: _Connection) -> None:
    blocked, faults = Blocked(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    waiter = asyncio.create_task(connection.call(blocked))
    await asyncio.to_thread(blocked.begun.wait, 30)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    blocked.go.set()
    assert await connection.call(lambda: [()]) == [()]
    assert faults == []


async def test_an_error_reaches_the_one_who_waits(connection: _Connection) -> None:
    def fail() -> list[Rows]:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await connection.call(fail)
