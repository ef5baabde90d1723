"""What type checkers make of steps. Nothing here is executed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import assert_type

from durably.jobs import job
from durably.runtime.context import Step, SyncStep


@dataclass(frozen=True)
class Row:
    name: str


class Pool:
    async def fetch(self, table: str) -> list[Row]:
        return [Row(table)]


async def read(path: str, limit: int = 10) -> list[Row]:
    return [Row(path)] * limit


def count(rows: list[Row]) -> int:
    return len(rows)


@job("typed")
async def typed(step: Step[Pool], input: str) -> int:
    rows = await step.run("read", read, input)
    assert_type(rows, list[Row])
    assert_type(await step.run("read", read, input, 3, key=1), list[Row])
    assert_type(await step.run("fetch", step.deps.fetch, "t"), list[Row])
    assert_type(await step.run("partial", partial(count, rows)), int)
    assert_type(await step.run("row", lambda: {"name": "x"}, returns=Row), Row)
    assert_type(await step.run("lambda", lambda: 3), int)
    assert_type(await step.trigger(typed, "x", priority=3), str)
    await step.run("read", read, 3)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue, reportArgumentType] - a path is a str
    await step.trigger(typed, 3)  # type: ignore[misc] # pyright: ignore[reportArgumentType] - its input is a str
    return await step.run("count", count, rows)


@job("typed-sync")
def typed_sync(step: SyncStep[Pool], input: int) -> str:
    rows = step.run("rows", lambda: [Row(str(input))])
    assert_type(step.run("count", count, rows), int)
    assert_type(step.run("count", count, rows, key="k", returns=float), float)
    assert_type(step.deps, Pool)
    return step.trigger(typed, "x")


async def helper(step: Step) -> object:
    """A helper that needs no dependencies takes a step that has some."""
    return step.deps


async def caller(step: Step[Pool]) -> None:
    await helper(step)
