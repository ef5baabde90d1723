"""Jobs that the tests of workers share."""

from __future__ import annotations

from durably.jobs import job
from durably.runtime.context import Step


@job("echo")
async def echo(step: Step, input: int) -> int:
    return await step.run("echo", lambda: input)


@job("other")
async def other(_step: Step) -> None:
    return None
