"""The backlogs: what fills a database before claims are measured in front of it. Pure: names and numbers in, SQL out.

The rows are made by SQL, for only their number and their columns' values matter. Tests look at the plans and costs in
front of the same backlogs, smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from durably.store.catalogue import fill_tables

Dialect = Literal["sqlite", "postgres"]

SERVED = tuple(f"served-{place}" for place in range(10))
"""The jobs of the worker that claims."""
KEYED = "keyed"
"""A job of its own, all of whose runs wait for one key."""
BUSY = "busy"
WAITING = 1000
"""Runs that wait behind the busy key in every scenario, so that there is always one to hand the slot to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A backlog. All that is not named is empty but for the few runs that are measured."""

    key: str
    title: str
    pending: int = 0
    """Claimable runs of the jobs that are served."""
    finished: int = 0
    behind: int = WAITING
    """Runs behind one busy key."""
    unserved: int = 0
    """Claimable runs of a job that nobody serves."""
    later: int = 0
    """Runs whose start time is a day away."""

    def statements(self, dialect: Dialect) -> list[str]:
        """SQL that fills an empty database."""
        counts = (self.pending, self.unserved, self.behind, self.later, self.finished)
        made: list[str] = []
        first = 1
        for group, count in zip(_GROUPS, counts, strict=True):
            if count:
                made += [_fill(text, dialect, first, first + count - 1) for text in group]
            first += count
        made.append(_fill(_KEY, dialect, 1, 1))
        holder = first - self.finished - self.later - self.behind
        made.append(_fill(_HOLDER, dialect, holder, holder))
        return made


def scenarios(*, small: bool) -> list[Scenario]:
    """What is measured; `small` ones show that everything works."""
    share = 100 if small else 1
    most, many, some = 1_000_000 // share, 200_000 // share, 100_000 // share
    few = 1_000 // share
    return [
        Scenario(key="empty", title="nothing else there"),
        Scenario(key="pending-1k", title=f"{few:,} runs pending", pending=few),
        Scenario(key="pending-100k", title=f"{some:,} runs pending", pending=some),
        Scenario(key="pending-1m", title=f"{most:,} runs pending", pending=most),
        Scenario(key="finished-1m", title=f"{most:,} runs finished", finished=most),
        Scenario(key="behind-200k", title=f"{many:,} runs behind one busy key", behind=many),
        Scenario(key="unserved-100k", title=f"{some:,} runs of a job that nobody serves", unserved=some),
        Scenario(key="later-100k", title=f"{some:,} runs that are due in a day", later=some),
    ]


_EVENT = "INSERT INTO {events} (run_id, seq, type, job, created_at) SELECT #id, #seq, '#type', 'job', #now FROM #n"
_STEP = (
    "INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)"
    " SELECT #id, 'a', 0, 'completed', '1', 1, #now, #now FROM #n"
)
_SERVED = "'served-' || (i % 10)"


def _runs(job: str, status: str = "pending", **more: str) -> str:
    """An insert of runs in this state; their numbers are their ranks."""
    columns = {"id": "#id", "job": job, "input": "'1'", "status": f"'{status}'", "rank": "#early + i", "seq": "1"}
    columns |= {"created_at": "#now"} | more
    text = "INSERT INTO {runs} (#columns) SELECT #values FROM #n"
    return text.replace("#columns", ", ".join(columns)).replace("#values", ", ".join(columns.values()))


def _event(seq: int, kind: str) -> str:
    return _EVENT.replace("#seq", str(seq)).replace("#type", kind)


_TRIGGERED = _event(1, "run:trigger")
_GROUPS: tuple[tuple[str, ...], ...] = (
    (_runs(_SERVED), _TRIGGERED),
    (_runs("'unserved'"), _TRIGGERED),
    (_runs(f"'{KEYED}'", concurrency_key=f"'{BUSY}'", hold="'key'"), _TRIGGERED),
    (_runs(_SERVED, available_at="#tomorrow", hold="'time'"), _TRIGGERED),
    (
        _runs(_SERVED, "completed", generation="1", seq="3", output="'1'", completed_at="#now"),
        _TRIGGERED,
        _event(2, "run:leased"),
        _event(3, "run:complete"),
        _STEP,
    ),
)
_KEY = "INSERT INTO {concurrency_keys} (key, active) VALUES ('busy', 1)"
_HOLDER = "UPDATE {runs} SET hold = NULL, slot = #true WHERE id IN (SELECT #id FROM #n)"
_WORDS: dict[Dialect, dict[str, str]] = {
    "postgres": {
        "id": "('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid",
        "now": "now()",
        "tomorrow": "now() + interval '1 day'",
        "early": "((extract(epoch FROM now()) - 86400) * 1000000)::bigint",
        "true": "true",
        "n": "generate_series(#first, #last) AS n (i)",
    },
    "sqlite": {
        "id": "printf('00000000-0000-7000-8000-%012x', i)",
        "now": "(CAST(strftime('%s', 'now') AS INTEGER) * 1000000)",
        "tomorrow": "((CAST(strftime('%s', 'now') AS INTEGER) + 86400) * 1000000)",
        "early": "((CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000000)",
        "true": "1",
        "n": "(WITH RECURSIVE n (i) AS (SELECT #first UNION ALL SELECT i + 1 FROM n WHERE i < #last) SELECT i FROM n)",
    },
}


def _fill(text: str, dialect: Dialect, first: int, last: int) -> str:
    """The statement as the dialect writes it, for the runs of these numbers."""
    for name, value in _WORDS[dialect].items():
        text = text.replace(f"#{name}", value)
    text = text.replace("#first", str(first)).replace("#last", str(last))
    return fill_tables(text, '"durably".' if dialect == "postgres" else "durably_")
