"""The idle process of W3: notes when each job started, and writes that down when it is terminated."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from bench.subjects.ours import url_of
from bench.task import Task
from durably import Durably, Step, job


async def work(task: Task) -> dict[str, float]:
    """Work until SIGTERM; returns when each job started, by its input."""
    started: dict[str, float] = {}

    @job("plain")
    async def plain(_step: Step, input: int) -> int:
        started[str(input)] = time.monotonic()
        return input

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Durably(url_of(task)).worker([plain]):
        print("ready", flush=True)
        await stop.wait()
    return started


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(work(Task(**json.loads(sys.argv[1]))))), encoding="utf-8")
