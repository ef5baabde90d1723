"""Jobs that the tests of what looks after a database share."""

from __future__ import annotations

from durably import Step, job


@job("work")
async def work(step: Step, input: int) -> int:
    return await step.run("one", lambda: input + 1, returns=int)


@job("other")
async def other(_step: Step) -> None: ...
