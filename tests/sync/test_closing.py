"""Closing a `SyncDurably` beside threads, and loops, that use it."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durably import Event, Step, SyncDurably, UsageError, job
from durably.sync.portal import Portal
from tests.sync.waiting import thread_of, until_waiting

SECONDS = 60.0
ROUNDS = 25


@pytest.fixture
def durably(tmp_path: Path) -> SyncDurably:
    """Give one on SQLite: what is closed does not depend on the database."""
    return SyncDurably(f"sqlite:///{tmp_path}/jobs.db")


def test_threads_may_use_and_close_it_at_the_same_time(durably: SyncDurably) -> None:
    def use() -> None:
        for _ in range(ROUNDS):
            with suppress(UsageError):
                durably.get_runs(limit=1)

    def close() -> None:
        for _ in range(ROUNDS):
            durably.close()

    with ThreadPoolExecutor(6) as pool:
        busy = [pool.submit(fn) for fn in (use, use, use, use, close, close)]
        done, hanging = wait(busy, SECONDS)
        assert not hanging
        for one in done:
            one.result()
    assert durably.get_runs() == []
    durably.close()


def test_who_meets_a_close_is_told_so(durably: SyncDurably) -> None:
    said = set[str]()

    def use() -> None:
        for _ in range(ROUNDS):
            try:
                durably.get_runs(limit=1)
            except UsageError as error:
                said.add(str(error))

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(use) for _ in range(3)]
        while not all(one.done() for one in busy):
            durably.close()
    assert said <= {"this SyncDurably was closed while it was used"}
    durably.close()


def test_a_call_that_comes_while_the_thread_ends_goes_to_the_next_one(
    durably: SyncDurably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hand-over is the moment that counts: a stop may not come between the choice of a loop and that."""
    hand_over = asyncio.run_coroutine_threadsafe
    closing: list[threading.Thread] = []

    def slowly(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
        if not closing:
            closing.append(threading.Thread(target=durably.close))
            closing[0].start()
            closing[0].join(0.2)  # which would end it, if it could
        return hand_over(work, loop)

    durably.open()
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slowly)
    with ThreadPoolExecutor(1) as pool, suppress(UsageError):
        pool.submit(durably.get_runs).result(SECONDS)
    closing[0].join(SECONDS)
    assert durably.get_runs() == []
    durably.close()


def test_an_async_job_cannot_close_what_it_works_in(durably: SyncDurably) -> None:
    @job("closes")
    async def closes(step: Step) -> str:
        with pytest.raises(UsageError, match="its own event loop"):
            durably.close()
        return "refused"

    with durably.worker([closes]):
        assert durably.trigger_and_wait(closes, timeout=SECONDS) == "refused"
    durably.close()


def test_who_waits_in_a_loop_of_somebody_else_is_told_when_that_is_closed(durably: SyncDurably) -> None:
    waits = threading.Event()

    def wait_for_ever() -> object:
        run = durably.trigger("nobody-has-it")
        waits.set()
        return durably.wait(run)

    async def begin(pool: ThreadPoolExecutor) -> Future[object]:
        await durably.asynchronous.open()
        waiting = pool.submit(wait_for_ever)
        await asyncio.to_thread(waits.wait, SECONDS)
        return waiting

    with ThreadPoolExecutor(1) as pool:
        waiting = asyncio.run(begin(pool))
        with pytest.raises(UsageError, match="closed"):
            waiting.result(SECONDS)
    assert len(durably.get_runs()) == 1  # which closes what was left open there
    durably.close()


def test_a_loop_that_is_closed_without_a_word_keeps_nobody_waiting() -> None:
    loop = asyncio.new_event_loop()

    async def never() -> None:
        """Nothing runs this loop any more."""

    portal = Portal(lambda: None, never, lambda: loop)
    with ThreadPoolExecutor(1) as pool:
        thread = thread_of(pool)
        waiting = pool.submit(portal.call, never)
        until_waiting(thread)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of the call that nothing runs
            loop.close()
        with pytest.raises(UsageError, match="closed"):
            waiting.result(SECONDS)
    with pytest.raises(UsageError, match="closed"):
        portal.call(never)


def test_closing_a_stream_ends_the_loop_of_the_thread_that_reads_it(durably: SyncDurably) -> None:
    stream = durably.events(after=0)
    with durably, ThreadPoolExecutor(1) as pool:
        thread = thread_of(pool)
        durably.trigger("job")
        assert next(stream).type == "run:trigger"
        reading = pool.submit(list[Event], stream)
        until_waiting(thread)
        stream.close()
        assert reading.result(SECONDS) == []
        stream.close()


def test_closing_between_two_events_is_told_to_who_reads_on(durably: SyncDurably) -> None:
    stream = durably.events(after=0)
    run = durably.trigger("job")
    durably.trigger("job")
    assert next(stream).run_id == run.id
    durably.close()
    with pytest.raises(UsageError, match="its SyncDurably was closed: make a new one, `after` its last event"):
        next(stream)
    stream.close()
    assert list(stream) == []
    durably.close()
