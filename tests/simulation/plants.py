"""Ways to break the code on purpose: the SQL as it is loaded, or a method."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

from durably.errors import DatabaseUnavailable
from durably.model import Ending, Event, LeaseState, NewRun, RunStatus, RunWrite, StepRecord, Verdict
from durably.rules import outcome
from durably.runtime import again, inside
from durably.store import catalogue, rows, runs, sqlite, write_rows
from durably.store.catalogue import Catalogue, Sql
from durably.store.engine import Channel
from durably.store.operation import Operation, Rows, Statement


def private(owner: object, name: str) -> Any:
    """What no operation shows."""
    value: Any = vars(owner)[name]
    return value


Plant = Callable[[], AbstractContextManager[object]]
_load = catalogue.load


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
def event_outside() -> Generator[None]:
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


def without_slot(admission: Any) -> Any:
    def _admission(self: Operation[Any]) -> tuple[Statement, ...]:
        is_end = any(statement.name == "write_runs" for statement in self.statements)
        found: tuple[Statement, ...] = admission(self)
        return () if is_end else found

    return _admission


def inside_try(write: Any) -> Any:
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


def no_loop(_: Any) -> Any:
    def start_loop(self: Any, name: str, main: Any, ended: Any) -> Any:
        raise RuntimeError(f"{self}, {name}, {main}, {ended}: no loop but the worker's")

    return start_loop


def forgets_doubts(_: Any) -> Any:
    async def _resolve_doubts(self: Any) -> None:
        private(self, "_doubtful").clear()

    return _resolve_doubts


def called_twice(perform: Any) -> Any:
    async def twice(self: Any, step: Any, fn: Any, args: Any, *, is_async: bool) -> object:
        if is_async:
            with suppress(Exception):
                await fn(*args)
        return await perform(self, step, fn, args, is_async=is_async)

    return twice


def live(complete: Any) -> Any:
    async def live(self: Any, step: Any, value: object) -> object:
        await complete(self, step, value)
        return value

    return live


def uninterrupted(_: Any) -> Any:
    def interrupt(self: Any, reason: Any) -> None:
        self.steps.stop(reason)

    return interrupt


def deaf_to_cancel(end: Any) -> Any:
    def _end(self: Any, held: Any, state: LeaseState) -> None:
        if state is not LeaseState.CANCELLED:
            end(self, held, state)

    return _end


def generous(extend: Any) -> Any:
    def generous(self: Any, until: float) -> None:
        extend(self, until + 4.0)

    return generous


def no_load(_: Any) -> Any:
    def load(self: Any, records: Sequence[StepRecord]) -> None:
        vars(self)["_stored"] = {record.name: record for record in records[1:]}

    return load


def only_woken(_: Any) -> Any:
    async def _rest(self: Any, _: object) -> None:
        await private(self, "_woken").wait()

    return _rest


def never(_: Any) -> Any:
    async def never(self: Any) -> bool:
        return False

    return never


def nothing(_: Any) -> Any:
    def nothing(self: Any) -> None: ...

    return nothing


def decides(change: Callable[[outcome.Finish, Ending | None], Ending | None]) -> Plant:
    decide = outcome.decide

    def decided(finish: outcome.Finish, *, preserve_steps: bool = True) -> Ending | None:
        return change(finish, decide(finish, preserve_steps=preserve_steps))

    return lambda: patch.object(outcome, "decide", decided)


def drops_steps(finish: outcome.Finish, ending: Ending | None) -> Ending | None:
    return replace(ending, keep_steps=False) if isinstance(finish, outcome.Raised) and ending else ending


def keeps_lease(_: outcome.Finish, ending: Ending | None) -> Ending | None:
    return None if ending is not None and ending.status is RunStatus.PENDING else ending


def no_starts() -> AbstractContextManager[object]:
    events = rows.events

    def last(row: Any) -> tuple[Event, ...]:
        return events(row)[-1:]

    return patch.object(rows, "events", last)


def starts_untold() -> AbstractContextManager[object]:
    """As if a step that ran through had never begun: no number is left out."""
    checkpoint = write_rows._checkpoint  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def ended(write: RunWrite) -> tuple[object, ...]:
        row: tuple[object, ...] = checkpoint(write)
        return (*row[:3], 1, *row[4:])

    return patch.object(write_rows, "_checkpoint", ended)


@contextmanager
def new_ids() -> Generator[None]:
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
def one_step_more() -> Generator[None]:
    """What a new run takes over holds the step that it begins with."""
    before = again.checkpoints_before

    def one_more(steps: Sequence[StepRecord], from_step: str) -> list[StepRecord] | None:
        taken = before(steps, from_step)
        return None if taken is None else [*taken, *(step for step in steps if step.name == from_step)]

    with ExitStack() as stack:
        for module in (again, inside):
            stack.enter_context(patch.object(module, "checkpoints_before", one_more))
        yield


IS_LEFT = """WHERE EXISTS (
    SELECT 1 FROM durably_steps t WHERE t.run_id <> :run_id AND t.name = s.value->>0 AND t.completed_at = s.value->>4
)"""
