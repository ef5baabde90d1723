"""The load: triggers of all kinds at a steady rate, cancels, resumes and retriggers; and a reader of the event feed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.soak import jobs
from durably import Conflict, DatabaseUnavailable, Durably, Event, EventType, NotFound

REMEMBERED = 500
"""Runs that may be cancelled, resumed or retriggered; a cancel takes the newest long one."""
ACCOUNTS = 20
ENDS = frozenset({EventType.RUN_COMPLETE, EventType.RUN_FAIL, EventType.RUN_CANCEL})
_KINDS = (("quick", 36), ("steps", 24), ("keyed", 16), ("flaky", 8), ("long", 6), ("threaded", 5), ("parent", 5))


class Load:
    """What one process of an application does, through the public API."""

    def __init__(self, durably: Durably, *, rate: float, seed: int) -> None:
        self._durably = durably
        self._rate = rate
        self._chance = random.Random(seed)
        self._long: deque[str] = deque(maxlen=REMEMBERED)
        self._failed: deque[str] = deque(maxlen=REMEMBERED)
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self._number = 0
        self.triggered = 0
        self.did: Counter[str] = Counter()
        """Cancels and so on that found something to do, errors of the database, and events."""
        self.lags: list[float] = []
        """Milliseconds from an event to its reader, since they were last taken."""

    # --- what it does ---------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Keep the rate. What is late is not made up for: a load that waits is no load."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (now := loop.time()) < until:
            async with asyncio.TaskGroup() as group:
                for act in self._acts():
                    group.create_task(self._try(act))
                group.create_task(asyncio.sleep(min(self._chance.expovariate(self._rate) * 3, until - now)))

    def _acts(self) -> list[Callable[[], Awaitable[object]]]:
        """Three triggers, and now and then something else."""
        acts: list[Callable[[], Awaitable[object]]] = [self._trigger] * 3
        for share, act in ((0.15, self._cancel), (0.3, self._resume), (0.1, self._retrigger)):
            if self._often(share):
                acts.append(act)
        return acts

    async def _try(self, act: Callable[[], Awaitable[object]]) -> None:
        """What the state of a run refuses is no error; an outage that lasts is counted."""
        try:
            await act()
        except (Conflict, NotFound):
            self.did["refused"] += 1
        except DatabaseUnavailable:
            self.did["database away"] += 1

    async def _trigger(self) -> None:
        self._number += 1
        names, weights = zip(*_KINDS, strict=True)
        [name] = self._chance.choices(names, weights)
        job = getattr(jobs, name)
        given = self._chance.randrange(ACCOUNTS) if name == "keyed" else self._number
        run = await self._durably.trigger(
            job, self._chance.uniform(1, 8) if name == "long" else given, **self._options(name)
        )
        self.triggered += 1
        if name == "long":
            self._long.append(run.id)

    def _options(self, name: str) -> dict[str, Any]:
        """Labels, priorities, start times, keys: each now and then."""
        chance = self._chance
        options: dict[str, Any] = {}
        if self._often(0.5):
            options["labels"] = {"kind": name}
        if self._often(0.2):
            options["priority"] = chance.randrange(-5, 6)
        if self._often(0.1):
            options["delay"] = timedelta(seconds=chance.uniform(0.2, 5))
        if self._often(0.1):
            options["idempotency_key"] = f"key-{self._number}"
        if name == "keyed" and self._often(0.2):
            options["if_pending"] = "skip"
        return options

    def _often(self, share: float) -> bool:
        return self._chance.random() < share

    async def _cancel(self) -> None:
        if self._long:
            await self._durably.cancel(self._long.pop())
            self.did["cancels"] += 1

    async def _resume(self) -> None:
        if self._failed:
            await self._durably.resume(self._failed.popleft())
            self.did["resumes"] += 1

    async def _retrigger(self) -> None:
        if self._ended:
            await self._durably.retrigger(self._chance.choice(self._ended))
            self.did["retriggers"] += 1

    # --- what it sees ---------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read all events, from wherever they come, and note how late they are."""
        cursor: int | None = None
        while True:
            try:
                async with aclosing(self._durably.events(after=cursor)) as events:
                    async for event in events:
                        cursor = event.cursor
                        self._see(event)
            except DatabaseUnavailable:
                self.did["feed interrupted"] += 1

    def _see(self, event: Event) -> None:
        self.did["events"] += 1
        if event.created_at is not None:
            self.lags.append((datetime.now(UTC) - event.created_at) / timedelta(milliseconds=1))
        if event.type in ENDS:
            self.did["ends"] += 1
            self._ended.append(event.run_id)
        if event.type is EventType.RUN_FAIL:
            self._failed.append(event.run_id)

    def take_lags(self) -> list[float]:
        """How late events were since the last call, in milliseconds."""
        taken, self.lags = self.lags, []
        return taken
