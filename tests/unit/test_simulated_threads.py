"""Threads of a simulated process: one runs at a time, in virtual time, and none outlives its world."""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections.abc import Callable

import pytest

from durably.testing import Process, SimulatedEnvironment, World


class Desk:
    """One process that runs things in threads, and what they wrote down."""

    def __init__(self, seed: str = "desk") -> None:
        self.world = World(seed)
        self.process: Process = self.world.process("desk")
        self.environment = SimulatedEnvironment(self.process, thread_seconds=0.1)
        self.lines: list[tuple[str, float]] = []

    def note(self, text: str) -> None:
        self.lines.append((text, round(self.world.now, 3)))

    def run(self, *works: Callable[[], object], until: float = 20.0) -> None:
        executor = self.environment.executor("any", 4)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(executor, work) for work in works))

        self.process.start(main)
        self.world.run(until=lambda: False, limit=until)

    def nap(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            for _ in range(3):
                self.environment.sleep(seconds)
                self.note(name)

        return work


def test_threads_sleep_in_virtual_time_and_in_one_order() -> None:
    first, again = Desk(), Desk()
    for desk in (first, again):
        desk.run(desk.nap("slow", 2.0), desk.nap("fast", 1.0))
        desk.world.close()
    assert first.lines == again.lines
    assert [name for name, _ in first.lines] == ["fast", "slow", "fast", "fast", "slow", "slow"]


def test_a_thread_waits_for_its_loop() -> None:
    desk = Desk()
    loops: list[asyncio.AbstractEventLoop] = []

    async def answer() -> int:
        await sleep(5.0)
        return 42

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await sleep(1000.0)

    def ask() -> None:
        found = desk.environment.wait(asyncio.run_coroutine_threadsafe(answer(), loops[0]))
        desk.note(f"{found}")

    desk.process.start(main)
    desk.run(ask)
    desk.world.close()
    [(found, when)] = desk.lines
    assert found == "42"
    assert 5.0 <= when <= 5.2


def test_a_frozen_process_holds_its_threads() -> None:
    desk = Desk()
    desk.world.call_at(1.5, lambda: desk.process.freeze(10.2))
    desk.run(desk.nap("late", 1.0))
    desk.world.close()
    assert [round(when) for _, when in desk.lines] == [1, 12, 13]


def test_a_thread_of_a_dead_process_ends_with_its_world_and_not_before() -> None:
    desk = Desk()
    ended: list[float] = []

    def work() -> None:
        try:
            desk.environment.sleep(100.0)
        finally:
            ended.append(desk.world.now)

    desk.world.call_at(1.5, desk.process.die)
    desk.run(work)
    assert ended == []
    assert len(desk.process.threads) == 1
    desk.world.close()
    assert ended == [20.0]
    assert desk.process.threads == []


def test_who_would_block_the_world_is_told_so() -> None:
    with pytest.raises(RuntimeError, match="block the world"):
        Desk().environment.sleep(1.0)
