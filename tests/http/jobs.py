"""What the tests of the server trigger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from durably import Job, Step, job


@dataclass
class Greeting:
    name: str
    times: int = 1


@dataclass
class Tags:
    team: str


@job("greet")
async def greet(step: Step, greeting: Greeting) -> dict[str, str]:
    """Two steps, with logs and progress."""

    async def say(word: str) -> str:
        step.log.info("saying %s", word, extra={"data": {"word": word}})
        return f"{word} {greeting.name}"

    first = await step.run("hello", say, "hello")
    step.progress(1, 2, "half way")
    second = await step.run("bye", say, "bye")
    step.progress(2, 2)
    return {"said": f"{first}, {second}"}


@job("fail")
async def fail(step: Step) -> None:
    async def boom() -> None:
        raise RuntimeError("it went wrong")

    await step.run("boom", boom)


@job("tagged", label_type=Tags)
async def tagged(step: Step) -> None:
    """A job whose labels are checked."""


@job("echo")
async def echo(step: Step, value: Any) -> Any:
    return value


class Gate:
    """Lets a job go on when the test says so."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    def job(self, name: str = "gated") -> Job[None, str]:
        @job(name)
        async def gated(step: Step) -> str:
            async def wait() -> str:
                self.reached.set()
                await self.opened.wait()
                return "through"

            await step.run("before", lambda: 1)
            step.progress(1)
            return await step.run("gate", wait)

        return gated


JOBS = (greet, fail, tagged, echo)
