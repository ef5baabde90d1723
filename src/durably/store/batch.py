"""Group commit: while one transaction is being committed, writes that arrive are collected; the next takes them all.

A caller's `await` returns after the commit that holds its write. A batch that fails is bisected, so that one bad write
cannot fail others; one that waits for a lock goes to a connection of its own, and the lane goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from durably.errors import DatabaseUnavailable
from durably.store.engine import Channel, LockTimeout
from durably.store.operation import ItemT, Operation, ResultT, T, Wake, Write, combine

Transact = Callable[[Operation[Any], Channel], Awaitable[Any]]

_logger = logging.getLogger("durably.store")

_MOST = 1000
"""Writes in one transaction."""
_LARGE = 16
"""Writes from which on a batch is told in two halves."""
_FIRST_WAIT, _LAST_WAIT = 0.05, 2.0


Answer: TypeAlias = Callable[[Any, Exception | None], object]
"""Called once, in the event loop, with the result of a write after its commit, or with what went wrong."""


class _Entry:
    """A write that waits for its commit."""

    __slots__ = ("answer", "is_over", "item", "operation", "order", "write")

    def __init__(
        self,
        answer: Answer,
        *,
        operation: Operation[Any] | None = None,
        write: Write[Any, Any] | None = None,
        item: object = None,
        order: str | None = None,
    ) -> None:
        self.answer = answer
        self.operation = operation
        self.write = write
        self.item = item
        self.order = order
        self.is_over = False
        """Whether it was answered, or nobody waits for the answer any more."""

    def succeed(self, value: object) -> None:
        self._tell(value, None)

    def fail(self, error: Exception) -> None:
        self._tell(None, error)

    def _tell(self, value: object, error: Exception | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        try:
            self.answer(value, error)
        except Exception:  # one listener's fault is not the lane's, nor that of the writes beside it
            _logger.exception("what was to be done after a commit failed")

    def give_up(self) -> None:
        """Nobody waits any more: if it is not under way yet, it is not stored."""
        self.is_over = True


@dataclass(slots=True)
class _Group:
    """Entries that became one operation, and how its result is told to them."""

    entries: list[_Entry]
    operation: Operation[Any]

    def answers(self, result: object) -> Iterable[tuple[_Entry, object]]:
        """Each entry with its own result."""
        if self.entries[0].write is None:
            return [(self.entries[0], result)]
        results: Any = result
        return zip(self.entries, results, strict=True)

    def wakes(self, result: object) -> Wake:
        """Whom the result concerns: nobody, when nothing was claimed or deleted."""
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
        self,
        transact: Transact,
        channel: Channel,
        wake: Callable[[Wake], None],
        jitter: Callable[[], float],
        *,
        overlaps: bool,
    ) -> None:
        """`overlaps`: the database works elsewhere, so there is something to gain from computing meanwhile."""
        self._overlaps = overlaps
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
        return await self._submitted([_Entry(partial(_resolve, future), operation=operation)], future, timeout)

    async def submit(
        self, write: Write[ItemT, ResultT], item: ItemT, timeout: float | None
    ) -> ResultT:  # told to the caller as DatabaseUnavailable
        """The item's result, after the commit of the operation that it became part of."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        entry = _Entry(partial(_resolve, future), write=write, item=item, order=write.order(item))
        return await self._submitted([entry], future, timeout)

    async def submit_all(
        self, write: Write[ItemT, ResultT], items: Sequence[ItemT], timeout: float | None
    ) -> Sequence[ResultT]:  # told to the caller as DatabaseUnavailable
        """The items' results in order, stored as few operations. Raises the first error when all were answered."""
        if write.take(items) == len(items):
            return await self.run(write.build(items), timeout)
        results: list[ResultT] = []
        failed: Exception | None = None
        while items:
            taken = write.take(items)
            try:
                results += await self.run(write.build(items[:taken]), timeout)
            except Exception as error:  # noqa: BLE001  # told when the others were answered
                failed = failed or error
            items = items[taken:]
        if failed is not None:
            raise failed
        return results

    def send(self, write: Write[ItemT, ResultT], item: ItemT, answer: Answer) -> Callable[[], None]:
        """The same without a task that waits, however long it takes. Returns the function that gives it up."""
        entry = _Entry(answer, write=write, item=item, order=write.order(item))
        self._enqueue([entry])
        return entry.give_up

    async def close(self) -> None:
        """Wait for what was submitted."""
        while tasks := [task for task in (self._pump, *self._aside.tasks) if task is not None and not task.done()]:
            await asyncio.wait(tasks)

    async def _submitted(self, entries: Sequence[_Entry], future: asyncio.Future[T], timeout: float | None) -> T:
        self._enqueue(entries)
        try:
            if timeout is None:
                return await future
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise DatabaseUnavailable(f"no answer within {timeout:g} seconds") from error
        finally:
            for entry in entries:
                entry.give_up()

    def _enqueue(self, entries: Iterable[_Entry]) -> None:
        self._queue.extend(entries)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Commit batch after batch until the queue is empty, also after those who were answered had their turn."""
        while self._queue:
            entries = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
            await self._commit(entries)
            if not self._queue:
                await asyncio.sleep(0)

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
                    entries[0].fail(error)
                else:
                    await self._halves(entries)
                return
            else:
                return

    def _live(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Those that somebody waits for, without those whose predecessor stepped aside: they follow it."""
        if not self._aside.behind:
            return [entry for entry in entries if not entry.is_over]
        live: list[_Entry] = []
        for entry in entries:
            behind = None if entry.order is None else self._aside.behind.get(entry.order)
            if not entry.is_over:
                (live if behind is None else behind).append(entry)
        return live

    async def _attempt(self, groups: Sequence[_Group], channel: Channel) -> None:
        """Commit, and tell the results; of a large batch the first half first, unless others wait already.

        Told all at once, everybody would run, write and wait at the same time, and the database with nothing to do
        meanwhile. In two halves one computes while the other one's writes are being committed.
        """
        operation = groups[0].operation if len(groups) == 1 else combine([group.operation for group in groups])
        result = await self._transact(operation, channel)
        results = [result] if len(groups) == 1 else result
        wake = Wake.NOBODY
        answers: list[tuple[_Entry, object]] = []
        for group, value in zip(groups, results, strict=True):
            wake |= group.wakes(value)
            answers.extend(group.answers(value))
        if self._queue and self._overlaps:  # the next batch is sent before these answers are told
            asyncio.get_running_loop().call_soon(self._tell, answers, wake)
            return
        first = len(answers) // 2 if self._overlaps and len(answers) >= _LARGE else 0
        if first:
            self._tell(answers[:first], Wake.NOBODY)
            await asyncio.sleep(0)
        self._tell(answers[first:], wake)

    def _tell(self, answers: Sequence[tuple[_Entry, object]], wake: Wake) -> None:
        for entry, value in answers:
            entry.succeed(value)
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
        while live := [entry for entry in entries if not entry.is_over]:
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
                    members[0].fail(error)
                else:
                    for member in members:
                        await self._store_aside([member])


def _doubt(entries: Sequence[_Entry], error: DatabaseUnavailable) -> None:
    """The commit may have happened: what must not be repeated goes back to its caller."""
    for entry in entries:
        if entry.operation is not None and not entry.operation.is_repeatable:
            entry.fail(error)


def _resolve(future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


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
