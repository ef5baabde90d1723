"""The clients of the simulation: they trigger, cancel, resume, retrigger and delete runs, and race one another."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, TypeAlias
from unittest.mock import patch

from durably import Job
from durably.errors import Conflict, DatabaseUnavailable, NotFound, UsageError
from durably.model import NewRun, Run, StoredRun
from durably.runtime.bulk import TriggerItem
from durably.testing import Process, SimulatedConnection, SimulatedDurably
from tests.simulation.blocking import blocking
from tests.simulation.history import Call, Deed, History, Visit
from tests.simulation.trouble import DURATION, Profile
from tests.simulation.workload import Act, Plan, pause, random_plan, scripted

AnyJob: TypeAlias = Job[Plan, list[list[int]]]

NO = (UsageError, NotFound, Conflict, DatabaseUnavailable)
"""What a client may be told. Anything else is a fault of durably's: a `DatabaseRefused` is SQL that does not run."""

_KINDS = ("trigger",) * 12 + (
    "many",
    "cancel",
    "cancel",
    "cancel",
    "resume",
    "resume",
    "retrigger",
    "again",
    "again",
    "delete",
    "limit",
    "race",
    "duel",
    "duel",
    "chase",
    "chase",
)


@dataclass
class Script:
    """What one client is to do, and how far it is: a new process goes on where the one before it died."""

    name: str
    items: list[tuple[float, str]]
    done: int = 0


@dataclass
class Clients:
    """What all clients know."""

    history: History
    profile: Profile
    chance: Random
    known: list[str] = field(default_factory=list[str])
    jobs: dict[str, str] = field(default_factory=dict[str, str])
    """Of each run that is known the name of its job."""
    tags: int = 0

    def scripts(self) -> list[Script]:
        """Two clients, each with its calls."""
        kinds = _KINDS + ("visit",) * (8 * self.profile.has_visits)
        items = sorted(
            (round(self.chance.random() ** 2 * DURATION, 3), self.chance.choice(kinds))
            for _ in range(self.profile.calls)
        )
        items[:2] = [(0.0, "trigger"), (0.0, "trigger")]
        return [Script("c0", items[::2]), Script("c1", items[1::2])]

    async def follow(self, script: Script, process: Process, durably: SimulatedDurably) -> None:
        """Make the calls of a script, each at its time."""
        while script.done < len(script.items):
            at, kind = script.items[script.done]
            script.done += 1
            await pause(max(at - process.world.now, 0.0))
            await self._do(kind, process, durably)

    async def _do(self, kind: str, process: Process, durably: SimulatedDurably) -> None:
        if kind == "race":
            kinds = [self.chance.choice(("trigger", "cancel", "resume", "retrigger")) for _ in range(3)]
            await asyncio.gather(*(self._do(one, process, durably) for one in kinds))
            return
        if kind == "trigger":
            await self._trigger(process, durably)
        elif kind == "many":
            await self._trigger_many(process, durably)
        elif kind == "chase":
            await self._chase(process, durably)
        elif kind == "visit":
            await Visitor(self, process, durably).visit()
        elif kind == "limit":
            key, limit = self.chance.choice(("red", "blue")), self.chance.choice((1, 2, 3))
            await self._call(process, kind, None, lambda: durably.set_limit(key, limit), key=key, limit=limit)
        elif self.known:
            await self._do_to_some_run(kind, process, durably)

    async def _chase(self, process: Process, durably: SimulatedDurably) -> None:
        """Trigger something that takes long, and cancel it a moment later."""
        kind, seconds = self.chance.choice((("rest", 7.0), ("rest", 2.5), ("work", 2.5)))
        acts = [Act(kind, seconds), Act("work", 0.15)]
        job = blocking if self.profile.has_threads else scripted
        plan, count = Plan(self._tag(), acts), len(self.known)
        await self._call(process, "trigger", None, lambda: durably.trigger(job, plan), tag=plan.tag)
        if len(self.known) > count:
            run = self.known[-1]
            await pause(self.chance.uniform(0.1, 0.8))
            await self._act("cancel", process, durably, run)

    async def _do_to_some_run(self, kind: str, process: Process, durably: SimulatedDurably) -> None:
        over = {effect.run for effect in self.history.effects if effect.kind in {"end", "raise"}}
        ended = [run for run in self.known if run in over] or self.known
        if kind == "duel":
            run = self.chance.choice(ended)
            await asyncio.gather(*(self._act(one, process, durably, run) for one in ("again", "delete")))
        else:
            await self._act(kind, process, durably, self.chance.choice(ended if kind == "again" else self.known[-4:]))

    async def _act(self, kind: str, process: Process, durably: SimulatedDurably, run: str) -> None:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "cancel": lambda: durably.cancel(run),
            "resume": lambda: durably.resume(run),
            "retrigger": lambda: durably.retrigger(run, job=self.job_of(run)),
            "delete": lambda: durably.delete_run(run),
        }
        if kind != "again":
            await self._call(process, kind, run, calls[kind])
        elif (step := self.some_step(run)) is not None:
            job = self.job_of(run)
            with self.copying(durably, run, step):
                await self._call(
                    process, "retrigger", run, lambda: durably.retrigger(run, job=job, from_step=step), from_step=step
                )

    def copying(self, durably: SimulatedDurably, run: str, step: str | None) -> AbstractContextManager[object]:
        """Take note of what is made of a run from a step on, also when nobody lives to be told of it."""
        made: Callable[..., NewRun] = durably._again  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there the new run gets its id

        def noted(job: AnyJob, old: StoredRun) -> NewRun:
            new = made(job, old)
            if step is not None:
                self.history.copies[new.id] = run, step
            return new

        return patch.object(durably, "_again", noted)

    def job_of(self, run: str) -> AnyJob:
        """The job of a run."""
        return blocking if self.jobs.get(run) == blocking.name else scripted

    def some_step(self, run: str) -> str | None:
        """A step that a run has finished, if it has any."""
        names = sorted({effect.step for effect in self.history.effects if effect.run == run and effect.kind == "got"})
        return self.chance.choice(names) if names else None

    def some_job(self) -> AnyJob:
        """A job that there is in this simulation."""
        return blocking if self.profile.has_threads and self.chance.random() < 0.5 else scripted

    async def _trigger(self, process: Process, durably: SimulatedDurably) -> None:
        plan, options = self.request()
        job = self.some_job()
        await self._call(
            process, "trigger", None, lambda: durably.trigger(job, plan, **options), tag=plan.tag, **options
        )

    def request(self) -> tuple[Plan, dict[str, Any]]:
        """What to trigger: the input and the options."""
        chance = self.chance
        plan = random_plan(chance, self._tag(), self.profile.kinds)
        options: dict[str, Any] = {}
        if chance.random() < 0.5:
            options["concurrency_key"] = chance.choice(("red", "red", "blue"))
            if chance.random() < 0.3:
                options["if_pending"] = chance.choice(("skip", "replace", "reject"))
        elif chance.random() < 0.4:
            number = chance.randint(0, 1)
            options["idempotency_key"] = f"once-{number}"
            tag = f"once-{number}" if chance.random() < 0.8 else f"another-{number}"
            plan = random_plan(Random(f"{tag} {self.profile}"), tag, ("work", "rest"))
        if chance.random() < 0.2:
            options["delay"] = timedelta(seconds=round(chance.uniform(0.1, 2.0), 2))
        if chance.random() < 0.2:
            options["priority"] = chance.choice((-5, 5))
        return plan, options

    async def _trigger_many(self, process: Process, durably: SimulatedDurably) -> None:
        tags = [self._tag() for _ in range(3)]
        keys = [self.chance.choice((None, "red", "blue")) for _ in tags]
        plans = [random_plan(self.chance, tag, self.profile.kinds) for tag in tags]
        items = [TriggerItem(plan, concurrency_key=key) for plan, key in zip(plans, keys, strict=True)]
        await self._call(process, "many", None, lambda: durably.trigger_many(scripted, items), tags=tags, keys=keys)

    async def _call(
        self, process: Process, kind: str, run: str | None, call: Callable[[], Awaitable[object]], **detail: Any
    ) -> None:
        world, database = process.world, self.history.database
        began, error = world.now, None
        self.history.begun.append(kind)
        try:
            result = await call()
        except NO as raised:
            result, error = None, type(raised).__name__
        if not process.is_alive:
            return
        found: Any = result
        several: list[Any] = found if isinstance(result, list) else [result]
        runs: list[Run[Any]] = [one for one in several if isinstance(one, Run)]
        for one in runs:
            self.know(one)
        if kind == "trigger" and runs:
            detail["disposition"] = runs[0].disposition
        shown = runs[0].id if runs else run
        self.history.called(Call(process.name, kind, began, world.now, database.transaction, shown, error, detail))

    def know(self, run: Run[Any]) -> None:
        """Take note of a run."""
        if run.id not in self.jobs:
            self.known.append(run.id)
            self.jobs[run.id] = run.job

    def _tag(self) -> str:
        self.tags += 1
        return f"tag-{self.tags}"


class Visitor:
    """A transaction of a client's own: it triggers and cancels, and then commits or does not."""

    def __init__(self, clients: Clients, process: Process, durably: SimulatedDurably) -> None:
        self._clients = clients
        self._process = process
        self._durably = durably
        self._connection = SimulatedConnection(clients.history.database, process)
        self._visit = Visit(process.name)
        clients.history.visits.append(self._visit)

    async def visit(self) -> None:
        chance = self._clients.chance
        is_wanted = chance.random() < 0.7
        try:
            await self._connection.begin()
            for _ in range(chance.choice((1, 2, 3))):
                await pause(chance.choice((0.0, 0.01, 0.01, 0.3)))
                with suppress(*NO):  # nothing was written by that one
                    await self._do(chance.choice(("trigger", "trigger", "retrigger", "again", "cancel", "cancel")))
            if is_wanted:
                self._visit.outcome = "unknown"
                await self._connection.commit()
                self._visit.outcome = "committed"
        except sqlite3.OperationalError as error:
            self._process.world.note(f"{self._process.name:10}   a transaction of its own fails: {error}")
        if self._visit.outcome == "open" and self._process.is_alive:
            self._visit.outcome = "rolled back"
            with suppress(sqlite3.OperationalError):
                await self._connection.rollback()
        self._process.world.note(f"{self._process.name:10}   a transaction of its own is {self._visit.outcome}")

    async def _do(self, kind: str) -> None:
        clients, durably, connection = self._clients, self._durably, self._connection
        run = clients.chance.choice(clients.known[-4:]) if clients.known else None
        if kind == "trigger" or run is None:
            plan, options = clients.request()
            options.pop("if_pending", None)
            made = await durably.trigger(clients.some_job(), plan, connection=connection, **options)
            self._note("trigger", made, plan.tag, options)
        elif kind == "cancel":
            await durably.cancel(run, connection=connection)
            self._visit.deeds.append(Deed("cancel", run))
        else:
            step = clients.some_step(run) if kind == "again" else None
            clients.history.begun.append("retrigger")
            with clients.copying(durably, run, step):
                made = await durably.retrigger(run, job=clients.job_of(run), from_step=step, connection=connection)
            self._note("retrigger", made)

    def _note(self, kind: str, run: Run[Any], tag: str = "", options: dict[str, Any] | None = None) -> None:
        self._clients.know(run)
        self._visit.deeds.append(Deed(kind, run.id, tag, run.disposition or "", options or {}))


def plan_tag(input_json: str) -> str:
    """The tag in the stored input of a run."""
    return input_json.split('"tag":"', 1)[1].split('"', 1)[0]


__all__ = ["Clients", "Plan", "Script", "plan_tag"]
