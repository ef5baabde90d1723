"""The state machine: random operations on a store and on the model, which must agree on every answer and every row.

A rule makes a `Move`: the operation, and the model's transaction. It is done alone, twice (as after a commit in doubt),
or together with the next one in one transaction. After every transaction all runs, keys and events are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from durably.model import (
    Change,
    DraftEvent,
    EventType,
    Lease,
    LogEntry,
    NewRun,
    Progress,
    RunFilter,
    RunStatus,
    RunWrite,
    StepRecord,
)
from durably.store import actions, due, events, keys, leases, runs, steps
from tests.models.moves import (
    JOBS,
    KEYS,
    LEASE,
    NAMES,
    Driver,
    Move,
    a_step,
    a_while,
    a_write,
    an_ending,
    events_of,
    expected_event,
    few,
    number,
    often,
    same,
    shown,
    some_checkpoints,
    some_jobs,
    told,
    ways,
)
from tests.models.tables import Row, Transaction, served


class StoreMachine(Driver):
    # --- time and triggers ------------------------------------------------------------------------------

    @rule(by=a_while)
    def time_passes(self, by: timedelta) -> None:
        if self.next is None:
            self.bench.advance(by)
            self.model.now = self.bench.clock.now()

    def new_run(self, kind: tuple[Any, ...]) -> NewRun:
        job, key, name, if_pending, input, priority, wait, labels = kind
        clock = self.bench.clock
        return NewRun(
            id=clock.new_id(),
            job=job,
            input_json=str(input),
            input_digest=str(input) if name else None,
            idempotency_key=name,
            concurrency_key=key,
            if_pending=if_pending if key else "queue",
            labels=labels,
            priority=priority,
            delay=None if wait is None or wait[0] == "at" else wait[1],
            run_at=clock.now() + wait[1] if wait is not None and wait[0] == "at" else None,
        )

    kinds = st.tuples(
        st.sampled_from(JOBS),
        st.sampled_from((*KEYS, "one", None)),
        st.sampled_from((None, None, *NAMES[:2])),
        st.sampled_from(("queue", "queue", "skip", "replace", "reject")),
        st.integers(1, 2),
        st.sampled_from((0, 0, 1, -1)),
        st.sampled_from(
            (None, None, ("delay", timedelta(seconds=20)), ("at", timedelta(seconds=20)), ("at", timedelta(minutes=-5)))
        ),
        st.sampled_from(({}, {"tenant": "t"}, {"tenant": "t", "n": "1"})),
    )

    @initialize(some=st.lists(kinds, min_size=1, max_size=4))
    def begin(self, some: list[tuple[Any, ...]]) -> None:
        self.enqueue(some, "alone")

    @rule(some=st.lists(kinds, min_size=1, max_size=3), way=ways)
    def trigger(self, some: list[tuple[Any, ...]], way: str) -> None:
        self.enqueue(some, way)

    def enqueue(self, some: list[tuple[Any, ...]], way: str) -> None:
        self.enqueue_these([self.new_run(kind) for kind in some], way, is_again=way == "twice")

    @rule(jobs=st.lists(st.sampled_from(JOBS), min_size=1, max_size=3), way=ways)
    def enqueue_plain(self, jobs: Sequence[str], way: str) -> None:
        """Nothing is said but job and input, as of most runs: they have a way of their own into the tables."""
        items = [self.new_run((job, None, None, "queue", 1, 0, None, {})) for job in jobs]
        self.enqueue_these(items, way, is_again=way == "twice")

    def enqueue_these(self, asked: Sequence[NewRun], way: str, *, is_again: bool) -> None:
        operation, items = self.plural(runs.enqueue, asked)
        self.asked.append(items)
        self.play(Move(operation, lambda: self.model.enqueue(items), told if is_again else list), way)

    @rule(kind=kinds, place=number, step=number, way=ways)
    def retrigger(self, kind: tuple[Any, ...], place: int, step: int, way: str) -> None:
        """With checkpoints of a run that may be deleted in the same transaction, or be gone already."""
        if (source := self.pick(place, gone=True)) is not None:
            new = self.new_run((*kind[:3], "queue", *kind[4:]))
            self.copied.append((new, some_checkpoints(source, step)))
            self.copy(*self.copied[-1], way, same)

    def copy(self, new: NewRun, taken: Sequence[StepRecord], way: str, seen: Callable[[Any], object]) -> None:
        operation = self.make(runs.retrigger, new, taken)
        self.play(Move(operation, lambda: self.model.retrigger(new, taken), seen), way)

    # --- claims and leases --------------------------------------------------------------------------------

    def do_claim(self, jobs: Sequence[str], limit: int, lease: timedelta, floor: int, way: str) -> None:
        waiting = served(run for run in self.model.runs.values() if run.is_claimable)
        lowest = waiting[-1].rank if floor == 0 and waiting else leases.LOWEST_RANK
        options: dict[str, Any] = {"limit": limit, "owner": "me", "token": self.new_token(), "lease": lease}
        self.tokens.append(options["token"])
        operation = self.make(leases.claim, jobs, **options, floor=lowest)
        self.play(Move(operation, lambda: self.model.claim(jobs, **options, floor=lowest)), way)

    claims: ClassVar[dict[str, Any]] = {
        "jobs": some_jobs,
        "limit": few,
        "lease": st.sampled_from([LEASE, LEASE, timedelta(0)]),
        "floor": st.integers(0, 3),
        "way": ways,
    }
    claim, claim_more = often(**claims)(do_claim), often(**claims)(do_claim)

    @rule(jobs=some_jobs, limit=few, max_crashes=st.integers(1, 3), held=number, way=ways)
    def claim_expired(self, jobs: Sequence[str], limit: int, max_crashes: int, held: int, way: str) -> None:
        run = self.pick_leased(held)
        options: dict[str, Any] = {"limit": limit, "owner": "other", "token": self.new_token(), "lease": LEASE}
        options |= {"max_crashes": max_crashes, "held": (run.id,) if run is not None and held == 0 else ()}
        self.tokens.append(options["token"])
        operation = self.make(leases.claim_expired, jobs, **options)
        self.play(Move(operation, lambda: self.model.claim_expired(jobs, **options)), way)

    @rule(jobs=some_jobs, limit=few, max_crashes=st.integers(1, 2), way=ways)
    def fail_crashed(self, jobs: Sequence[str], limit: int, max_crashes: int, way: str) -> None:
        """What is found is failed; so is, with its generation, what somebody else has taken meanwhile: not."""
        looking = self.make(leases.crashed, jobs, max_crashes=max_crashes, limit=limit)
        self.play(Move(looking, lambda: self.model.crashed(jobs, max_crashes=max_crashes, limit=limit)), "alone")
        found = [run.stored for run in self.model.runs.values() if run.generation > 0][:limit]
        if found:
            operation = self.make(leases.fail_crashed, found, max_crashes=max_crashes)
            self.play(Move(operation, lambda: self.model.fail_crashed(found, max_crashes=max_crashes)), way)

    @rule(places=st.lists(number, min_size=1, max_size=4), older=st.integers(0, 3), lease=a_while, way=ways)
    def renew(self, places: list[int], older: int, lease: timedelta, way: str) -> None:
        picked = [self.pick(place, gone=True) for place in places]
        found = {run.id: Lease(run.id, run.generation - (older == place)) for place, run in enumerate(picked) if run}
        held = tuple(found.values())
        renewing = self.make(leases.renew, held, lease=lease)
        self.play(Move(renewing, lambda: self.model.renew(held, lease=lease)), way)
        looking = self.make(leases.lapsed, held)
        self.play(Move(looking, lambda: self.model.lapsed(held)), "alone")

    # --- what lease holders write -------------------------------------------------------------------------

    def do_write(self, places: list[int], kinds: list[str], end: str | None, stale: int, name: int, way: str) -> None:
        picked = {run.id: run for place in places if (run := self.pick_leased(place)) is not None}
        items: list[RunWrite] = []
        for run in picked.values():
            lease = Lease(run.id, run.generation - (stale == 1))
            last = self.written.get(lease)
            if stale != 2 or last is None:  # else the last write comes once more: a number is for one content only
                parts = self.parts(run, kinds, NAMES[name % 3]) | {"ending": an_ending(end)}
                last = self.written[lease] = a_write(run, lease, 1 if last is None else last.number + 1, **parts)
            items.append(last)
        if items:
            write = steps.write_keyed if any(item.concurrency_key for item in items) else steps.write_fast
            operation, taken = self.plural(write, items)
            self.play(Move(operation, lambda: self.model.write(taken)), way)
            run_id = items[0].lease.run_id
            if self.next is None:
                assert self.do(steps.load_steps, run_id) == self.model.load_steps(run_id)

    writes: ClassVar[dict[str, Any]] = {
        "places": st.lists(number, min_size=1, max_size=3),
        "kinds": st.lists(st.sampled_from(["step", "step", "late step", "failed step", "log", "progress"]), max_size=2),
        "end": st.sampled_from([None, None, "pending", "failed", "completed", "forgetting"]),
        "stale": number,
        "name": number,
        "way": ways,
    }
    write, write_more, write_most = often(**writes)(do_write), often(**writes)(do_write), often(**writes)(do_write)

    @rule(
        places=st.lists(number, min_size=1, max_size=2),
        kind=st.sampled_from(["step", "late step", "completed"]),
        stale=st.integers(0, 3),
        name=number,
        way=ways,
    )
    def write_plain(self, places: list[int], kind: str, stale: int, name: int, way: str) -> None:
        """One step, or the end, as nearly every write is: they have a way of their own too."""
        is_end = kind == "completed"
        self.do_write(places, [] if is_end else [kind], kind if is_end else None, stale, name, way)

    def parts(self, run: Row, kinds: Sequence[str], name: str) -> dict[str, Any]:
        """Steps, events and progress of one write; names come again, and what is stored stays."""
        now, told, records, progress = self.bench.clock.now(), list[DraftEvent](), list[StepRecord](), None
        for place, kind in enumerate(kinds):
            step = f"{name}{place}"
            if kind == "progress":
                progress = Progress(current=float(len(run.logs) + place))
                told.append(DraftEvent(type=EventType.RUN_PROGRESS, at=now, payload_json='{"current":1}'))
            elif kind == "log":
                entry = LogEntry(level="info", message=f"line {place}", data_json='{"a":1}' if place else None)
                told.append(DraftEvent(type=EventType.LOG_WRITE, at=now, step=None, log=entry))
            else:
                records.append(a_step(run, step, run.next_step + place, now, is_done=kind != "failed step"))
                told += events_of(records[-1], now)[kind == "late step" :]  # its start was told before
        return {"steps": tuple(records), "events": tuple(told), "progress": progress}

    @rule(place=number, name=number, way=ways)
    def cancel_step(self, place: int, name: int, way: str) -> None:
        if (run := self.pick(place)) is not None:
            lease, step, at = Lease(run.id, run.generation), NAMES[name % 3], self.bench.clock.now()
            event = DraftEvent(type=EventType.STEP_CANCEL, at=at, step=step, position=name)
            operation = self.make(steps.cancel_step, lease, event)
            self.play(
                Move(operation, lambda: self.model.cancel_step(lease, step=step, position=name, at=at)),
                "alone" if way == "with the next" else way,
            )

    # --- what users do ------------------------------------------------------------------------------------

    def changes(self, places: Sequence[int], what: str) -> list[Change]:
        picked = {run.id: run for place in places if (run := self.pick_for(what, place)) is not None}
        return [
            Change(run_id=run.id, concurrency_key=run.concurrency_key, token=self.new_token())
            for run in picked.values()
        ]

    @rule(
        places=st.lists(number, min_size=1, max_size=2), what=st.sampled_from(["cancel", "resume", "delete"]), way=ways
    )
    def change(self, places: list[int], what: str, way: str) -> None:
        if not (items := self.changes(places, what)):
            return
        sides: Mapping[str, tuple[Any, Callable[[Sequence[Change]], Transaction[Any]]]] = {
            "cancel": (actions.cancel, self.model.cancel),
            "resume": (actions.resume, self.model.resume),
            "delete": (actions.delete, self.model.delete),
        }
        if what == "delete":
            self.settle()
        write, modelled = sides[what]
        operation, taken = self.plural(write, items)
        self.play(Move(operation, lambda: modelled(taken)), way)

    @rule(age=a_while, status=st.sampled_from(["completed", "failed", "cancelled"]), limit=few, way=ways)
    def purge_runs(self, age: timedelta, status: str, limit: int, way: str) -> None:
        self.settle()
        options: dict[str, Any] = {"older_than": age, "status": RunStatus(status), "limit": limit}
        self.play(Move(self.make(actions.purge_runs, **options), lambda: self.model.purge_runs(**options)), way)

    @precondition(lambda self: self.next is None)
    @rule(age=a_while, limit=st.integers(1, 9))
    def purge_events(self, age: timedelta, limit: int) -> None:
        options: dict[str, Any] = {"older_than": age, "limit": limit}
        self.play(Move(self.make(events.purge_events, **options), lambda: self.model.purge_events(**options)), "alone")

    # --- keys and start times -----------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), limit=st.integers(0, 3), way=ways)
    def set_limit(self, key: str, limit: int, way: str) -> None:
        operation = self.make(keys.set_limit, key, limit)
        self.play(Move(operation, lambda: self.model.set_limit(key, limit)), way)

    @rule(limit=few, way=ways)
    def purge_keys(self, limit: int, way: str) -> None:
        self.play(Move(self.make(keys.purge_keys, limit), lambda: self.model.purge_keys(limit)), way)

    @precondition(lambda self: self.next is None)
    @rule(by=st.sampled_from([1, -1]))
    def audit(self, by: int) -> None:
        """A counter that something broke is found and mended."""
        adrift = [name for name in self.model.keys if self.model.active(name) + by >= 0]
        for name in adrift:
            self.bench.sql(f"UPDATE {{concurrency_keys}} SET active = active + {by} WHERE key = '{name}'")
        assert self.do(keys.find_drift) == sorted(adrift)
        every = tuple(self.model.keys)
        operation = self.make(keys.audit_keys, every)
        self.play(Move(operation, lambda: self.model.audit_keys(every, adrift=adrift)), "alone")

    @rule(limit=few, way=ways)
    def release_due(self, limit: int, way: str) -> None:
        self.play(Move(self.make(due.release_due, limit), lambda: self.model.release_due(limit)), "alone")
        operation = self.make(due.admit_due, KEYS)
        self.play(Move(operation, lambda: self.model.admit_due(KEYS)), way)

    # --- reading ------------------------------------------------------------------------------------------

    @rule(jobs=some_jobs, max_crashes=st.integers(1, 3), token=number)
    def look(self, jobs: Sequence[str], max_crashes: int, token: int) -> None:
        operation = self.make(due.look, jobs, max_crashes=max_crashes)
        self.play(Move(operation, lambda: self.model.look(jobs, max_crashes=max_crashes)), "alone")
        asked = self.tokens[-1 - token % len(self.tokens)] if self.tokens else self.new_token()
        reading = self.make(leases.claimed, jobs, token=asked)
        self.play(Move(reading, lambda: self.model.claimed(jobs, token=asked)), "alone")

    @precondition(lambda self: self.next is None)
    @rule(
        jobs=st.sampled_from([(), ("a",), ("b", "a"), ("none",)]),
        statuses=st.lists(st.sampled_from(RunStatus), max_size=2),
        labels=st.sampled_from([{}, {}, {"tenant": "t"}, {"n": "1"}]),
        key=st.sampled_from([None, None, *KEYS]),
        limit=few,
    )
    def pages(
        self, jobs: tuple[str, ...], statuses: list[RunStatus], labels: dict[str, str], key: str | None, limit: int
    ) -> None:
        """Page after page, the lists are what the filter says."""
        before: str | None = None
        while True:
            which = RunFilter(
                jobs=jobs, statuses=tuple(statuses), labels=labels, concurrency_key=key, before=before, limit=limit
            )
            page = self.do(runs.list_runs, which)
            assert page == self.model.list_runs(which)
            if len(page) < limit:
                return
            before = page[-1].id

    @precondition(lambda self: self.next is None)
    @rule(place=number, after=number, limit=few)
    def reads(self, place: int, after: int, limit: int) -> None:
        """One run with all that belongs to it."""
        run = self.pick(place, gone=True)
        if run is None:
            return
        known = self.model.runs.get(run.id)
        assert self.do(runs.get_run, run.id) == (None if known is None else known.stored)
        assert self.do(steps.load_steps, run.id) == self.model.load_steps(run.id)
        logs = self.do(events.load_logs, run.id, after_seq=after, limit=limit)
        assert logs == self.model.load_logs(run.id, after_seq=after, limit=limit)
        told = [(id, told) for id, told in self.model.events if told.run_id == run.id and told.seq > after]
        found = self.do(events.run_events, run.id, after_seq=after, limit=limit)
        payloads = [expected_event(id, one, self.model.payload(one)) for id, one in told[:limit]]
        assert [shown(event) for event in found] == payloads

    @precondition(lambda self: self.next is None)
    @rule(limit=few)
    def follows_the_feed(self, limit: int) -> None:
        """From the beginning, page by page, every event is met once, in order."""
        every, met, after = [id for id, _ in self.model.events], list[int](), 0
        while page := self.do(events.feed, after=after, gaps=(), limit=limit).events:
            met += [event.id or 0 for event in page]
            after = met[-1]
        assert met == every
        assert self.do(events.last_event_id) == (every[-1] if every else 0)
        assert self.do(events.barrier) >= 0
