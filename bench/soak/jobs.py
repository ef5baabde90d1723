"""The jobs of the soak: short and long ones, with steps, logs, progress, keys, failures and children."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from durably import Job, Step, SyncStep, job

STEPS = 5


class Flaked(Exception):
    """What a flaky job meets the first time."""


async def reading(number: int) -> dict[str, int]:
    """What most steps return."""
    return {"number": number}


async def page(number: int) -> str:
    """A larger result."""
    return f"{number:04}" * 1000


async def pause(seconds: float) -> float:
    """Wait, as for somebody else's server."""
    await asyncio.sleep(seconds)
    return seconds


def blocking(number: int) -> int:
    """Hold a thread for a moment."""
    time.sleep(0.02)
    return number * 2


async def flake(attempt: int) -> int:
    """Fail at the first attempt."""
    if attempt == 1:
        raise Flaked("no answer from the other side")
    return attempt


@job("quick")
async def quick(_step: Step, input: int) -> int:
    """Nothing but a result."""
    return input


@job("steps")
async def steps(step: Step, input: int) -> int:
    """Steps, log lines, progress."""
    for number in range(STEPS):
        found = await step.run("read", reading, number, key=number)
        step.log.info("read %s of %s", found["number"], STEPS)
        step.progress(number + 1, total=STEPS)
    await step.run("page", page, input)
    return input


@job("long")
async def long(step: Step, input: float) -> float:
    """Several seconds in steps: cancels, kills and stops meet it in the middle."""
    waited = 0.0
    for number in range(STEPS):
        waited += await step.run("wait", pause, input / STEPS, key=number)
        step.log.info("waited", extra={"seconds": waited})
    return waited


@job("keyed", concurrency_key=lambda account: f"account-{account}")
async def keyed(step: Step, input: int) -> int:
    """One after the other for each account."""
    await step.run("charge", reading, input)
    await step.run("wait", pause, 0.01)
    return input


@job("flaky")
async def flaky(step: Step, input: int) -> int:
    """Fails once, and continues after its first step when it is resumed."""
    await step.run("before", reading, input)
    await step.run("flake", flake, step.attempt)
    return input


@job("blocking")
def threaded(step: SyncStep, input: int) -> int:
    """A plain function, in a thread."""
    return step.run("block", blocking, input)


@job("parent")
async def parent(step: Step, input: int) -> str:
    """Triggers another run."""
    await step.run("before", reading, input)
    return await step.trigger(quick, input)


JOBS: tuple[Job[Any, Any], ...] = (quick, steps, long, keyed, flaky, threaded, parent)
