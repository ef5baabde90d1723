"""A job of the next release: workers that load only `tests.processes.jobs` do not know it."""

from __future__ import annotations

from durably import Step, job
from tests.processes.points import visit


@job("from-the-next-release")
async def from_the_next_release(step: Step) -> str:
    return await step.run("a", visit, "in a", step.run_id)
