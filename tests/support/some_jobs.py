"""A module of jobs, to be named to a worker."""

from __future__ import annotations

from durably import Step, SyncStep, job


@job("some-async")
async def some_async(step: Step, input: int) -> int:
    return input + 1


@job("some-blocking")
def some_blocking(step: SyncStep, input: int) -> int:
    return input + 2
