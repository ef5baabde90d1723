"""How an event loop hands work to the thread of a SQLite connection: what is given up, and a loop that is gone."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator

import pytest

from durably.environment import SystemEnvironment
from durably.store import sqlite_forks
from durably.store.operation import Rows
from durably.store.sqlite_connection import SqliteConnection
from durably.store.url import parse_url


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    made = SqliteConnection(parse_url("sqlite://"), SystemEnvironment(), "test")
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


def test_a_loop_that_was_closed_meanwhile_leaves_the_thread_to_others(connection: SqliteConnection) -> None:
    blocked = Blocked()

    async def leave() -> None:
        waiter = asyncio.create_task(connection.call(blocked))
        await asyncio.to_thread(blocked.begun.wait, 30)
        waiter.cancel()

    asyncio.run(leave())
    blocked.go.set()
    assert asyncio.run(connection.call(lambda: [()])) == [()]


async def test_work_that_nobody_waits_for_is_not_begun(connection: SqliteConnection) -> None:
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


async def test_an_answer_that_comes_after_its_waiter_left_harms_nobody(connection: SqliteConnection) -> None:
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


async def test_an_error_reaches_the_one_who_waits(connection: SqliteConnection) -> None:
    def fail() -> list[Rows]:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await connection.call(fail)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_until_the_thread_is_outside(connection: SqliteConnection) -> None:
    """A child would find a mutex of SQLite locked for ever."""
    blocked, children = Blocked(), list[int]()
    in_thread = threading.Thread(target=lambda: asyncio.run(connection.call(blocked)))
    forking = threading.Thread(target=lambda: children.append(fork()))
    in_thread.start()
    assert blocked.begun.wait(30)
    forking.start()
    while forking.is_alive() and not is_in(forking, sqlite_forks.__file__):  # bounded by the test's timeout
        pass
    assert children == []
    blocked.go.set()
    forking.join()
    in_thread.join()
    assert children == [0]


def fork() -> int:
    """Fork a child that ends at once. Returns its exit code."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_in(thread: threading.Thread, file: str) -> bool:
    """Whether a thread is in code of a file at the moment."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells
    return any(each.filename == file for each in traceback.extract_stack(frame)) if frame else False
