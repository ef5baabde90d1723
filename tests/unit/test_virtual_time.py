"""Time that passes only in the loop."""

from __future__ import annotations

import asyncio
import socket
from asyncio import sleep
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from durably.testing import Deadlock, Process, VirtualTimeLoop, World

DAY = 86_400.0


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def test_a_year_passes_at_once() -> None:
    async def main() -> float:
        await sleep(365 * DAY)
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(365 * DAY)


def test_what_is_due_earlier_happens_earlier() -> None:
    order: list[str] = []

    async def one(name: str, seconds: float) -> None:
        await sleep(seconds)
        order.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
                group.create_task(one(name, seconds))

    run(main)
    assert order == ["a", "b", "c"]


def test_timeouts_need_no_wrapper() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(DAY):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(DAY)


def test_the_clock_waits_for_a_call_in_a_thread() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        late = asyncio.create_task(sleep(DAY))
        await asyncio.to_thread(sum, range(100_000))
        seen = loop.time()
        late.cancel()
        return seen

    assert run(main) == 0.0


def test_where_no_timer_is_left_sockets_are_waited_for() -> None:
    async def main() -> bytes:
        left, right = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=left)
        await asyncio.to_thread(right.sendall, b"hello")
        found = await reader.readexactly(5)
        writer.close()
        right.close()
        return found

    assert run(main) == b"hello"


def test_a_loop_that_would_wait_for_ever_says_so() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="would wait for ever"):
        run(main)


def test_the_order_of_a_set_of_tasks_depends_on_no_address() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(sleep(0)) for _ in range(3)]
        await asyncio.gather(*tasks)
        return [hash(task) for task in tasks] + [hash(loop.create_future())]

    assert run(main) == run(main)


class Diary:
    """Processes of a world that write down when they go on."""

    def __init__(self) -> None:
        self.world = World("diary")
        self.lines: list[tuple[str, float]] = []

    async def tick(self, name: str, count: int = 5) -> None:
        for _ in range(count):
            await sleep(1.0)
            self.lines.append((name, self.world.now))

    def process(self, name: str) -> Process:
        process = self.world.process(name)
        process.start(lambda: self.tick(name))
        return process

    def play(self, until: float = 20.0) -> None:
        self.world.run(until=lambda: False, limit=until)
        self.world.close()

    def times(self, name: str) -> list[float]:
        return [round(when, 3) for who, when in self.lines if who == name]


def test_a_frozen_process_goes_on_where_it_was() -> None:
    diary = Diary()
    frozen = diary.process("frozen")
    diary.process("other")
    diary.world.call_at(1.5, lambda: frozen.freeze(3.0))
    diary.play()
    assert diary.times("frozen") == [1.0, 4.5, 5.5, 6.5, 7.5]
    assert diary.times("other") == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_blocked_loop_leaves_the_other_loops_of_its_process_alone() -> None:
    diary = Diary()
    process = diary.process("main")
    process.start(lambda: diary.tick("keeper"))
    diary.world.call_at(1.5, lambda: process.block(3.0))
    diary.play()
    assert diary.times("main") == [1.0, 4.5, 5.5, 6.5, 7.5]
    assert diary.times("keeper") == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_nothing_of_a_dead_process_goes_on() -> None:
    diary = Diary()
    process = diary.process("dead")
    process.start(lambda: diary.tick("its keeper"))
    diary.world.call_at(2.5, process.die)
    diary.play()
    assert diary.times("dead") == diary.times("its keeper") == [1.0, 2.0]


def test_a_process_that_spins_is_told() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110  # that is what it is about
            await sleep(0)

    world = World("spin")
    world.process("spinner").start(spin)
    with pytest.raises(RuntimeError, match="spinner spins"):
        world.run(until=lambda: False, limit=1.0)
    world.close()
