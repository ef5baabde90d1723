"""The rest of the state machine: users' own transactions, and what watchers and caretakers ask."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from durably.model import RunFilter, RunStatus
from durably.store import care, inside, overview
from durably.store.operation import Operation, Rows, combine
from tests.models import watching
from tests.models.machine import StoreMachine
from tests.models.model import Model
from tests.models.moves import (
    KEYS,
    a_while,
    expected_event,
    few,
    number,
    shown,
    some_checkpoints,
    told_one,
    ways,
)
from tests.models.tables import LIVING

filters = st.builds(
    RunFilter,
    jobs=st.sampled_from([(), (), ("a",), ("b", "a"), ("none",)]),
    statuses=st.lists(st.sampled_from(RunStatus), max_size=2).map(tuple),
    labels=st.sampled_from([{}, {}, {"tenant": "t"}, {"n": "1"}]),
    concurrency_key=st.sampled_from([None, None, *KEYS]),
)
parts = st.tuples(
    st.sampled_from(["enqueue", "enqueue", "again", "cancel", "cancel", "cancel", "read"]),
    st.lists(StoreMachine.kinds, min_size=1, max_size=2),
    number,
    number,
)


class WholeMachine(StoreMachine):
    """All operations of the store."""

    @rule(place=number)
    def trigger_again(self, place: int) -> None:
        """A trigger that was in doubt comes again, whatever became of its runs meanwhile."""
        self.settle()
        gone = {run.id for run in self.gone}
        lost = [items for items in self.asked if any(item.id in gone for item in items)]
        asked = lost if lost and place % 2 else self.asked
        self.enqueue_these(asked[-1 - place % len(asked)], "alone", is_again=True)

    @precondition(lambda self: bool(self.copied))
    @rule(place=number, way=ways)
    def retrigger_again(self, place: int, way: str) -> None:
        """As after a commit in doubt, also when the new run has been claimed, has ended, or is gone."""
        self.settle()
        self.copy(*self.copied[-1 - place % len(self.copied)], way, told_one)

    # --- users' transactions ------------------------------------------------------------------------------

    @rule(some=st.lists(parts, min_size=1, max_size=3), end=st.sampled_from(["commit", "commit", "rollback"]))
    def users_transaction(self, some: Sequence[Any], end: str) -> None:
        """What a user does in a transaction is there with its commit, and only then."""
        self.settle()
        model, operations, is_committed = self.model, list[Operation[Any]](), end == "commit"

        def play() -> list[Any]:
            answers: list[Any] = []
            for part in some:
                for operation, expected in self.said(*part):
                    operations.append(operation)
                    answers.append(expected)
            return answers

        [answers] = model.inside([play], is_committed=is_committed)
        assert self.bench.inside(operations, is_committed=is_committed) == answers
        self._compare()

    def said(self, what: str, kinds: Sequence[Any], place: int, step: int) -> list[tuple[Operation[Any], Any]]:
        """Operations, and what the model answers; each sees what those before it did."""
        model, run = self.model, self.pick(place, gone=True)
        if what == "enqueue":
            items = [self.new_run((*kind[:3], "queue", *kind[4:])) for kind in kinds]
            return [(self.make(inside.enqueue, items), model.enqueue_inside(items))]
        if run is None:
            return []
        if what == "cancel":
            holding = [one for one in model.runs.values() if one.slot and one.status in LIVING]
            run = holding[place % len(holding)] if holding and place % 2 else run
            token = self.new_token()
            return [(self.make(inside.cancel, run.id, token=token), model.cancel_inside(run.id, token=token))]
        reading = (self.make(inside.get_run, run.id), _stored(model, run.id))
        stored_steps = (self.make(inside.load_steps, run.id), model.load_steps(run.id))
        if what == "read" or run.id not in model.runs:
            return [reading, stored_steps, (_has_tables(self.make(inside.look)), True)]
        kind, taken = kinds[0], some_checkpoints(run, step)
        new = self.new_run((*kind[:2], None, "queue", *kind[4:]))
        stored = (self.make(inside.enqueue, [new]), model.enqueue_inside([new]))
        copying = self.make(inside.copy_steps, new.id, taken)
        model.copy_inside(new.id, taken)
        return [
            reading,
            stored_steps,
            stored,
            (copying, None),
            (self.make(inside.get_run, new.id), _stored(model, new.id)),
        ]

    # --- what watchers ask --------------------------------------------------------------------------------

    @precondition(lambda self: self.next is None)
    @rule(which=filters, offset=st.integers(1, 6), within=a_while, place=number)
    def watches(self, which: RunFilter, offset: int, within: timedelta, place: int) -> None:
        """Counts, places in the list, one run at one moment, and who works."""
        model, run = self.model, self.pick(place, gone=True)
        run_id = self.new_token() if run is None else run.id
        job, key = ("job", "key") if run is None else (run.job, run.idempotency_key or "key")
        skipped, counted, seen, activity, keyed = self.all_of(
            self.make(overview.skip_runs, which, offset=offset),
            self.make(overview.count_runs, which, within=within),
            self.make(overview.snapshot, run_id),
            self.make(overview.activity),
            self.make(overview.run_by_key, job, key),
        )
        has_it = (one for one in model.runs.values() if (one.job, one.idempotency_key) == (job, key))
        assert keyed == next((_stored(model, one.id) for one in has_it), None)
        assert skipped == watching.skip_runs(model, which, offset=offset)
        assert counted == watching.count_runs(model, which, within=within)
        assert seen == watching.snapshot(model, run_id)
        assert set(activity.holders) == watching.holders(model)
        assert activity.recent == watching.recent_owners(model)
        assert activity.schema_version == overview.code_version("postgres" if self.bench.is_postgres else "sqlite")

    @precondition(lambda self: self.next is None)
    @rule(age=a_while, statuses=st.lists(st.sampled_from(RunStatus), max_size=2), limit=few, place=number)
    def takes_care(self, age: timedelta, statuses: Sequence[RunStatus], limit: int, place: int) -> None:
        """What those who look after a database ask."""
        model, after, before = self.model, ("", *KEYS)[place % 3], self.last_id - place
        purgeable, newest, limits, waiting, expired, now = self.all_of(
            self.make(care.count_purgeable, older_than=age, statuses=statuses),
            self.make(care.recent_events, before=before, limit=limit),
            self.make(care.list_limits, after=after, limit=limit),
            self.make(care.read_waiting),
            self.make(care.read_expired),
            self.make(care.read_clock),
        )
        assert purgeable == watching.count_purgeable(model, older_than=age, statuses=statuses)
        told = watching.recent_events(model, before=before, limit=limit)
        assert [shown(event) for event in newest] == [expected_event(id, one, model.payload(one)) for id, one in told]
        assert limits == watching.list_limits(model, after=after, limit=limit)
        assert waiting == watching.read_waiting(model)
        assert expired == watching.read_expired(model)
        assert now == model.now

    def all_of(self, *operations: Operation[Any]) -> list[Any]:
        return self.bench.do(combine(operations))

    def examine(self) -> None:
        """What is not about runs: that it answers."""
        if self.bench.is_postgres:
            self.bench.sql("ANALYZE {runs}")  # it tells of no index whose table was never analyzed
        schema, tables, indexes, server = self.all_of(
            self.make(care.read_schema),
            self.make(care.read_tables),
            self.make(care.read_indexes),
            self.make(care.read_server),
        )
        [applied] = self.bench.inside([self.make(inside.version)], is_committed=True)
        assert applied.applied.version == schema[-1].version
        assert tables
        assert bool(indexes) == self.bench.is_postgres
        assert server.is_vacuuming
        assert self.do(care.shrink_wal)


def _stored(model: Model, run_id: str) -> Any:
    run = model.runs.get(run_id)
    return None if run is None else run.stored


def _has_tables(look: Operation[inside.Here]) -> Operation[bool]:
    """Which tables these are is the server's to say; that they are there, the model knows."""

    def decode(rows: Sequence[Rows]) -> bool:
        return look.decode(rows).has_tables

    return Operation(statements=look.statements, decode=decode, readonly=look.readonly)
