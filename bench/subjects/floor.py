"""The floor: a bare engine that does no more than W1 and W2 cannot do without.

One writer with group commit, and plural statements behind a fence, on tables with the columns and indexes that the work
and lists of runs need. No validation, no events, no leases that end, no retries, no keys. What durably adds is measured
against it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass, field
from typing import Protocol

from bench.subjects.floor_postgres import PostgresFloor
from bench.subjects.floor_sqlite import SqliteFloor
from bench.subjects.floor_writes import Claimed, Writes
from bench.subjects.ours import ENOUGH_SECONDS, REPEATS
from bench.task import Answer, Stopwatch, Task, serve


class Floor(Protocol):
    """A database behind the bare engine."""

    async def open(self) -> None:
        """Connect and make the tables."""
        ...

    async def enqueue(self, inputs: list[str]) -> None:
        """Store runs that wait."""
        ...

    async def commit(self, writes: Writes) -> list[Claimed]:
        """Store all of it in one transaction; returns up to `writes.claim` runs that it claimed."""
        ...

    async def count_left(self) -> int:
        """How many runs are not completed; 0 or more than 0 is enough."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


@dataclass(slots=True)
class Engine:
    """Claims, executes and commits, everything that is waiting in one transaction."""

    floor: Floor
    task: Task
    watch: Stopwatch
    writes: Writes = field(default_factory=Writes)
    waiting: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])
    running: set[asyncio.Task[None] | None] = field(default_factory=set[asyncio.Task[None] | None])
    is_empty: bool = False
    has_work: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Work until nothing is left, or the time is up."""
        while not self.watch.is_over:
            free = self.task.concurrency - len(self.running) + len(self.writes.ends)
            self.writes.claim = 0 if self.is_empty else free
            if self.writes.is_empty:
                if not self.running:
                    return
                self.has_work.clear()
                await self.has_work.wait()
                continue
            writes, self.writes = self.writes, Writes()
            waiting, self.waiting = self.waiting, []
            claimed = await self.floor.commit(writes)
            self.is_empty = self.is_empty or (writes.claim > 0 and not claimed)
            for future in waiting:
                future.set_result(None)
            self.running.update(asyncio.create_task(self.execute(run)) for run in claimed)
            await asyncio.sleep(0)

    def stored(self) -> asyncio.Future[None]:
        """What was added to `writes` is committed when this is done."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.has_work.set()
        return future

    async def execute(self, run: Claimed) -> None:
        """The job: the same as `bench/subjects/jobs.py`."""
        self.watch.started()
        for number in range(self.task.steps):
            result = json.dumps({"number": number})
            self.writes.steps.append((run.id, f"step[{number}]", number, result, run.generation))
            await self.stored()
        self.watch.finished()
        self.writes.ends.append((run.id, run.input, run.generation))
        await self.stored()
        self.running.discard(asyncio.current_task())
        self.has_work.set()


async def drain(floor: Floor, task: Task) -> Answer:
    """Fill the queue and drain it."""
    watch = Stopwatch(task)
    await floor.enqueue([str(number) for number in range(task.total)])
    await Engine(floor, task, watch).run()
    answer = watch.answer()
    if not watch.is_over and await floor.count_left():
        raise RuntimeError("the floor lost runs")
    return answer


async def repeat(task: Task) -> Answer:
    """The median of some drains, as for durably."""
    floor: Floor = PostgresFloor(task.url) if task.is_postgres else SqliteFloor(task.url)
    await floor.open()
    answers: list[Answer] = []
    while len(answers) < REPEATS and sum(answer["seconds"] for answer in answers) < ENOUGH_SECONDS:
        answers.append(await drain(floor, task))
    await floor.close()
    return {**answers[-1], "rate": statistics.median(answer["rate"] for answer in answers)}


def work(task: Task) -> Answer:
    """Measure W1 or W2 on the floor."""
    return asyncio.run(repeat(task))


if __name__ == "__main__":
    serve(work)
