"""The jobs of W1 to W4, as a user would write them."""

from __future__ import annotations

from bench.task import STEPS, Stopwatch, Task
from durably import Job, Step, job


async def small_dict(number: int) -> dict[str, int]:
    """What a step of W2 returns."""
    return {"number": number}


def timed_job(task: Task, watch: Stopwatch) -> Job[int, int]:
    """The job that a task is about, which tells the stopwatch when it starts and ends."""

    @job("plain")
    async def plain(_step: Step, input: int) -> int:
        watch.started()
        watch.finished()
        return input

    @job("steps")
    async def steps(step: Step, input: int) -> int:
        watch.started()
        for number in range(STEPS):
            await step.run("step", small_dict, number, key=number)
        watch.finished()
        return input

    return steps if task.steps else plain
