"""What is done to a store and to its model, and compared after every transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from durably.model import (
    DraftEvent,
    Ending,
    Enqueued,
    Event,
    EventType,
    Lease,
    NewRun,
    RunError,
    RunFilter,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
)
from durably.store import events, runs
from durably.store.operation import Operation, combine
from tests.models.bench import Bench
from tests.models.model import Model
from tests.models.tables import LIVING, Row, Told, Transaction

T = TypeVar("T")

JOBS = ("a", "b")
KEYS = ("one", "two")
NAMES = ("x", "y", "z")
LEASE = timedelta(seconds=30)
MAX_CRASHES = 2
ENDED = tuple(status for status in RunStatus if status.is_terminal)
FITTING = {"cancel": LIVING, "resume": (RunStatus.FAILED,), "delete": ENDED}

number = st.integers(0, 7)
few = st.integers(1, 3)
some_jobs = st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a", "b")])
a_while = st.sampled_from([timedelta(0), timedelta(seconds=10), timedelta(seconds=31), timedelta(minutes=5)])
often: Any = rule
"""For what is two or three rules, so that it is done more often."""
ways = st.sampled_from(["alone", "alone", "alone", "twice", "with the next"])


def same(result: object) -> object:
    return result


def told_one(result: Enqueued) -> object:
    return result.run.id, result.disposition


def told(result: Sequence[Enqueued]) -> object:
    """A repeated plain trigger is not read back: only that it is there is certain."""
    return [(one.run.id, one.disposition) for one in result]


@dataclass(frozen=True, slots=True)
class Move(Generic[T]):
    """One operation on both sides."""

    operation: Operation[T]
    transaction: Callable[[], Transaction[T]]
    seen: Callable[[T], object] = same
    """What is compared of the result."""


class Driver(RuleBasedStateMachine):
    bench: ClassVar[Bench]
    exercised: ClassVar[set[object]]

    def __init__(self) -> None:
        super().__init__()
        self.bench.empty()
        self.model = Model(self.bench.clock.now())
        self.last_id = self.do(events.last_event_id)
        self.gone: list[Row] = []
        self.next: Move[Any] | None = None
        self.written: dict[Lease, RunWrite] = {}
        self.tokens: list[str] = []
        self.asked: list[Sequence[NewRun]] = []
        self.copied: list[tuple[NewRun, Sequence[StepRecord]]] = []

    # --- doing it on both sides -----------------------------------------------------------------------

    def make(self, function: Callable[..., Operation[T]], *args: Any, **options: Any) -> Operation[T]:
        self.exercised.add(function)
        return function(*args, **options)

    def do(self, function: Callable[..., Operation[T]], *args: Any, **options: Any) -> T:
        return self.bench.do(self.make(function, *args, **options))

    def plural(self, write: Any, items: Sequence[Any]) -> tuple[Operation[Any], Sequence[Any]]:
        self.exercised.add(write)
        taken = items[: write.take(items)]
        return write.build(taken), taken

    def settle(self) -> None:
        """Do what waits to be done together with the next: nothing may delete what a trigger is to find."""
        move, self.next = self.next, None
        if move is not None:
            self._transact([move])

    def play(self, move: Move[Any], way: str) -> None:
        if move.operation.readonly:
            self.settle()  # looks are in no transaction of anybody else's
        before, self.next = self.next, None
        if before is not None:
            self._transact([before, move])
        elif way == "with the next" and not move.operation.readonly:
            self.next = move
        else:
            for _ in range(2 if way == "twice" and move.operation.is_repeatable else 1):
                self._transact([move])

    def _transact(self, moves: Sequence[Move[Any]]) -> None:
        operations = [move.operation for move in moves]
        results = self.bench.do(combine(operations)) if len(moves) > 1 else [self.bench.do(operations[0])]
        known = dict(self.model.runs)
        expected = self.model.apply(*(move.transaction() for move in moves))
        for move, result, answer in zip(moves, results, expected, strict=True):
            assert move.seen(result) == move.seen(answer)
        self.gone += [run for id, run in known.items() if id not in self.model.runs]
        self._compare()

    def _compare(self) -> None:
        """All runs, all keys, the events that the transaction made, and that nothing is left of runs that are gone."""
        model = self.model
        listing = self.make(runs.list_runs, RunFilter(limit=1000))
        both: Any = self.bench.do(combine([listing, self.make(events.feed, after=self.last_id, gaps=())]))
        found: object = both[0]
        made: Sequence[Event] = both[1].events
        assert found == model.list_runs(RunFilter(limit=1000))
        rows = [(row["key"], row["active"], row["limit"]) for row in self.bench.rows()]
        assert rows == [(name, model.active(name), key.limit) for name, key in sorted(model.keys.items())]
        every = model.runs.values()
        assert self.bench.counts() == (sum(len(run.steps) for run in every), sum(len(run.logs) for run in every))
        fresh = {(told.run_id, told.seq): told for told in model.fresh}
        assert sorted((event.run_id, event.seq or 0) for event in made) == sorted(fresh)
        for event in made:
            assert event.id is not None
            assert event.id > self.last_id
            self.last_id = event.id
            told = fresh[event.run_id, event.seq or 0]
            self.model.events.append((event.id, told))
            assert shown(event) == expected_event(event.id, told, model.payload(told))

    # --- picking ----------------------------------------------------------------------------------------

    def pick(self, place: int, *, gone: bool = False) -> Row | None:
        """One of the newest runs; with `gone`, maybe one that was deleted."""
        every = [*reversed(self.model.runs.values()), *(self.gone[-1:] if gone else ())]
        return every[place % len(every)] if every else None

    def pick_leased(self, place: int) -> Row | None:
        leased = [run for run in self.model.runs.values() if run.status is RunStatus.LEASED]
        return leased[place % len(leased)] if leased else self.pick(place)

    def pick_for(self, what: str, place: int) -> Row | None:
        """One to which this may be done, if there is one; now and then, another one."""
        fitting = [run for run in self.model.runs.values() if run.status in FITTING[what]]
        return fitting[place % len(fitting)] if fitting and place % 4 else self.pick(place, gone=True)

    def new_token(self) -> str:
        return self.bench.clock.new_id()

    def teardown(self) -> None:
        self.settle()


# --- values -----------------------------------------------------------------------------------------------


def a_write(run: Row, lease: Lease, count: int, **parts: Any) -> RunWrite:
    return RunWrite(lease=lease, number=count, concurrency_key=run.concurrency_key, **parts)


def some_checkpoints(run: Row, count: int) -> list[StepRecord]:
    """So many of those that it has, the first ones."""
    done = [step for step in run.steps.values() if step.status is StepStatus.COMPLETED]
    return sorted(done, key=lambda step: (step.position, step.name))[:count]


def a_step(run: Row, name: str, position: int, now: datetime, *, is_done: bool) -> StepRecord:
    return StepRecord(
        run_id=run.id,
        name=name,
        position=position,
        status=StepStatus.COMPLETED if is_done else StepStatus.FAILED,
        output_json=f'"{name}"' if is_done else None,
        error=None if is_done else RunError(type="ValueError", message="no", step=name),
        generation=run.generation,
        started_at=now - timedelta(milliseconds=1500),
        completed_at=now,
    )


def events_of(step: StepRecord, now: datetime) -> list[DraftEvent]:
    end = EventType.STEP_COMPLETE if step.status is StepStatus.COMPLETED else EventType.STEP_FAIL
    payload = None if step.error is None else '{"error":{"type":"ValueError","message":"no"}}'
    return [
        DraftEvent(type=EventType.STEP_START, at=step.started_at, step=step.name, position=step.position),
        DraftEvent(type=end, at=now, step=step.name, position=step.position, payload_json=payload),
    ]


def an_ending(end: str | None) -> Ending | None:
    match end:
        case None:
            return None
        case "completed" | "forgetting":
            return Ending(status=RunStatus.COMPLETED, output_json='"out"', keep_steps=end == "completed")
        case "failed":
            error = RunError(type="ValueError", message="broke", traceback="Trace", step="x")
            return Ending(status=RunStatus.FAILED, error=error)
        case _:
            return Ending(status=RunStatus.PENDING)


def shown(event: Event) -> tuple[object, ...]:
    payload = None if event.payload_json is None else json.loads(event.payload_json)
    at = event.created_at
    return event.id, event.run_id, event.seq, event.type, event.labels, event.step, event.position, payload, at


def expected_event(id: int, told: Told, payload: object) -> tuple[object, ...]:
    return id, told.run_id, told.seq, told.type, told.labels, told.step, told.position, payload, told.created_at
