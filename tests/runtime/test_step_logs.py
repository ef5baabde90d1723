"""What steps log: under their own names, and never at the cost of the job."""

from __future__ import annotations

import asyncio

from durably.jobs import job
from durably.model import RunStatus
from durably.runtime.context import Step
from tests.support.bench import Bench


async def test_parallel_steps_log_under_their_own_names(bench: Bench) -> None:
    @job("parallel")
    async def parallel(step: Step) -> None:
        async def work(i: int) -> None:
            await asyncio.sleep(0)
            step.log.info("line of %d", i)

        def block(i: int) -> None:
            step.log.info("line of %d", i)

        async with asyncio.TaskGroup() as group:
            for i in range(4):
                group.create_task(step.run("work", work, i, key=i))
                group.create_task(step.run("block", block, i, key=i))

    run = await bench.execute(parallel)

    assert run.status is RunStatus.COMPLETED, run.error
    assert sorted((line.step or "", line.message) for line in await bench.logs(run)) == sorted(
        (f"{name}[{i}]", f"line of {i}") for i in range(4) for name in ("work", "block")
    )


async def test_a_log_line_keeps_its_level_data_and_exception_and_never_fails_the_job(bench: Bench) -> None:
    @job("lines")
    async def lines(step: Step) -> None:
        step.log.warning("%s rows", 3, extra={"path": "a.csv", "odd": object})
        step.log.info("bad %d", "format")
        step.log.info("NUL \0 and \ud800")
        step.log.debug("not stored")
        try:
            int("boom")
        except ValueError:
            step.log.exception("it broke")

    run = await bench.execute(lines)

    assert run.status is RunStatus.COMPLETED, run.error
    first, second, third, last = await bench.logs(run)
    assert (first.level, first.message) == ("warning", "3 rows")
    assert '"path":"a.csv"' in (first.data_json or "")
    assert second.message == "bad %d ('format',)"
    assert third.message.startswith("NUL ")
    assert last.level == "error"
    assert "ValueError: invalid literal" in (last.data_json or "")
