"""The floor of W5: Starlette and a queue for each subscriber, into which prepared frames are put; no database."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bench.subjects.streams import listening, spread
from bench.subjects.streams_worker import pause_before
from bench.task import Answer, Task, serve
from durably.cli.loops import Loop, run
from tools.descriptors import allow_many

COMMIT_SECONDS = 0.001
"""Pause between two steps that follow one another at once: about what a commit takes."""


def frame(number: int, kind: str, step: int) -> bytes:
    """A frame as durably sends it, of about its size."""
    event: dict[str, object] = {
        "type": kind,
        "runId": "01a20000-0000-7000-8000-000000000000",
        "jobName": "streamed",
        "labels": {},
        "timestamp": "2026-11-22T23:37:18.651Z",
        "sequence": number,
        "stepName": f"step[{step}]",
        "stepIndex": step,
        "output": 1,
        "duration": 0.5,
    }
    return f"id: {number}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


async def measure(task: Task) -> Answer:
    """Serve the frames."""
    queues: list[asyncio.Queue[bytes]] = []

    async def frames() -> AsyncGenerator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queues.append(queue)
        yield b": hello\n\n"
        while (data := await queue.get()) != b"":
            yield data

    async def subscribe(_request: Request) -> Response:
        return StreamingResponse(frames(), media_type="text/event-stream")

    def put(data: bytes) -> None:
        for queue in queues:
            queue.put_nowait(data)

    async def publish() -> dict[str, float]:
        committed: dict[str, float] = {}
        for step in range(2 * task.jobs):
            await asyncio.sleep(pause_before(step, task.jobs) or COMMIT_SECONDS)
            committed[str(step)] = time.monotonic()
            put(frame(2 * step, "step:start", step) + frame(2 * step + 1, "step:complete", step))
        put(frame(4 * task.jobs, "run:complete", 0))
        put(b"")
        return committed

    async with listening(Starlette(routes=[Route("/", subscribe)])) as port:
        return await spread(task, port, "/", publish)


def work(task: Task) -> Answer:
    """Measure the floor of W5."""
    allow_many()
    return run(measure(task), Loop.ASYNCIO)


if __name__ == "__main__":
    serve(work)
