"""Counts of runs for clients: counting takes a while, so what was counted serves all who ask within some seconds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeAlias

from durably import Durably, RunStatus, Stats
from durably.http import wire

FRESH_SECONDS = 2.0
REST = 10
"""What was counted serves for so many times as long as the counting took: a large table is counted less often."""
MAX_KEPT = 100

_Key: TypeAlias = tuple[frozenset[str] | None, frozenset[tuple[str, str]]]


class _Counting:
    """One count, under way or done."""

    def __init__(self, count: Coroutine[Any, Any, str]) -> None:
        self.loop = asyncio.get_running_loop()
        self._begun = self.loop.time()
        self._until = math.inf
        self.task = asyncio.ensure_future(count)
        self.task.add_done_callback(self._done)

    def serves(self, now: float) -> bool:
        """Whether who asks now gets it."""
        return now < self._until

    def _done(self, task: asyncio.Task[str]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._until = self._begun
        else:
            self._until = self._begun + max(FRESH_SECONDS, REST * (self.loop.time() - self._begun))


class Statistics:
    """Counts for each filter at most once in two seconds, and a tenth of the time at most, however many ask."""

    def __init__(self, durably: Durably) -> None:
        self._durably = durably
        self._kept: dict[_Key, _Counting] = {}

    async def of(self, jobs: frozenset[str] | None, labels: Mapping[str, str]) -> str:
        """Return the counts as JSON. Raises DatabaseUnavailable."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        kept = self._kept.items()
        self._kept = {key: counting for key, counting in kept if counting.serves(now) and counting.loop is loop}
        key: _Key = (jobs, frozenset(labels.items()))
        if key not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = _Counting(self._count(jobs, labels))
        return await asyncio.shield(self._kept[key].task)

    async def _count(self, jobs: frozenset[str] | None, labels: Mapping[str, str]) -> str:
        if jobs == frozenset():
            return stats_json(Stats(counts={}, oldest_pending=None, ended={}))
        return stats_json(await self._durably.get_stats(None if jobs is None else sorted(jobs), labels=labels))


def stats_json(stats: Stats) -> str:
    """Return the statistics as the wire has them."""
    total = {status: sum(counts.get(status, 0) for counts in stats.counts.values()) for status in RunStatus}
    jobs = [{"jobName": job, **_filled(counts, RunStatus)} for job, counts in stats.counts.items()]
    ended = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
    members = {
        "total": wire.text(_filled(total, RunStatus)),
        "jobs": wire.text(jobs),
        "oldestPending": "null" if stats.oldest_pending is None else wire.run_json(stats.oldest_pending),
        "perMinute": wire.text(_filled(stats.ended, ended)),
    }
    return wire.compose(members)


def _filled(counts: Mapping[RunStatus, int], statuses: Iterable[RunStatus]) -> dict[str, int]:
    return {str(status): counts.get(status, 0) for status in statuses}
