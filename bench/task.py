"""What a measured process is told, what it answers, and the clock that all of them share. Standard library only.

Every process drains a queue that was filled before. The clock starts when the `warm_up`th job starts, so that imports,
connections and caches are paid for, and ends when the last job is stored as completed, or when its time is up.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

MARK = "RESULT "
"""Begins the line with the answer on the process's standard output."""
STEPS = 5
"""Steps of a run of W2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a process is to do, as JSON in its first argument."""

    kind: str
    url: str
    """`postgresql://...`, or the path of an SQLite file that does not exist yet."""
    jobs: int = 0
    warm_up: int = 0
    concurrency: int = 1
    seconds: float = 10.0
    """When a drain is cut off; its rate is that of what was done by then."""

    @property
    def is_postgres(self) -> bool:
        """Whether the database is PostgreSQL."""
        return self.url.startswith("postgresql:")

    @property
    def total(self) -> int:
        """Jobs to enqueue."""
        return self.jobs + self.warm_up

    @property
    def steps(self) -> int:
        """Steps of each job; W1 has none."""
        return STEPS if self.kind == "w2" else 0

    def to_json(self) -> str:
        """Return it as the argument of a process."""
        return json.dumps(asdict(self))


Answer = dict[str, Any]
"""`rate` (a second), or what else the workload measures."""


def argument() -> Task:
    """Return the task of the command line."""
    return Task(**json.loads(sys.argv[1]))


def serve(work: Callable[[Task], Answer]) -> None:
    """Do the task of the command line and print the answer."""
    answer = work(argument())
    print(MARK + json.dumps(answer), flush=True)


class Stopwatch:
    """Counts the jobs of a drain, from any thread. `started` and `finished` are called by each job's code."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._begun = 0
        self._done = 0
        self._from = 0.0
        self._all_done = threading.Event()
        self.on_done: Callable[[], object] = self._all_done.set
        """Called when the code of the last job has ended, in whatever thread it ran."""

    def started(self) -> None:
        """Note that a job starts."""
        with self._lock:
            self._begun += 1
            if self._begun == self._task.warm_up + 1:
                self._from = time.perf_counter()

    def finished(self) -> None:
        """Note that a job's code has come to its end."""
        with self._lock:
            self._done += 1
            if self._done >= self._task.total:
                self._all_done.set()
                self.on_done()

    @property
    def is_done(self) -> bool:
        """Whether the code of every job has ended."""
        return self._all_done.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return bool(self._from) and time.perf_counter() - self._from > self._task.seconds

    def wait(self) -> bool:
        """Wait for the end of every job's code; False when the time is up before."""
        while not self._all_done.wait(0.1):
            if self.is_over:
                return False
        return True

    def answer(self) -> Answer:
        """Stop the clock. The rate is of steps where jobs have steps, else of jobs."""
        seconds = time.perf_counter() - self._from
        with self._lock:
            jobs = max(self._done - self._task.warm_up, 0)
        return {"rate": jobs * max(self._task.steps, 1) / seconds, "jobs": jobs, "seconds": seconds}


def drained(watch: Stopwatch, count_left: Callable[[], int]) -> Answer:
    """Wait until every job's code has ended and its end is stored; for systems that work in other threads."""
    if watch.wait():
        while count_left() > 0 and not watch.is_over:
            time.sleep(0.002)
    return watch.answer()


async def drained_async(watch: Stopwatch, count_left: Callable[[], Awaitable[int]]) -> Answer:
    """Wait as `drained` does, beside a system that works in this event loop."""
    import asyncio  # noqa: PLC0415 - processes without a loop need not load it

    done = asyncio.Event()
    watch.on_done = done.set
    while not watch.is_done and not watch.is_over:
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 0.1)
    while watch.is_done and not watch.is_over and await count_left() > 0:  # noqa: ASYNC110 - a database tells nobody
        await asyncio.sleep(0.001)
    return watch.answer()
