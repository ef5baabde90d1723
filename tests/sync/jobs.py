"""Jobs that the tests of the blocking facade share."""

from __future__ import annotations

from datetime import timedelta

from durably import Step, SyncStep, job

SECONDS = 60.0
QUICK = timedelta(milliseconds=50)


@job("double")
async def double(step: Step, number: int) -> int:
    return await step.run("double", lambda: number * 2, returns=int)


@job("fragile")
def fragile(step: SyncStep[str]) -> str:
    if step.attempt == 1:
        raise RuntimeError("not today")
    return step.deps
