"""The bars: what durably promises as ratios on one machine in one run. Pure: results in, judgements out."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from bench.results import Results, Section, key_of

Verdict = Literal["holds", "does not hold", "shown", "not measured"]


@dataclass(frozen=True, slots=True)
class Ref:
    """What was measured: workload, database, system, concurrency, name of the value."""

    workload: str
    database: str
    system: str
    at: int
    name: str = "rate"

    def section(self, results: Results) -> Section | None:
        """Where it was measured."""
        return results.get(key_of(self.workload, self.database))

    def values(self, results: Results) -> list[float]:
        """One a round; none when it was not measured."""
        section = self.section(results)
        return [] if section is None else section.values(self.system, self.at, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """`value`, or `value / over`, is to be at least `least`, or at most `most`; without either it is only shown."""

    group: str
    text: str
    value: Ref
    over: Ref | None = None
    least: float | None = None
    most: float | None = None
    aim: float | None = None
    unit: str = "x"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a bar."""

    bar: Bar
    measured: float | None
    verdict: Verdict


def judge(bar: Bar, results: Results) -> Judgement:
    """Measure a bar. Values of different runs are not compared."""
    measured = _measured(bar, results)
    if measured is None:
        return Judgement(bar, None, "not measured")
    if bar.least is None and bar.most is None:
        return Judgement(bar, measured, "shown")
    holds = (bar.least is None or measured >= bar.least) and (bar.most is None or measured <= bar.most)
    return Judgement(bar, measured, "holds" if holds else "does not hold")


def _measured(bar: Bar, results: Results) -> float | None:
    """The median; of a ratio that of the rounds' ratios, for a machine changes its pace between them."""
    values = bar.value.values(results)
    if bar.over is None:
        return statistics.median(values) if values else None
    over = bar.over.values(results)
    ours, theirs = bar.value.section(results), bar.over.section(results)
    if ours is None or theirs is None or ours.run != theirs.run or not values or not over or 0 in over:
        return None
    if ours is theirs and len(values) == len(over):
        return statistics.median(mine / other for mine, other in zip(values, over, strict=True))
    return statistics.median(values) / statistics.median(over)


def judge_all(results: Results) -> list[Judgement]:
    """All bars, in the order of the report."""
    return [judge(bar, results) for bar in BARS]


def _ratio(workload: str, database: str, at: int, over: tuple[tuple[str, str, float], ...], aim: float) -> list[Bar]:
    """Durably against the floor and some peers; the aim is for the floor."""
    title = f"{workload.upper()} {'PostgreSQL' if database == 'postgres' else 'SQLite'}, concurrency {at}"
    return [
        Bar(
            group=title,
            text=text,
            value=Ref(workload, database, "ours", at),
            over=Ref(workload, database, system, at),
            least=least,
            aim=aim if system == "floor" else None,
        )
        for system, text, least in over
    ]


def _throughput() -> list[Bar]:
    floor, ts = "of the floor", "durably (TypeScript)"
    return [
        *_ratio(
            "w2",
            "postgres",
            100,
            (("floor", floor, 0.42), ("durably-ts", ts, 16), ("absurd", "absurd", 24), ("dbos", "dbos", 38)),
            0.6,
        ),
        *_ratio(
            "w1",
            "postgres",
            100,
            (("floor", floor, 0.44), ("pgqueuer", "pgqueuer", 0.8), ("dbos", "dbos", 10), ("durably-ts", ts, 14)),
            1.0,
        ),
        *_ratio("w2", "postgres", 1, (("floor", floor, 0.7), ("absurd", "absurd", 2), ("durably-ts", ts, 2.5)), 0.9),
        *_ratio("w2", "sqlite", 100, (("floor", floor, 0.3), ("durably-ts", f"{ts}, at its NORMAL", 5)), 0.5),
        *_ratio("w1", "sqlite", 100, (("floor", floor, 0.3), ("huey", "huey, FULL", 6)), 0.5),
    ]


def _latency() -> list[Bar]:
    postgres, sqlite = "W3 PostgreSQL, idle to started", "W3 SQLite, idle to started"
    return [
        Bar(
            group=postgres,
            text="p50 over procrastinate's",
            value=Ref("w3", "postgres", "ours", 0, "p50"),
            over=Ref("w3", "postgres", "procrastinate", 0, "p50"),
            most=1,
        ),
        Bar(group=postgres, text="p99", value=Ref("w3", "postgres", "ours", 0, "p99"), most=10, aim=1, unit="ms"),
        Bar(group=sqlite, text="p50", value=Ref("w3", "sqlite", "ours", 0, "p50"), most=2, aim=1, unit="ms"),
        Bar(group=sqlite, text="p99", value=Ref("w3", "sqlite", "ours", 0, "p99"), most=10, unit="ms"),
    ]


def _triggers() -> list[Bar]:
    pgqueuer = Ref("w4", "postgres", "pgqueuer", 0, "batches")
    return [
        Bar(
            group="W4, batches of 1,000",
            text="PostgreSQL, pgqueuer",
            value=Ref("w4", "postgres", "ours", 0, "batches"),
            over=pgqueuer,
            least=1,
        ),
        Bar(
            group="W4, batches of 1,000",
            text="SQLite, pgqueuer on PostgreSQL",
            value=Ref("w4", "sqlite", "ours", 0, "batches"),
            over=pgqueuer,
            least=2,
        ),
    ]


def _idle() -> list[Bar]:
    bars: list[Bar] = []
    for database, title, most in (("postgres", "PostgreSQL", 2.0), ("sqlite", "SQLite", 2.0)):
        group = f"W6 {title}, idle worker"
        queries = Ref("w6", database, "ours", 0, "idle_queries")
        cpu = Ref("w6", database, "ours", 0, "idle_cpu")
        bars += [
            Bar(group=group, text="queries a second", value=queries, most=most, unit="/s"),
            Bar(group=group, text="of a core", value=cpu, most=0.01, unit="share"),
        ]
    return bars


def _events() -> list[Bar]:
    return [
        Bar(
            group="What events cost",
            text=f"{workload.upper()} {title}, 100: without events over with them",
            value=Ref(workload, database, "ours-without-events", 100),
            over=Ref(workload, database, "ours", 100),
            aim=1 / 0.85,
        )
        for database, title in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
        for workload in ("w1", "w2")
    ]


BARS = (*_throughput(), *_latency(), *_triggers(), *_idle(), *_events())
