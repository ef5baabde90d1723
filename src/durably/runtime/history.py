"""Stored events as they are now, without waiting for more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from durably.errors import RunNotFound
from durably.model import Event
from durably.runtime.position import Position
from durably.runtime.tail import PAGE, read_page
from durably.store import events as store_events
from durably.store import runs as store_runs
from durably.store.care import recent_events
from durably.store.database import Database

LOOKED_THROUGH = 10_000
"""How many of the newest events are looked at for those that are wanted."""
_NEWEST = 2**62


async def run_events(database: Database, run_id: str, *, after: int | None, limit: int) -> list[Event]:
    """The first events of a run after a number, or its last ones. Raises RunNotFound when nothing is known of it."""
    start = 0 if after is None else after
    found = await database.read(store_events.run_events(run_id, after_seq=start, limit=limit))
    while after is None and len(found) == limit:
        more = await database.read(store_events.run_events(run_id, after_seq=found[-1].seq or 0, limit=limit))
        if not more:
            break
        found = [*found, *more][-limit:]
        if len(more) < limit:
            break
    if not found and await _is_unknown(database, run_id):
        raise RunNotFound(run_id)
    return found


async def _is_unknown(database: Database, run_id: str) -> bool:
    """A run that was deleted is known for as long as its events are."""
    if await database.read(store_runs.get_run(run_id)) is not None:
        return False
    return not await database.read(store_events.run_events(run_id, after_seq=0, limit=1))


async def newest_events(database: Database, wants: Callable[[Event], bool], *, limit: int) -> list[Event]:
    """The last wanted events among the newest, oldest first. Their cursor is their id."""
    found: list[Event] = []
    before, seen = _NEWEST, 0
    while len(found) < limit and seen < LOOKED_THROUGH:
        page = await database.read(recent_events(before=before, limit=PAGE))
        found += [replace(event, cursor=event.id) for event in page if wants(event)]
        seen += len(page)
        if len(page) < PAGE:
            break
        before = page[-1].id or 0
    return found[:limit][::-1]


async def next_events(database: Database, wants: Callable[[Event], bool], *, after: int) -> AsyncGenerator[Event, None]:
    """Yield the wanted events after a cursor that are stored now, in order."""
    position, is_last = Position(after), False
    while not is_last:
        page, is_last = await read_page(database, position, timeout=10)
        for event in position.advance(page, is_last=is_last):
            if wants(event):
                yield event
