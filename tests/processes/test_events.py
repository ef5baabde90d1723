"""Events of runs that other processes execute, read in this one (G9)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing

from durably import Durably, Event, EventType, Run
from tests.processes.jobs import QUICK_EVENTS, quick
from tests.support.processes import Workers
from tests.support.stage import within

RUNS = 60


async def read(durably: Durably, *, after: int, limit: int) -> list[Event]:
    """Read that many events of the feed, then stop."""
    found: list[Event] = []
    async with aclosing(durably.events(job=quick, after=after)) as events:
        async for event in events:
            found.append(event)
            if len(found) == limit:
                break
    return found


async def read_in_pieces(durably: Durably, limit: int) -> list[Event]:
    """Read until that many different events were seen; go on from the cursor after every few, as a browser would."""
    found: dict[int | None, Event] = {}
    cursor = 0
    while len(found) < limit:
        page = await read(durably, after=cursor, limit=min(25, limit - len(found)))
        for event in page:
            found.setdefault(event.id, event)
        cursor = page[-1].cursor or 0
    return list(found.values())


def by_run(events: Sequence[Event]) -> dict[str, list[tuple[int | None, EventType]]]:
    """What was seen of each run, in the order in which it came."""
    seen: dict[str, list[tuple[int | None, EventType]]] = defaultdict(list)
    for event in events:
        seen[event.run_id].append((event.seq, event.type))
    return dict(seen)


async def test_a_subscriber_sees_all_events_of_other_processes_and_each_runs_in_order(
    durably: Durably, workers: Workers
) -> None:
    """G9: one reads all along, one goes on from its cursor again and again, one follows each run by itself."""
    await workers.start_several(2, concurrency=5)
    total = RUNS * len(QUICK_EVENTS)

    async def follow(run: Run[str]) -> list[Event]:
        return [event async for event in durably.events(run=run)]

    async with within(30, f"{total} events"), asyncio.TaskGroup() as group:
        steady = group.create_task(read(durably, after=0, limit=total))
        pieces = group.create_task(read_in_pieces(durably, total))
        runs = [await durably.trigger(quick) for _ in range(RUNS)]
        single = [group.create_task(follow(run)) for run in runs]

    expected = {run.id: list(enumerate(QUICK_EVENTS, start=1)) for run in runs}
    assert by_run(steady.result()) == expected
    assert by_run(pieces.result()) == expected
    assert by_run([event for task in single for event in task.result()]) == expected


async def test_whoever_waits_for_a_run_hears_of_its_end_in_another_process(durably: Durably, workers: Workers) -> None:
    """G9: `wait` and `result`, with a worker that has nothing to do but this."""
    await workers.start()
    run = await durably.trigger(quick)
    ended = await durably.wait(run, timeout=40)
    assert ended.is_terminal
    assert await durably.result(run) == ended.output
