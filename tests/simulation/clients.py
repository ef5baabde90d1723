"""The clients of the simulation: they trigger, cancel, resume, retrigger and delete runs, and race one another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from durably.errors import DurablyError
from durably.model import Run
from durably.runtime.bulk import TriggerItem
from durably.testing import Process, SimulatedDurably
from tests.simulation.history import Call, History
from tests.simulation.trouble import DURATION, Profile
from tests.simulation.workload import Plan, pause, random_plan, scripted

_KINDS = ("trigger",) * 12 + (
    "many",
    "cancel",
    "cancel",
    "cancel",
    "resume",
    "resume",
    "retrigger",
    "delete",
    "limit",
    "race",
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
    tags: int = 0

    def scripts(self) -> list[Script]:
        """Two clients, each with its calls."""
        items = sorted(
            (round(self.chance.random() ** 2 * DURATION, 3), self.chance.choice(_KINDS))
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
        elif kind == "limit":
            key, limit = self.chance.choice(("red", "blue")), self.chance.choice((1, 2, 3))
            await self._call(process, kind, None, lambda: durably.set_limit(key, limit), key=key, limit=limit)
        elif self.known:
            await self._act(kind, process, durably, self.chance.choice(self.known[-4:]))

    async def _act(self, kind: str, process: Process, durably: SimulatedDurably, run: str) -> None:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "cancel": lambda: durably.cancel(run),
            "resume": lambda: durably.resume(run),
            "retrigger": lambda: durably.retrigger(run, job=scripted),
            "delete": lambda: durably.delete_run(run),
        }
        await self._call(process, kind, run, calls[kind])

    async def _trigger(self, process: Process, durably: SimulatedDurably) -> None:
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
        shown = {name: value for name, value in options.items() if name != "delay"}
        await self._call(
            process, "trigger", None, lambda: durably.trigger(scripted, plan, **options), tag=plan.tag, **shown
        )

    async def _trigger_many(self, process: Process, durably: SimulatedDurably) -> None:
        tags = [self._tag() for _ in range(3)]
        keys = [self.chance.choice((None, "red", "blue")) for _ in tags]
        plans = [random_plan(self.chance, tag, self.profile.kinds) for tag in tags]
        items = [TriggerItem(plan, concurrency_key=key) for plan, key in zip(plans, keys, strict=True)]
        await self._call(process, "many", None, lambda: durably.trigger_many(scripted, items), tags=tags)

    async def _call(
        self, process: Process, kind: str, run: str | None, call: Callable[[], Awaitable[object]], **detail: Any
    ) -> None:
        world, database = process.world, self.history.database
        began, error = world.now, None
        self.history.begun.append(kind)
        try:
            result = await call()
        except DurablyError as raised:
            result, error = None, type(raised).__name__
        if not process.is_alive:
            return
        found: Any = result
        several: list[Any] = found if isinstance(result, list) else [result]
        runs: list[Run[Any]] = [one for one in several if isinstance(one, Run)]
        self.known += [one.id for one in runs if one.id not in self.known]
        if kind == "trigger" and runs:
            detail["disposition"] = runs[0].disposition
        shown = runs[0].id if runs else run
        self.history.called(Call(process.name, kind, began, world.now, database.transaction, shown, error, detail))

    def _tag(self) -> str:
        self.tags += 1
        return f"tag-{self.tags}"


def plan_tag(input_json: str) -> str:
    """The tag in the stored input of a run."""
    return input_json.split('"tag":"', 1)[1].split('"', 1)[0]


__all__ = ["Clients", "Plan", "Script", "plan_tag"]
