"""Commands in this process, what they print, and jobs for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import pytest
from typer.testing import Result

from durably import Durably, Run, Step, job

T = TypeVar("T")
Call: TypeAlias = Callable[..., Result]
on_both = pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)


@job("add")
async def add(step: Step, n: int) -> int:
    step.log.info("adding", extra={"n": n})
    step.progress(1, 2, message="half")
    return await step.run("one", lambda: n + 1, returns=int)


@job("fail")
async def fail(step: Step) -> None:
    await step.run("good", lambda: None)
    await step.run("bad", lambda: 1 / 0)


def ok(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def rows(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in ok(result).splitlines()]


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ok(result).splitlines()]


def do(url: str, work: Callable[[Durably], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Durably(url) as durably:
            return await work(durably)

    return asyncio.run(main())


def executed(url: str, *inputs: int, fails: int = 0) -> list[Run[Any]]:
    """Runs that ended, the failed ones last."""

    async def work(durably: Durably) -> list[Run[Any]]:
        runs: list[Run[Any]] = [*await durably.trigger_many(add, inputs)]
        runs += [await durably.trigger(fail) for _ in range(fails)]
        await durably.worker([add, fail]).process_until_idle()
        return runs

    return do(url, work)
