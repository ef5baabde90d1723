"""Flat or growing: the slope of each line after the warm-up, against what is allowed. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

Point = tuple[float, float]
"""Minutes since the start, and a value."""
Judged = Literal["flat", "growing", "too short"]

LEAST_MINUTES, LEAST_POINTS = 5.0, 9
"""Less says nothing."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: what it is, and how much it may grow in an hour."""

    key: str
    title: str
    unit: str
    share: float | None
    """Allowed growth an hour, as a share of the line's median; None: it is shown, and not judged."""
    least: float = 0.0
    """Growth an hour that is allowed however low the line is, in its unit."""
    trembles: float = 0.0
    """Growth over the judged time that is allowed however short it is, as a share of the median: a load is not even,
    and a machine has other work. What is never deleted grows by about its whole median in that time."""


SERIES = (
    Series("worker_memory", "memory of the steady worker", "MiB", 0.25, trembles=0.05),
    Series("client_memory", "memory of the process that makes the load", "MiB", 0.25, trembles=0.05),
    Series("server_memory", "private memory of the server", "MiB", 0.5, trembles=0.05),
    Series("worker_files", "files and sockets of the steady worker", "", 0.5, 6, trembles=0.25),
    Series("connections", "connections", "", 0.5, 6, trembles=0.25),
    Series("rows_runs", "rows of runs", "", 0.5, 100, trembles=0.25),
    Series("rows_steps", "rows of steps", "", 0.5, 100, trembles=0.25),
    Series("rows_logs", "rows of logs", "", 0.5, 100, trembles=0.25),
    Series("rows_events", "rows of events", "", 0.5, 500, trembles=0.25),
    Series("rows_concurrency_keys", "rows of keys", "", 0.5, 20, trembles=0.25),
    Series("bytes", "size of the tables", "MiB", 0.5, 10, trembles=0.25),
    Series("dead", "dead rows", "", 1.0, 2000, trembles=0.25),
    Series("free", "free pages in the file", "MiB", 1.0, 10, trembles=0.25),
    Series("wal", "write-ahead log", "MiB", 1.0, 8, trembles=0.25),
    Series("lag", "events: median lateness", "ms", 2.0, 50, trembles=1.0),
    Series("claim", "claim, median", "ms", 2.0, 5, trembles=1.0),
    Series("backlog", "runs that have not ended", "", 1.0, 100, trembles=1.0),
    Series("rate", "runs that ended, a second", "/s", None),
    Series("worst_lag", "events: longest lateness", "ms", None),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a line."""

    series: Series
    verdict: Judged
    median: float = 0.0
    slope: float = 0.0
    """An hour, in the line's unit."""
    allowed: float = 0.0


def judge(series: Series, points: Sequence[Point]) -> Judgement:
    """Judge the points after the warm-up.

    A line grows when its slope, the median of the slopes between all pairs of points (a saw-tooth has none), is over
    what is allowed, and its last third lies, in the median, above nine tenths of its first third.
    """
    if len(points) < LEAST_POINTS or points[-1][0] - points[0][0] < LEAST_MINUTES * 0.9:
        return Judgement(series, "too short")
    values = [value for _, value in points]
    median = statistics.median(values)
    slope = 60 * statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0])
    hours = (points[-1][0] - points[0][0]) / 60
    allowed = max((series.share or 0.0) * median, series.least, series.trembles * median / hours)
    third = len(points) // 3
    high = sorted(values[:third])[(third * 9 - 1) // 10]
    grows = slope > allowed and statistics.median(values[-third:]) > high
    return Judgement(series, "growing" if grows else "flat", median, slope, allowed)


def judge_all(points: Mapping[str, Sequence[Point]], *, warm_up: float) -> list[Judgement]:
    """All lines that there are and that are judged, after so many minutes."""
    return [
        judge(series, [point for point in points[series.key] if point[0] >= warm_up])
        for series in SERIES
        if series.share is not None and points.get(series.key)
    ]
