"""The jobs of the simulation: each does what its input says, and notes what it really did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from durably import Step, job
from durably.testing import Process, SimulatedEnvironment, World
from tests.simulation.history import Effect, History
from tests.simulation.trouble import Trouble

TICK = 0.1
MOST_TRIES = 20


@dataclass(frozen=True)
class Act:
    """One thing that a job does. `times` is how often it goes wrong before it works."""

    kind: str
    seconds: float = 0.0
    times: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run is to do. `tag` tells apart what its callers asked for."""

    tag: str
    acts: list[Act]


class Failure(Exception):
    """What the jobs raise on purpose."""


@dataclass
class Scene:
    """What a worker's process provides to its jobs."""

    history: History
    environment: SimulatedEnvironment
    executions: dict[str, int]
    """How often each step of each run was executed, anywhere: as an outside service would know."""
    trouble: Trouble

    @property
    def process(self) -> Process:
        return self.environment.process

    @property
    def world(self) -> World:
        return self.process.world

    @asynccontextmanager
    async def provide(self) -> AsyncGenerator[Scene]:
        yield self


@dataclass
class Actor:
    """One execution of one run."""

    scene: Scene
    run: str
    generation: int
    cuts: list[str] = field(default_factory=list[str])

    def note(self, kind: str, step: str = "", value: Any = None) -> None:
        scene = self.scene
        if scene.process.is_alive:
            txn = scene.history.database.transaction
            effect = Effect(scene.world.now, txn, scene.process.name, kind, self.run, self.generation, step, value)
            scene.history.note(effect)

    def count(self, step: str) -> int:
        key = f"{self.run} {step}"
        self.scene.executions[key] = self.scene.executions.get(key, 0) + 1
        return self.scene.executions[key]

    async def rest(self, seconds: float, step: str = "") -> None:
        """Let time pass, and show that the code still runs."""
        end = self.scene.world.now + seconds
        while (left := end - self.scene.world.now) > 1e-9:
            await pause(min(left, TICK))
            self.note("tick", step)

    async def work(self, name: str, act: Act) -> list[int]:
        """The function of a step: its value is another one at each execution, and changes after it was returned."""
        self.note("start", name)
        number = self.count(name)
        value = [number, len(name)]
        if act.kind == "poison" and number <= act.times:
            self.scene.world.note(f"{self.scene.process.name:10} is killed by {name} of {self.run}")
            self.scene.process.die()
            await pause(1e9)
        if act.kind == "block" and number <= act.times:
            self.scene.trouble.add("blocked", self.scene.process.name, act.seconds)
            self.scene.process.block(act.seconds)
            await pause(0.0001)
        elif act.seconds:
            await self.rest(act.seconds, name)
        if act.kind in {"flaky", "fatal"} and number <= act.times:
            raise Failure(f"{name} fails for the {number}. time")
        self.note("done", name, list(value))
        asyncio.get_running_loop().call_later(0.0005, value.append, -1)
        return value

    def plain(self, name: str) -> list[int]:
        """The function of a step in a thread."""
        self.note("start plain", name)
        number = self.count(name)
        self.note("done", name, [number])
        return [number]

    async def once(self, step: Step[Scene], act: Act, place: str) -> list[int]:
        name = f"{act.kind}[{place}]"
        if act.kind == "plain":
            value = await step.run(act.kind, self.plain, name, key=place)
        else:
            value = await step.run(act.kind, self.work, name, act, key=place)
        self.note("got", name, list(value))
        return value

    async def patiently(self, step: Step[Scene], act: Act, place: str) -> list[int]:
        """Try until it works, swallowing whatever a job may swallow."""
        for _ in range(MOST_TRIES):
            try:
                return await self.once(step, act, place)
            except Exception:  # noqa: BLE001  # what users do
                self.note("swallowed", f"{act.kind}[{place}]")
        raise Failure("it never works")

    async def act(self, step: Step[Scene], act: Act, place: int) -> list[int]:
        match act.kind:
            case "rest":
                await self.rest(act.seconds)
                return []
            case "pair":
                pair = (self.once(step, Act("work", act.seconds), f"{place}{half}") for half in "ab")
                return [number for value in await asyncio.gather(*pair) for number in value]
            case "group":
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self.once(step, Act("work", act.seconds), f"{place}{h}")) for h in "ab"]
                return [number for task in tasks for number in task.result()]
            case "child":
                child = await step.trigger(leaf, Plan(f"{self.run}/{place}", []), key=place)
                self.note("child", f"child[{place}]", child)
                return []
            case "flaky":
                return await self.patiently(step, act, str(place))
            case "swallow":
                return await self.patiently(step, Act("work", act.seconds), str(place))
            case _:
                return await self.once(step, act, str(place))


async def pause(seconds: float) -> None:
    """Let virtual time pass."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    await sleep(seconds)


async def _perform(step: Step[Scene], plan: Plan) -> list[list[int]]:
    lease = vars(step)["_steps"].lease
    actor = Actor(step.deps, step.run_id, lease.generation)
    actor.note("begin", "", step.attempt)
    try:
        values = [await actor.act(step, act, place) for place, act in enumerate(plan.acts)]
    except Exception as error:
        actor.note("raise", "", type(error).__name__)
        raise
    except BaseException as error:
        actor.note("cut", "", type(error).__name__)
        raise
    actor.note("end", "", values)
    return values


@job("scripted")
async def scripted(step: Step[Scene], plan: Plan) -> list[list[int]]:
    return await _perform(step, plan)


@job("leaf", preserve_steps=False)
async def leaf(step: Step[Scene], plan: Plan) -> list[list[int]]:
    step.log.info("a leaf")
    step.progress(1, 2)
    return await _perform(step, Plan(plan.tag, [Act("work"), *plan.acts]))


def random_plan(chance: Random, tag: str, kinds: tuple[str, ...]) -> Plan:
    """What a run may do, of these kinds of acts."""
    acts: list[Act] = []
    for _ in range(chance.choice((1, 2, 2, 3))):
        kind = chance.choice(kinds)
        seconds = round(chance.choice((0.0, 0.02, 0.15, 0.15, 0.6)), 3)
        times = chance.choice((1, 1, 2, 9)) if kind == "flaky" else 1
        if kind == "block":
            seconds = round(chance.uniform(1.0, 4.0), 2)
        if kind == "poison":
            times = chance.choice((1, 1, 2, 1000))
        if kind == "rest":
            seconds = chance.choice((0.2, 0.6, 1.6, 2.5))
        acts.append(Act(kind, seconds, times))
    return Plan(tag, acts)
