"""Group commit: while one transaction is being committed, writes that arrive are collected; the next takes them all.

A caller's `await` returns after the commit that holds its write. A batch that fails is bisected, so that one bad write
cannot fail others; one that waits for a lock goes to a connection of its own, and the lane goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from durably.errors import DatabaseUnavailable
from durably.store.engine import Channel, LockTimeout
from durably.store.operation import ItemT, Operation, ResultT, T, Wake, Write, combine

Transact = Callable[[Operation[Any], Channel], Awaitable[Any]]

_MOST = 1000
"""Writes in one transaction."""
_FIRST_WAIT, _LAST_WAIT = 0.05, 2.0


@dataclass(slots=True, eq=False)
class _Entry:
    """A write that waits for its commit."""

    future: asyncio.Future[Any]
    operation: Operation[Any] | None = None
    write: Write[Any, Any] | None = None
    item: Any = None
    order: str | None = None


@dataclass(slots=True)
class _Group:
    """Entries that became one operation, and how its result is told to them."""

    entries: list[_Entry]
    operation: Operation[Any]

    def tell(self, result: object) -> Wake:
        """Hand the results out. Returns whom that concerns: nobody, when nothing was claimed or deleted."""
        results: Any = [result] if self.entries[0].write is None else result
        for entry, value in zip(self.entries, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(value)
        did_nothing = isinstance(result, list | int) and not result
        return Wake.NOBODY if did_nothing else self.operation.wakes


@dataclass(slots=True)
class _Aside:
    """Writes that left the lane, by the order key that keeps later ones behind them."""

    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    behind: dict[str, list[_Entry]] = field(default_factory=dict[str, list[_Entry]])


class Batcher:
    """One lane: a queue of writes and the task that commits them."""

    def __init__(
        self, transact: Transact, channel: Channel, wake: Callable[[Wake], None], jitter: Callable[[], float]
    ) -> None:
        self._transact = transact
        self._channel = channel
        self._wake = wake
        self._jitter = jitter
        self._queue: deque[_Entry] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._aside = _Aside()

    async def run(
        self, operation: Operation[T], timeout: float | None
    ) -> T:  # told to the caller as DatabaseUnavailable
        """The operation's result, after its commit."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return await self._submitted(_Entry(future, operation=operation), future, timeout)

    async def submit(
        self, write: Write[ItemT, ResultT], item: ItemT, timeout: float | None
    ) -> ResultT:  # told to the caller as DatabaseUnavailable
        """The item's result, after the commit of the operation that it became part of."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        entry = _Entry(future, write=write, item=item, order=write.order(item))
        return await self._submitted(entry, future, timeout)

    async def close(self) -> None:
        """Wait for what was submitted."""
        while tasks := [task for task in (self._pump, *self._aside.tasks) if task is not None and not task.done()]:
            await asyncio.wait(tasks)

    async def _submitted(self, entry: _Entry, future: asyncio.Future[T], timeout: float | None) -> T:
        self._enqueue(entry)
        if timeout is None:
            return await future
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise DatabaseUnavailable(f"no answer within {timeout:g} seconds") from error

    def _enqueue(self, entry: _Entry) -> None:
        self._queue.append(entry)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Commit batch after batch until the queue is empty."""
        while self._queue:
            entries = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
            await self._commit(entries)

    async def _commit(self, entries: Sequence[_Entry]) -> None:
        wait = _FIRST_WAIT
        while live := self._live(entries):
            entries = live
            try:
                groups, left = _grouped(live)
                self._queue.extendleft(reversed(left))
                entries = [entry for group in groups for entry in group.entries]
                await self._attempt(groups, self._channel)
            except DatabaseUnavailable as error:
                _doubt(entries, error)
                await asyncio.sleep(wait * (0.5 + self._jitter() / 2))
                wait = min(wait * 2, _LAST_WAIT)
            except LockTimeout:
                await self._split_or_step_aside(entries)
                return
            except Exception as error:  # noqa: BLE001  # whatever a statement raises belongs to the caller who sent it
                if len(entries) == 1:
                    _fail(entries[0], error)
                else:
                    await self._halves(entries)
                return
            else:
                return

    def _live(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Those that somebody waits for, without those whose predecessor stepped aside: they follow it."""
        live: list[_Entry] = []
        for entry in entries:
            behind = None if entry.order is None else self._aside.behind.get(entry.order)
            if not entry.future.done():
                (live if behind is None else behind).append(entry)
        return live

    async def _attempt(self, groups: Sequence[_Group], channel: Channel) -> None:
        operation = groups[0].operation if len(groups) == 1 else combine([group.operation for group in groups])
        result = await self._transact(operation, channel)
        results = [result] if len(groups) == 1 else result
        wake = Wake.NOBODY
        for group, value in zip(groups, results, strict=True):
            wake |= group.tell(value)
        self._wake(wake)

    async def _halves(self, entries: Sequence[_Entry]) -> None:
        middle = len(entries) // 2
        await self._commit(entries[:middle])
        await self._commit(entries[middle:])

    async def _split_or_step_aside(self, entries: Sequence[_Entry]) -> None:
        if len(entries) > 1:
            await self._halves(entries)
            return
        entry = entries[0]
        if entry.order is not None:
            self._aside.behind[entry.order] = []
        task = asyncio.get_running_loop().create_task(self._wait_aside(entry))
        self._aside.tasks.add(task)
        task.add_done_callback(self._aside.tasks.discard)

    async def _wait_aside(self, entry: _Entry) -> None:
        """Store a write that waits for a lock, then what came behind it meanwhile, in order."""
        entries = [entry]
        while entries:
            await self._store_aside(entries)
            entries = self._aside.behind.pop(entry.order, []) if entry.order is not None else []
            if entry.order is not None and entries:
                self._aside.behind[entry.order] = []

    async def _store_aside(self, entries: Sequence[_Entry]) -> None:
        """Store writes over a connection of their own, where they may wait for a lock as long as it takes."""
        wait = _FIRST_WAIT
        while live := [entry for entry in entries if not entry.future.done()]:
            members = live
            try:
                groups, _ = _grouped(live)
                members = [entry for group in groups for entry in group.entries]
                await self._attempt(groups, Channel.ASIDE)
            except (DatabaseUnavailable, LockTimeout) as error:
                if isinstance(error, DatabaseUnavailable):
                    _doubt(members, error)
                await asyncio.sleep(wait * (0.5 + self._jitter() / 2))
                wait = min(wait * 2, _LAST_WAIT)
            except Exception as error:  # noqa: BLE001  # belongs to the caller who sent it
                if len(members) == 1:
                    _fail(members[0], error)
                else:
                    for member in members:
                        await self._store_aside([member])


def _doubt(entries: Sequence[_Entry], error: DatabaseUnavailable) -> None:
    """The commit may have happened: what must not be repeated goes back to its caller."""
    for entry in entries:
        if entry.operation is not None and not entry.operation.is_repeatable:
            _fail(entry, error)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)


def _grouped(entries: Sequence[_Entry]) -> tuple[list[_Group], list[_Entry]]:
    """Entries as operations, one a kind of write, in order of arrival; and those that have to wait for the next."""
    kinds: dict[int, list[_Entry]] = {}
    groups: list[_Group] = []
    left: list[_Entry] = []
    for entry in entries:
        if entry.operation is not None:
            groups.append(_Group([entry], entry.operation))
        else:
            kinds.setdefault(id(entry.write), []).append(entry)
    for members in kinds.values():
        write: Write[Any, Any] | None = members[0].write
        if write is not None:
            items = [member.item for member in members]
            taken = write.take(items)
            left.extend(members[taken:])
            groups.append(_Group(members[:taken], write.build(items[:taken])))
    return groups, left
