"""Customers who trigger runs, wait for their end, and trigger the next ones, whatever happens to the database."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chaos.jobs import Work
from durably import DatabaseUnavailable, Durably, Job, Run, RunStatus, UsageError, WrongStatus

T = TypeVar("T")

AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer may trigger."""

    job: Job[Work, list[str]]
    work: Work
    priority: int = 0


@dataclass(slots=True)
class Load:
    """Customers, and what they were told."""

    durably: Durably
    orders: Sequence[Order]
    acknowledged: dict[str, str] = field(default_factory=dict[str, str])
    keys: dict[str, str | None] = field(default_factory=dict[str, str | None])
    resumed: set[str] = field(default_factory=set[str])
    to_cancel: set[str] = field(default_factory=set[str])
    cancelled: dict[str, float] = field(default_factory=dict[str, float])
    heard: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    resumes: int = 0
    retriggers: int = 0
    cancelling: float = 0.0
    """How likely a customer is to cancel what was triggered."""
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the subscriber may connect."""
    _is_over: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    _customers: int = 0

    def start(self, customers: int) -> None:
        """Let so many customers come."""
        for _ in range(customers):
            self._customers += 1
            self._tasks.append(asyncio.create_task(self._visit(self._customers)))

    def close_the_shop(self) -> None:
        """Nobody triggers anything any more."""
        self._is_over = True

    async def over(self) -> None:
        """Return when every customer has gone; raises what one of them could not bear."""
        await asyncio.gather(*self._tasks)

    async def leave(self) -> None:
        """Give up whatever the customers still do."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Hear every event, for ever."""
        after = 0
        self.is_open.set()
        while True:
            await self.is_open.wait()
            with suppress(UsageError):  # it was closed meanwhile
                async with aclosing(self.durably.events(after=after)) as events:
                    async for event in events:
                        if event.seq is not None:
                            self.heard.append((event.run_id, event.seq))
                            after = event.cursor or after

    async def trigger(self, order: Order, key: str) -> Run[list[str]]:
        """Trigger, as often as it takes."""
        run = await patient(
            lambda: self.durably.trigger(order.job, order.work, idempotency_key=key, priority=order.priority)
        )
        self.acknowledged[key] = run.id
        self.keys[run.id] = order.work.key
        return run

    async def _visit(self, number: int) -> None:
        count = 0
        while not self._is_over:
            count += 1
            run = await self.trigger(random.choice(self.orders), f"{number}-{count}")
            if random.random() < self.cancelling:
                await self._cancel(run)
            await self._served(run)

    async def _cancel(self, run: Run[Any]) -> None:
        self.to_cancel.add(run.id)
        try:
            await patient(lambda: self.durably.cancel(run))
        except WrongStatus as error:
            if error.status is not RunStatus.CANCELLED:  # else by this one, whose first answer was lost
                return  # it was faster
        self.cancelled[run.id] = time.time()

    async def _served(self, run: Run[Any]) -> None:
        """Wait for the end. What failed is resumed; what fails again is triggered again."""
        ended = await patient(lambda: self.durably.wait(run))
        if ended.status is not RunStatus.FAILED:
            return
        self.resumed.add(run.id)
        try:
            await patient(lambda: self.durably.resume(run))
        except WrongStatus:
            return
        self.resumes += 1
        again = await patient(lambda: self.durably.wait(run))
        if again.status is RunStatus.FAILED and not self._is_over:
            self.retriggers += 1
            await patient(lambda: self.durably.retrigger(run))


async def patient(act: Callable[[], Awaitable[T]]) -> T:
    """Do it, again and again while the database is away."""
    while True:
        try:
            return await act()
        except DatabaseUnavailable:
            await asyncio.sleep(AGAIN_SECONDS)
