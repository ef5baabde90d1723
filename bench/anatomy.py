"""What a step costs in microseconds, and where: `python -m bench.anatomy sqlite`, or with a PostgreSQL URL.

Parts of durably are timed by wrapping their functions while the 500 runs of W2 are drained over and over in this
process. The wrappers cost something too: the parts are for comparing with each other, the benchmark for the total.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from bench.subjects.jobs import small_dict
from durably import Durably, Step, job
from durably.codec import Codec
from durably.runtime.recorder import Recorder
from durably.runtime.steps import Steps
from durably.store import batch
from durably.store.sqlite import SqliteEngine

STEPS, RUNS, CONCURRENCY, ROUNDS = 5, 2000, 100, 3


@job("anatomy")
async def anatomy(step: Step, input: int) -> int:
    """The job of W2."""
    for number in range(STEPS):
        await step.run("step", small_dict, number, key=number)
    return input


def parts(engine: type[Any]) -> Iterable[tuple[str, Any, str]]:
    """A name for what is timed, and where it is."""
    yield "begin: name, start event", Steps, "begin_new"
    yield "encode: JSON, and back, and compare", Codec, "round_trip"
    yield "record: number the write, put it in the lane", Recorder, "store"
    yield "batch: writes to rows", batch, "_grouped"
    yield "bind: rows to the statement's parameters", engine, "_bind"
    yield "answer: tell each run its verdict", getattr(batch, "_Entry"), "succeed"  # noqa: B009  # a private class: it is looked into here


@contextmanager
def timed(target: Any, name: str, spent: dict[str, float], label: str) -> Generator[None]:  # noqa: ANN401  # a class or a module
    """Inside, what the function takes is added up."""
    inner: Callable[..., Any] = getattr(target, name)
    clock = time.perf_counter

    def outer(*args: object, **options: object) -> Any:  # noqa: ANN401  # whatever it returns
        begin = clock()
        try:
            return inner(*args, **options)
        finally:
            spent[label] = spent.get(label, 0.0) + clock() - begin

    with patch.object(target, name, outer):
        yield


async def drain(url: str) -> tuple[float, float, float]:
    """Wall, the event loop's thread and the whole process, in seconds."""
    async with Durably(url) as durably:
        await durably.trigger_many(anatomy, range(RUNS))
        done, left = asyncio.Event(), RUNS

        def count(_event: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        durably.on("run:complete", count)
        begin = time.perf_counter(), time.thread_time(), time.process_time()
        async with durably.worker([anatomy], max_concurrent_runs=CONCURRENCY):
            await done.wait()
            return time.perf_counter() - begin[0], time.thread_time() - begin[1], time.process_time() - begin[2]


def measure(url: str, engine: type[Any]) -> None:
    """Print the table."""
    per_step = 1e6 / (RUNS * STEPS)
    wall, loop, process = min(asyncio.run(drain(url)) for _ in range(ROUNDS))
    spent: dict[str, float] = {}
    with ExitStack() as stack:
        for label, target, name in parts(engine):
            stack.enter_context(timed(target, name, spent, label))
        _, timed_loop, _ = asyncio.run(drain(url))
    print(f"{CONCURRENCY} runs at once, microseconds a step; the run's own claim and end are shared out\n")
    for label, seconds in spent.items():
        print(f"{seconds * per_step:7.1f}  {label}")
    rest = timed_loop - sum(spent.values())
    print(f"{rest * per_step:7.1f}  the rest of the loop's thread: asyncio, the driver, user code")
    print(f"\n{loop * per_step:7.1f}  the loop's thread, without the clocks")
    print(f"{(process - loop) * per_step:7.1f}  other threads of the process")
    print(f"{wall * per_step:7.1f}  from step to step")


def main() -> None:
    """Measure the database that the first argument names."""
    if sys.argv[1:] == ["sqlite"]:
        with tempfile.TemporaryDirectory() as folder:
            measure(f"sqlite:///{folder}/anatomy.db", SqliteEngine)
        return
    from durably.store.postgres import PostgresEngine  # noqa: PLC0415  # only where there is a driver

    measure(sys.argv[1], PostgresEngine)


if __name__ == "__main__":
    main()
