"""The measuring: round after round, each system in turn (A B A B), every measurement on a fresh database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from bench import machine
from bench.launch import Failed, launch
from bench.places import Places
from bench.results import Section
from bench.settings import Settings
from bench.systems import System, systems_for
from bench.task import Answer, Task

ROUNDS = {"w3": 3}
"""What is measured more often than the rest: turns are short, and delays change with every breath of the machine."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of a round."""

    system: System
    at: int
    """The concurrency; 0 where the workload has none."""

    @property
    def name(self) -> str:
        """For the progress."""
        return f"{self.system.title}{f' at {self.at}' if self.at else ''}"


def turns(workload: str, database: str, *, peers: bool) -> list[Turn]:
    """What a round consists of: concurrency by concurrency, so that what is compared is measured close together."""
    systems = systems_for(workload, database, peers=peers)
    if workload not in {"w1", "w2", "w5"}:
        return [Turn(system, 0) for system in systems]
    levels = sorted({at for system in systems for at in system.concurrencies})
    return [Turn(system, at) for at in levels for system in systems if at in system.concurrencies]


def task_for(workload: str, at: int, url: str, settings: Settings) -> Task:
    """What the process of a turn is told."""
    sizes = settings.sizes
    counts = {"w1": sizes.jobs, "w2": sizes.runs, "w3": sizes.triggers, "w5": sizes.events, "w6": sizes.runs}
    jobs = counts.get(workload, 0)
    warm_up = {"w1": max(jobs // 10, at), "w2": max(jobs // 10, at), "w3": 5}.get(workload, 0)
    seconds = {"w4": sizes.trigger_seconds, "w6": sizes.idle_seconds}.get(workload, sizes.seconds)
    return Task(kind=workload, url=url, jobs=jobs, warm_up=warm_up, concurrency=max(at, 1), seconds=seconds)


def measure(workload: str, database: str, settings: Settings, places: Places, run: datetime) -> Section:
    """Measure one workload on one database, and tell the terminal how it goes."""
    section = Section(
        workload=workload,
        database=database,
        run=run.astimezone(UTC).isoformat(timespec="seconds"),
        size=settings.size,
        rounds=settings.rounds * ROUNDS.get(workload, 1),
        about={
            "database": places.version(database),
            "settings": places.settings(database),
            "machine": machine.describe(),
        },
        versions={"ours": version("durably")},
    )
    for number in range(1, section.rounds + 1):
        for turn in _left(section, turns(workload, database, peers=settings.peers)):
            begin = time.monotonic()
            with places.fresh(database) as url:
                answer = launch(turn.system, _task(turn, workload, url, settings))
            head = f"{workload} {database} round {number}/{section.rounds}: {turn.name}"
            print(f"{head}: {_note(section, turn, answer)} [{time.monotonic() - begin:.1f} s]", flush=True)
    return section


def _task(turn: Turn, workload: str, url: str, settings: Settings) -> Task:
    task = task_for(workload, turn.at, url, settings)
    if turn.system.key == "commits":
        return Task(kind="commits", url=url, seconds=min(1.0, task.seconds))
    return task


def _left(section: Section, all_turns: list[Turn]) -> Iterator[Turn]:
    """Those that did not fail before: what failed once is not tried again."""
    return (turn for turn in all_turns if turn.system.key not in section.failures)


def _note(section: Section, turn: Turn, answer: Answer | Failed) -> str:
    """Take the answer into the section; returns it in words."""
    key = turn.system.key
    if isinstance(answer, Failed):
        section.failures[key] = answer.reason
        return f"not measured: {answer.reason}"
    if "version" in answer:
        section.versions[key] = str(answer["version"])
    cell = section.cell(key, turn.at)
    numbers = {name: float(value) for name, value in answer.items() if isinstance(value, int | float)}
    for name, value in numbers.items():
        cell.values.setdefault(name, []).append(value)
    return ", ".join(f"{name} {value:,.4g}" for name, value in numbers.items() if name not in {"jobs", "seconds"})
