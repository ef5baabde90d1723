"""Listeners hear the events of this process, and harm nobody."""

from __future__ import annotations

import asyncio
import logging

import pytest

from durably.model import Event, EventType
from durably.runtime import listeners as module
from durably.runtime.listeners import Listeners


def event(kind: EventType = EventType.RUN_TRIGGER, run_id: str = "r") -> Event:
    return Event(type=kind, run_id=run_id, job="j", labels={})


def test_a_listener_hears_its_type_only_until_it_unsubscribes() -> None:
    listeners, heard = Listeners(), list[Event]()
    unsubscribe = listeners.on(EventType.RUN_TRIGGER, heard.append)
    listeners.emit(event())
    listeners.emit(event(EventType.RUN_CANCEL))
    unsubscribe()
    unsubscribe()
    listeners.emit(event())
    assert [one.type for one in heard] == [EventType.RUN_TRIGGER]


def test_a_failing_listener_is_logged_and_disturbs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    listeners, heard = Listeners(), list[Event]()

    def fail(_: Event) -> None:
        raise ValueError("broken")

    listeners.on(EventType.RUN_TRIGGER, fail)
    listeners.on(EventType.RUN_TRIGGER, heard.append)
    with caplog.at_level(logging.ERROR):
        listeners.emit(event())
    assert len(heard) == 1
    assert "broken" in caplog.text


def test_a_listener_may_unsubscribe_while_it_is_called() -> None:
    listeners, heard = Listeners(), list[Event]()

    def once(one: Event) -> None:
        unsubscribe()
        heard.append(one)

    unsubscribe = listeners.on(EventType.RUN_TRIGGER, once)
    listeners.on(EventType.RUN_TRIGGER, heard.append)
    listeners.emit(event())
    listeners.emit(event())
    assert len(heard) == 3


async def test_an_async_listener_gets_events_in_order(caplog: pytest.LogCaptureFixture) -> None:
    listeners, heard = Listeners(), list[str]()

    async def listen(one: Event) -> None:
        await asyncio.sleep(0)
        if one.run_id == "1":
            raise ValueError("broken")
        heard.append(one.run_id)

    listeners.on(EventType.RUN_TRIGGER, listen)
    for number in range(4):
        listeners.emit(event(run_id=str(number)))
    await listeners.close()
    assert heard == ["0", "2", "3"]
    assert "broken" in caplog.text
    listeners.emit(event(run_id="4"))
    await listeners.close()
    assert heard == ["0", "2", "3", "4"]


async def test_a_slow_async_listener_loses_events_not_memory(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUE", 2)
    listeners, heard = Listeners(), list[str]()

    async def listen(one: Event) -> None:
        heard.append(one.run_id)
        await asyncio.Event().wait()

    listeners.on(EventType.RUN_TRIGGER, listen)
    for number in range(4):
        listeners.emit(event(run_id=str(number)))
    await listeners.close(timeout=0)
    assert heard in ([], ["0"])
    assert caplog.text.count("too slow") == 2
