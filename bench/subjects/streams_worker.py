"""The worker of W5: executes the run, and prints when it knew that each step was committed."""

from __future__ import annotations

import asyncio
import json
import time

from bench.subjects.ours import url_of
from bench.task import Task, argument
from durably import Durably, Step, job

PAUSE_SECONDS, LONG_PAUSE_SECONDS = 0.05, 1.5


def pause_before(number: int, each: int) -> float:
    """Seconds before a step: none in the first half; then a long one, in which all that came at once is sent."""
    if number < each:
        return 0.0
    return LONG_PAUSE_SECONDS if number == each else PAUSE_SECONDS


async def work(task: Task) -> dict[str, float]:
    """Return the times of the commits, by the index of the step."""
    committed: dict[str, float] = {}

    @job("streamed")
    async def streamed(step: Step, each: int) -> None:
        for number in range(2 * each):
            if pause := pause_before(number, each):
                await asyncio.sleep(pause)
            await step.run("step", lambda: 1, key=number)
            committed[str(number)] = time.monotonic()

    async with Durably(url_of(task)) as durably:
        await durably.worker([streamed]).process_until_idle()
    return committed


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(argument()))), flush=True)
