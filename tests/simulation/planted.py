"""Bugs planted on purpose: a simulation that does not find them proves nothing.

Each one changes the SQL as it is loaded, or replaces a method. A change that no longer hits anything fails: whoever
rewrites what it aims at has to aim it anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest.mock import patch

from durably.errors import DatabaseUnavailable
from durably.model import Ending, Event, LeaseState, NewRun, RunStatus, RunWrite, StepRecord, Verdict
from durably.rules import outcome
from durably.runtime import again, claims, execution, inside, maintenance, renewer, steps, tenure
from durably.store import catalogue, operation, rows, runs, sqlite, write_rows
from durably.store.catalogue import Catalogue, Sql
from durably.store.engine import Channel
from durably.store.operation import Operation, Rows, Statement
from durably.testing import SimulatedEnvironment


def private(owner: object, name: str) -> Any:
    """What no operation shows."""
    value: Any = vars(owner)[name]
    return value


Plant = Callable[[], AbstractContextManager[object]]
_load = catalogue.load


@dataclass(frozen=True)
class Bug:
    """A bug, how it is planted, and a seed whose simulation finds it."""

    name: str
    breaks: str
    """The guarantee that does not hold any more, or `end`."""
    plant: Plant
    seed: int

    def is_found(self, findings: Sequence[str]) -> bool:
        """Whether it is this bug that was found: not that its SQL does not run."""
        return any(finding.startswith(f"{self.breaks}:") for finding in findings)


# --- in the SQL -----------------------------------------------------------------------------------------------


def sql(block: str, *changes: tuple[str, str]) -> Plant:
    """Replace regular expressions in the statements of a block."""

    def load(dialect: str, prefix: str) -> Catalogue:
        known = dict(_load(dialect, prefix))
        known[block] = _changed(block, known[block], changes)
        return known

    return lambda: patch.object(catalogue, "load", cache(load))


def _changed(block: str, statements: tuple[Sql, ...], changes: Sequence[tuple[str, str]]) -> tuple[Sql, ...]:
    for pattern, text in changes:
        found = sum(len(re.findall(pattern, one.text)) for one in statements)
        if not found:
            raise LookupError(f"the bug misses: {pattern!r} is not in the block {block!r} any more")
        statements = tuple(replace(one, text=re.sub(pattern, text, one.text)) for one in statements)
    return statements


@contextmanager
def _event_outside() -> Generator[None]:
    """Cancel in one transaction, and tell of it in the next one."""

    def load(dialect: str, prefix: str) -> Catalogue:
        known = dict(_load(dialect, prefix))
        event, *rest = known["cancel_runs"]
        if "INSERT INTO durably_events" not in event.text:
            raise LookupError("the bug misses: cancel_runs does not begin with its event any more")
        known["cancel_runs"] = _changed("cancel_runs", tuple(rest), [(r"seq = seq \+ 1, ", "")])
        late = _changed("cancel_runs", (event,), [(r"r\.status IN \('pending', 'leased'\)", "r.request = i.token")])
        counted = "UPDATE durably_runs SET seq = seq + 1 WHERE request IN (SELECT value->>1 FROM json_each(:items))"
        known["tell_cancel"] = (*late, Sql(counted, ("items",), None))
        return known

    transact = sqlite.SqliteEngine.transact

    async def late(
        self: sqlite.SqliteEngine, statements: Sequence[Statement], channel: Channel, *, readonly: bool
    ) -> list[Rows]:
        rows = await transact(self, statements, channel, readonly=readonly)
        for statement in statements:
            if statement.name == "cancel_runs":
                await transact(self, [Statement("tell_cancel", statement.params)], channel, readonly=False)
        return rows

    with patch.object(catalogue, "load", load), patch.object(sqlite.SqliteEngine, "transact", late):
        yield


# --- in the code ----------------------------------------------------------------------------------------------


def method(owner: type[Any], name: str, make: Callable[[Any], Any]) -> Plant:
    """Replace a method by what `make` makes of it."""

    def plant() -> AbstractContextManager[object]:
        if name not in vars(owner):
            raise LookupError(f"the bug misses: {owner.__name__} has no {name} any more")
        return patch.object(owner, name, make(vars(owner)[name]))

    return plant


def _without_slot(admission: Any) -> Any:
    def _admission(self: Operation[Any]) -> tuple[Statement, ...]:
        is_end = any(statement.name == "write_runs" for statement in self.statements)
        found: tuple[Statement, ...] = admission(self)
        return () if is_end else found

    return _admission


def _inside_try(write: Any) -> Any:
    """An end that cannot be stored at once fails the run."""

    async def _write(self: Any, ending: Ending) -> Verdict | None:
        place = private(self, "_place")
        try:
            await place.database.run(Operation((Statement("last_event_id", {}),), len, is_repeatable=False))
        except DatabaseUnavailable as error:
            ending = Ending(status=RunStatus.FAILED, error=outcome.capture(error))
        verdict: Verdict | None = await write(self, ending)
        return verdict

    return _write


def _no_loop(_: Any) -> Any:
    def start_loop(self: Any, name: str, main: Any, ended: Any) -> Any:
        raise RuntimeError(f"{self}, {name}, {main}, {ended}: no loop but the worker's")

    return start_loop


def _forgets_doubts(_: Any) -> Any:
    async def _resolve_doubts(self: Any) -> None:
        private(self, "_doubtful").clear()

    return _resolve_doubts


def _called_twice(perform: Any) -> Any:
    async def twice(self: Any, step: Any, fn: Any, args: Any, *, is_async: bool) -> object:
        if is_async:
            with suppress(Exception):
                await fn(*args)
        return await perform(self, step, fn, args, is_async=is_async)

    return twice


def _live(complete: Any) -> Any:
    async def live(self: Any, step: Any, value: object) -> object:
        await complete(self, step, value)
        return value

    return live


def _uninterrupted(_: Any) -> Any:
    def interrupt(self: Any, reason: Any) -> None:
        self.steps.stop(reason)

    return interrupt


def _deaf_to_cancel(end: Any) -> Any:
    def _end(self: Any, held: Any, state: LeaseState) -> None:
        if state is not LeaseState.CANCELLED:
            end(self, held, state)

    return _end


def _generous(extend: Any) -> Any:
    def generous(self: Any, until: float) -> None:
        extend(self, until + 4.0)

    return generous


def _no_load(_: Any) -> Any:
    def load(self: Any, records: Sequence[StepRecord]) -> None:
        vars(self)["_stored"] = {record.name: record for record in records[1:]}

    return load


def _only_woken(_: Any) -> Any:
    async def _rest(self: Any, _: object) -> None:
        await private(self, "_woken").wait()

    return _rest


def _never(_: Any) -> Any:
    async def never(self: Any) -> bool:
        return False

    return never


def _nothing(_: Any) -> Any:
    def nothing(self: Any) -> None: ...

    return nothing


def _decides(change: Callable[[outcome.Finish, Ending | None], Ending | None]) -> Plant:
    decide = outcome.decide

    def decided(finish: outcome.Finish, *, preserve_steps: bool = True) -> Ending | None:
        return change(finish, decide(finish, preserve_steps=preserve_steps))

    return lambda: patch.object(outcome, "decide", decided)


def _drops_steps(finish: outcome.Finish, ending: Ending | None) -> Ending | None:
    return replace(ending, keep_steps=False) if isinstance(finish, outcome.Raised) and ending else ending


def _keeps_lease(_: outcome.Finish, ending: Ending | None) -> Ending | None:
    return None if ending is not None and ending.status is RunStatus.PENDING else ending


def _no_starts() -> AbstractContextManager[object]:
    events = rows.events

    def last(row: Any) -> tuple[Event, ...]:
        return events(row)[-1:]

    return patch.object(rows, "events", last)


def _starts_untold() -> AbstractContextManager[object]:
    """As if a step that ran through had never begun: no number is left out."""
    checkpoint = write_rows._checkpoint  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def ended(write: RunWrite) -> tuple[object, ...]:
        row: tuple[object, ...] = checkpoint(write)
        return (*row[:3], 1, *row[4:])

    return patch.object(write_rows, "_checkpoint", ended)


@contextmanager
def _new_ids() -> Generator[None]:
    """Each attempt to store a trigger gives it a new id."""
    build, count = runs.enqueue.build, iter(range(1, 1_000_000))

    def renamed(items: Sequence[NewRun]) -> Operation[Any]:
        return build([replace(item, id=f"{item.id[:-6]}{next(count):06x}") for item in items])

    write = replace(runs.enqueue, build=renamed)
    with ExitStack() as stack:
        for module in ("durably.store.runs", "durably.runtime.trigger"):
            stack.enter_context(patch(f"{module}.enqueue", write))
        yield


@contextmanager
def _one_step_more() -> Generator[None]:
    """What a new run takes over holds the step that it begins with."""
    before = again.checkpoints_before

    def one_more(steps: Sequence[StepRecord], from_step: str) -> list[StepRecord] | None:
        taken = before(steps, from_step)
        return None if taken is None else [*taken, *(step for step in steps if step.name == from_step)]

    with ExitStack() as stack:
        for module in (again, inside):
            stack.enter_context(patch.object(module, "checkpoints_before", one_more))
        yield


_IS_LEFT = """WHERE EXISTS (
    SELECT 1 FROM durably_steps t WHERE t.run_id <> :run_id AND t.name = s.value->>0 AND t.completed_at = s.value->>4
)"""
"""What is copied is still somebody else's step."""

BUGS = (
    Bug(
        "the fence is removed",
        "G4",
        sql("write_runs", (r"generation = :generation", "generation >= :generation")),
        41,
    ),
    Bug("writes are not numbered", "G9", sql("write_runs", (r"writes < :number", "true")), 11),
    Bug(
        "a claim takes runs that are held",
        "G7",
        sql("claim", (r"x\.hold IS NULL", "true"), (r"status = 'leased', ", "status = 'leased', hold = NULL, ")),
        1,
    ),
    Bug(
        "a claim takes leases that are in force",
        "G3",
        sql("claim_expired", (r"x\.lease_expires_at <= :now", "true")),
        3,
    ),
    Bug(
        "a takeover keeps the generation",
        "G3",
        sql("claim_expired", (r"generation = generation \+ 1", "generation = generation")),
        1,
    ),
    Bug("a takeover counts no crash", "G13", sql("claim_expired", (r"crashes = crashes \+ 1", "crashes = crashes")), 1),
    Bug(
        "being handed back counts as a crash",
        "G13",
        sql("write_runs", (r"attempt = attempt -", "crashes = crashes + (:status = 'pending'), attempt = attempt -")),
        7,
    ),
    Bug(
        "a checkpoint leaves the count of crashes",
        "G13",
        sql(
            "write_runs",
            (r"CASE WHEN :completed > 0 THEN 0 ELSE crashes END", "crashes"),
            (r", crashes = 0", ""),
        ),
        1,
    ),
    Bug("crashes are counted too early", "end", sql("claim_expired", (r"x\.crashes \+ 1 <", "x.crashes + 2 <")), 3),
    Bug("a crash too many is allowed", "G13", sql("claim_expired", (r"x\.crashes \+ 1 <", "x.crashes <")), 29),
    Bug(
        "a dead worker's runs wait longer than they must",
        "G6",
        sql("claim_expired", (r"x\.lease_expires_at <= :now", "x.lease_expires_at <= :now - 4000000")),
        2,
    ),
    Bug(
        "a doubtful claim takes what others hold",
        "G3",
        sql("claimed", (r"r\.token = :token", "r.token IS NOT NULL")),
        0,
    ),
    Bug(
        "a refused write is told as stored",
        "G5",
        sql("write_runs", (r"(?s)(SELECT durably_rows.*)", r"\1 AND false")),
        4,
    ),
    Bug("what was cancelled is still written to", "G4", sql("write_runs", (r"[+r.]*status = 'leased' AND", "")), 4),
    Bug(
        "a completed run loses its output",
        "G12",
        sql("write_runs", (r"output = :output, error = NULL", "error = NULL")),
        2,
    ),
    Bug("an idempotency key is lost", "G2", sql("insert_runs", (r":idempotency_key", "NULL")), 2),
    Bug("a concurrency key is lost", "G7", sql("insert_runs", (r":concurrency_key AS", "NULL AS")), 0),
    Bug("a start time is lost", "G1", sql("insert_runs", (r"coalesce\(:run_at, :now \+ :delay_us\)", ":run_at")), 0),
    Bug(
        "a start time is missed",
        "G6",
        sql("release_due", (r"r\.available_at <= :now", "r.available_at <= :now - 4000000")),
        70,
    ),
    Bug("a step is called twice", "G5", method(steps.Steps, "perform", _called_twice), 0),
    Bug("the start of a step is never told", "G9", _starts_untold, 4),
    Bug(
        "another input gets the old run",
        "G2",
        sql("read_enqueued", (r"dup\.input_digest = i\.input_digest", "true")),
        25,
    ),
    Bug(
        "slots are handed out beyond the limit",
        "G7",
        sql(
            "admit",
            (r'k\."limit" - k\.active AS slots', "2 AS slots"),
            (r'max\(f\."limit" - f\.active, 0\)', "2"),
            (r'AND k\.active < k\."limit"', ""),
        ),
        2,
    ),
    Bug(
        "slots are handed out to the youngest",
        "G7",
        sql("admit", (r"ORDER BY r\.rank, r\.id", "ORDER BY r.rank DESC, r.id DESC")),
        2,
    ),
    Bug(
        "due runs pass by their key",
        "G7",
        sql("release_due", (r"\(r\.concurrency_key IS NULL OR r\.slot\)", "true")),
        1,
    ),
    Bug(
        "what is completed can be resumed", "G8", sql("resume_runs", (r"= 'failed'", "IN ('failed', 'completed')")), 11
    ),
    Bug(
        "a cancel leaves no event",
        "G9",
        sql("cancel_runs", (r"WHERE r\.status IN \('pending', 'leased'\);?$", "WHERE false")),
        0,
    ),
    Bug("the event of a cancel is stored later", "G9", _event_outside, 24),
    Bug("the start of a step is lost", "G9", sql("write_runs", (r":events = 2 THEN", ":events = 9 THEN")), 4),
    Bug("a start that was told is told again", "G9", sql("write_runs", (r":events = 2 THEN", ":events > 0 THEN")), 0),
    Bug("readers see no start of a step that ran through", "G9", _no_starts, 4),
    Bug("the feed skips an event", "G9", sql("feed", (r"e\.id > :after", "e.id > :after + (:after > 3)")), 0),
    Bug("an end does not pass its slot on", "G7", method(operation.Operation, "_admission", _without_slot), 2),
    Bug("the end is stored inside the user's try", "G12", method(execution.Execution, "_write", _inside_try), 11),
    Bug("leases are renewed from the worker's loop", "G6", method(SimulatedEnvironment, "start_loop", _no_loop), 10),
    Bug("a claim in doubt is forgotten", "G6", method(claims.Claims, "_resolve_doubts", _forgets_doubts), 10),
    Bug("a step returns the live value", "G11", method(steps.Steps, "complete", _live), 3),
    Bug("the code is not interrupted", "G10", method(execution.Execution, "interrupt", _uninterrupted), 16),
    Bug("the keeper is deaf to cancels", "G10", method(renewer.Renewer, "_end", _deaf_to_cancel), 81),
    Bug(
        "the belief in a lease never ends",
        "G3",
        method(tenure.Tenure, "is_certain", lambda _: property(lambda _: True)),
        77,
    ),
    Bug("the belief in a lease lasts too long", "G3", method(tenure.Tenure, "extend", _generous), 156),
    Bug("a stored step is not loaded", "G5", method(steps.Steps, "load", _no_load), 2),
    Bug("only wake-ups lead to a look", "end", method(maintenance.Maintenance, "_rest", _only_woken), 1),
    Bug("a failed run loses its steps", "G12", _decides(_drops_steps), 1),
    Bug("a stopping worker keeps its leases", "G6", _decides(_keeps_lease), 7),
    Bug("a repeated trigger gets another id", "G1", _new_ids, 35),
    Bug("a retrigger takes over the step that it begins with", "G5", _one_step_more, 5),
    Bug(
        "what is deleted while it is retriggered takes its steps with it",
        "G5",
        sql("copy_steps", (r"WHERE EXISTS", f"{_IS_LEFT} AND EXISTS")),
        16,
    ),
    Bug(
        "what a user's transaction triggers is never put in line",
        "end",
        sql("admit_inside", (r"WHERE hold", "WHERE false AND hold")),
        1,
    ),
    Bug(
        "what a user's transaction cancels keeps its slot",
        "G7",
        sql("free_inside", (r"WHERE slot", "WHERE false AND slot")),
        4,
    ),
    Bug("a purge takes what has just ended", "G12", sql("purge_runs", (r"x\.completed_at < [^\n]*", "true")), 0),
    Bug("a purge takes events of today", "G9", sql("purge_events", (r"old\.created_at < [^\n]*", "true")), 0),
    Bug("nothing is ever purged", "G12", method(maintenance.Maintenance, "purge", _never), 0),
    Bug(
        "a purge leaves the steps",
        "G12",
        sql("purge_runs", (r"DELETE FROM durably_steps WHERE", "DELETE FROM durably_steps WHERE false AND")),
        0,
    ),
    Bug(
        "a renewal never shortens a lease",
        "G6",
        sql("renew", (r"= :now \+ :lease_us", "= max(lease_expires_at, :now + :lease_us)")),
        28,
    ),
    Bug("a thread is not told that its run is over", "end", method(steps.Steps, "check", _nothing), 5),
)
