"""The jobs that the worker processes run. Each tells the witness what its code does, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from chaos.witness import tell
from durably import Step, SyncStep, job


class Refused(Exception):
    """What a flaky job raises."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run is to do."""

    steps: int = 4
    pause: float = 0.01
    """Seconds that a step takes at most."""
    failing: float = 0.0
    """How likely it is that the code raises after its first half."""
    key: str | None = None


@job("chain")
async def chain(step: Step, work: Work) -> list[str]:
    """Async steps, one after the other."""
    return await _chain(step, work)


@job("flaky")
async def flaky(step: Step, work: Work) -> list[str]:
    """The same; what fails is resumed or triggered again."""
    return await _chain(step, work)


@job("keyed", concurrency_key=lambda work: work.key)
async def keyed(step: Step, work: Work) -> list[str]:
    """The same, never beside more runs of its key than that allows."""
    return await _chain(step, work)


@job("hot")
async def hot(step: Step, work: Work) -> list[str]:
    """The same, with a priority."""
    return await _chain(step, work)


@job("threaded")
def threaded(step: SyncStep, work: Work) -> list[str]:
    """Blocking steps in a thread, one after the other."""
    me = step.run_id, generation_of(step)

    def act(name: str) -> str:
        tell("start", *me, name)
        threading.Event().wait(random.random() * work.pause)
        made = uuid.uuid4().hex
        tell("done", *me, name, made)
        return made

    made: list[str] = []
    for place in range(work.steps):
        made.append(step.run(f"s{place}", act, f"s{place}", returns=str))
        tell("got", *me, f"s{place}", made[-1])
    tell("end", *me, value=json.dumps(made))
    return made


async def _chain(step: Step, work: Work) -> list[str]:
    me = step.run_id, generation_of(step)

    async def act(name: str) -> str:
        tell("start", *me, name)
        await asyncio.sleep(random.random() * work.pause)
        made = uuid.uuid4().hex
        tell("done", *me, name, made)
        return made

    made: list[str] = []
    for place in range(work.steps):
        if place == work.steps // 2 and random.random() < work.failing:
            tell("raise", *me, value=Refused.__name__)
            raise Refused
        made.append(await step.run(f"s{place}", act, f"s{place}", returns=str))
        tell("got", *me, f"s{place}", made[-1])
    tell("end", *me, value=json.dumps(made))
    return made


def generation_of(step: Step | SyncStep) -> int:
    """The fencing token of this execution, which jobs have no use for: a witness has."""
    run: Any = vars(step)["_run"]
    generation: int = run.generation
    return generation
