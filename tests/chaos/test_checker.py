"""The checker finds what it looks for: a sound history is damaged in one place, and that is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.audit import IMAGE, Change
from chaos.checker import check
from chaos.record import Ended, Fault, Record
from chaos.witness import Deed

RUN = "r"
KILL = Fault("SIGKILL", 12, float("inf"), 1)
OUTPUT = '["x", "y"]'
KEY = "k"


def row(status: str, generation: int, **fields: Any) -> dict[str, Any]:
    """A run's row, with the fields that matter to a test."""
    made: dict[str, Any] = dict.fromkeys(IMAGE)
    made |= {"status": status, "generation": generation, "attempt": generation, "crashes": 0, "slot": False}
    return made | fields


def leased(generation: int, **fields: Any) -> dict[str, Any]:
    return row("leased", generation, **({"lease_expires_at": (generation * 10 + 3) * 1_000_000} | fields))


def run_change(at: float, old: dict[str, Any] | None, new: dict[str, Any] | None, run: str = RUN) -> Change:
    return Change(at, f"t{at}", "run", run, old, new)


def step_change(at: float, name: str, generation: int, value: str, old: dict[str, Any] | None = None) -> Change:
    new = {"name": name, "status": "completed", "output": f'"{value}"', "generation": generation}
    return Change(at, f"t{at}", "step", RUN, old, new)


def deed(at: float, kind: str, generation: int, step: str = "", value: str = "", *, pid: int = 0) -> Deed:
    return Deed(at, pid or generation, kind, RUN, generation, step, value)


def sound() -> Record:
    """Process 1 stores a step and is killed; process 2 takes the run over, stores another one and completes it."""
    changes = [
        run_change(1, None, row("pending", 0, job="job", idempotency_key="key")),
        run_change(10, row("pending", 0), leased(1)),
        step_change(11, "a", 1, "x"),
        run_change(20, leased(1), leased(2, crashes=1)),
        step_change(21, "b", 2, "y"),
        run_change(22, leased(2), row("completed", 2, job="job", idempotency_key="key", output=OUTPUT)),
    ]
    deeds = [
        *(deed(10, "start", 1, "a"), deed(11, "done", 1, "a", "x"), deed(11, "got", 1, "a", "x")),
        deed(11, "start", 1, "b"),
        *(deed(20, "got", 2, "a", "x"), deed(20, "start", 2, "b"), deed(21, "done", 2, "b", "y")),
        *(deed(21, "got", 2, "b", "y"), deed(22, "end", 2, value=OUTPUT)),
    ]
    events = Counter({"run:trigger": 1, "run:leased": 2, "step:start": 3, "step:complete": 2, "run:complete": 1})
    numbers = [(RUN, number) for number in range(1, events.total() + 1)]
    return Record(
        changes=changes,
        deeds=deeds,
        runs={RUN: Ended(RUN, "job", "completed", 2, 2)},
        events={RUN: events},
        stored_events=numbers,
        heard=list(numbers),
        acknowledged={"key": RUN},
        keys={RUN: None},
        faults=[replace(KILL)],
    )


def test_a_sound_history_is_found_sound() -> None:
    assert check(sound()) == []


Damage = Callable[[Record], None]


def changed(place: int, change: Change) -> Damage:
    def damage(record: Record) -> None:
        record.changes = [*record.changes[:place], change, *record.changes[place + 1 :]]

    return damage


def added(*changes: Change, at: int = 6) -> Damage:
    def damage(record: Record) -> None:
        record.changes = [*record.changes[:at], *changes, *record.changes[at:]]

    return damage


def did(*deeds: Deed, at: int = 9) -> Damage:
    def damage(record: Record) -> None:
        record.deeds = [*record.deeds[:at], *deeds, *record.deeds[at:]]

    return damage


def without(kind: str, generation: int) -> Damage:
    def damage(record: Record) -> None:
        record.deeds = [one for one in record.deeds if (one.kind, one.generation) != (kind, generation)]

    return damage


def both(*damages: Damage) -> Damage:
    def damage(record: Record) -> None:
        for one in damages:
            one(record)

    return damage


def fields(**changes: Any) -> Damage:
    def damage(record: Record) -> None:
        for name, value in changes.items():
            setattr(record, name, value)

    return damage


KEYED = [
    run_change(23, None, row("pending", 0, concurrency_key=KEY), run="x"),
    run_change(24, row("pending", 0, concurrency_key=KEY), leased(1, concurrency_key=KEY, slot=True), run="x"),
    run_change(25, None, row("pending", 0, concurrency_key=KEY), run="y"),
    run_change(26, row("pending", 0, concurrency_key=KEY), leased(1, concurrency_key=KEY, slot=True), run="y"),
]
DAMAGE: dict[str, tuple[str, Damage]] = {
    "a trigger is forgotten": ("G1", fields(acknowledged={"key": RUN, "other": "gone"})),
    "one trigger gets two runs": (
        "G2",
        added(run_change(23, None, row("pending", 0, job="job", idempotency_key="key"), run="twin")),
    ),
    "an idempotency key is lost": ("G2", added(run_change(23, row("completed", 2), row("completed", 2)))),
    "a concurrency key is lost": ("G7", fields(keys={RUN: KEY})),
    "two triggers get one run": ("G2", fields(acknowledged={"key": RUN, "other": RUN})),
    "a generation is skipped": ("G3", changed(3, run_change(20, leased(1), leased(3, crashes=1, attempt=2)))),
    "a lease is stolen": ("G3", changed(3, run_change(12, leased(1), leased(2, crashes=1)))),
    "two processes share a lease": ("G3", did(deed(22, "start", 2, "c", pid=7))),
    "an old owner begins a step": ("G3", did(deed(22, "start", 1, "c"))),
    "an old owner stores a step": ("G4", added(step_change(21, "c", 1, "z"), at=5)),
    "a step is stored after the end": ("G4", added(step_change(23, "c", 2, "z"))),
    "a step is stored twice": ("G5", added(step_change(21, "a", 2, "x", {"name": "a", "status": "completed"}), at=5)),
    "a stored step is executed again": ("G5", did(deed(20, "start", 2, "a"), at=5)),
    "a step is executed twice by one owner": ("G5", did(deed(21, "start", 2, "b"), at=7)),
    "a step returns and is not stored": ("G5", did(deed(22, "got", 2, "c", "z"))),
    "a lease is lost without a reason": ("G6", fields(faults=[])),
    "a recovery takes longer than a lease and 2 s": ("G6", fields(faults=[replace(KILL, recovery=5.5)])),
    "nobody has looked whether all recovered": ("G6", fields(faults=[replace(KILL), Fault("an outage", 12, 13)])),
    "a run waits beside a free slot": (
        "G7",
        added(
            run_change(30, None, row("pending", 0, concurrency_key=KEY, hold="key"), run="x"),
            run_change(40, row("pending", 0, concurrency_key=KEY, hold="key"), KEYED[1].old, run="x"),
        ),
    ),
    "a run waits beside a free slot for ever": (
        "G7",
        added(run_change(30, None, row("pending", 0, concurrency_key=KEY, hold="key"), run="x")),
    ),
    "too many runs of a key": ("G7", added(*KEYED)),
    "a run without its slot": (
        "G7",
        added(KEYED[0], run_change(24, row("pending", 0), leased(1, concurrency_key=KEY))),
    ),
    "a held run is leased": ("G7", changed(1, run_change(10, row("pending", 0, hold="time"), leased(1)))),
    "a completed run changes": ("G8", added(run_change(23, row("completed", 2), row("completed", 2, crashes=1)))),
    "a completed run is leased": ("G8", added(run_change(23, row("completed", 2), leased(3)))),
    "a failed run goes on by itself": (
        "G8",
        added(run_change(22, leased(2), row("failed", 2)), run_change(23, row("failed", 2), row("pending", 2)), at=5),
    ),
    "a run is cancelled by nobody": ("G8", changed(5, run_change(22, leased(2), row("cancelled", 2)))),
    "a run vanishes": ("G8", added(run_change(23, row("completed", 2), None))),
    "an event is missing": ("G9", fields(events={RUN: Counter({"run:trigger": 1, "step:complete": 2})})),
    "an event has the wrong number": ("G9", fields(stored_events=[(RUN, 1), (RUN, 3)], heard=[(RUN, 1), (RUN, 3)])),
    "a subscriber misses an event": ("G9", fields(heard=[(RUN, number) for number in range(1, 9)])),
    "a subscriber hears nothing at all": ("G9", fields(heard=[])),
    "a subscriber hears an event twice": ("G9", fields(heard=[(RUN, n) for n in (*range(1, 10), 9)])),
    "a subscriber hears events out of order": ("G9", fields(heard=[(RUN, n) for n in (2, 1, *range(3, 10))])),
    "a cancelled run goes on": ("G10", fields(cancelled={RUN: 1.0})),
    "a value changes on its way": ("G11", did(deed(22, "got", 2, "b", "other"))),
    "a run fails without an error of its own": ("G12", changed(5, run_change(22, leased(2), row("failed", 2)))),
    "a run completes without its code": ("G12", without("end", 2)),
    "an output is lost": ("G12", changed(5, run_change(22, leased(2), row("completed", 2)))),
    "an output is another one": ("G12", changed(5, run_change(22, leased(2), row("completed", 2, output='["x"]')))),
    "an error is another one": (
        "G12",
        both(
            changed(5, run_change(22, leased(2), row("failed", 2, error='{"type": "OSError"}'))),
            did(deed(22, "raise", 2, value="ValueError")),
        ),
    ),
    "a step is dropped": ("G12", added(Change(23, "t", "step", RUN, {"name": "a"}, None))),
    "what succeeded is handed back": ("G12", changed(5, run_change(22, leased(2), row("pending", 2, attempt=1)))),
    "a crash is not counted": ("G13", changed(3, run_change(20, leased(1), leased(2)))),
    "an attempt is skipped": ("G13", changed(3, run_change(20, leased(1), leased(2, crashes=1, attempt=3)))),
    "what is no crash is counted": ("G13", changed(1, run_change(10, row("pending", 0), leased(1, crashes=1)))),
    "an interruption burns an attempt": ("G13", changed(5, run_change(22, leased(2), row("pending", 2)))),
    "a run is failed for crashes": (
        "G13",
        changed(5, run_change(22, leased(2), row("failed", 2, error='{"type": "WorkerCrashed"}'))),
    ),
    "a run is stuck": ("end", fields(runs={RUN: Ended(RUN, "job", "pending", 2, 2)})),
    "the scenario saw trouble": ("end", fields(troubles=["end: not over"])),
}


@pytest.mark.parametrize(("guarantee", "damage"), DAMAGE.values(), ids=list(DAMAGE))
def test_it_is_found_when(guarantee: str, damage: Damage) -> None:
    record = sound()
    damage(record)
    assert [finding for finding in check(record) if finding.startswith(f"{guarantee}:")]


def test_a_step_that_is_stored_again_is_found_though_its_value_is_the_same() -> None:
    record = sound()
    [*before, end] = record.changes
    record.changes = [*before, step_change(21.5, "b", 2, "y", {"name": "b", "status": "completed"}), end]
    [finding] = check(record)
    assert finding.startswith("G5: step b of r@2 was stored again")


def test_a_lease_that_ran_out_in_a_fault_of_all_is_excused() -> None:
    record = sound()
    record.faults = [Fault("a crash of the database", 12.0, 14.0, recovery=1.0)]
    assert check(record) == []
    record.faults = [replace(record.faults[0], at=1.0, over=2.0)]
    assert [finding[:3] for finding in check(record)] == ["G6:"]
