"""One simulation from its seed to its verdict: the processes, what befalls them, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from unittest.mock import patch

from durably.runtime import maintenance
from durably.runtime.settings import Settings
from durably.testing import Memory, Process, SimulatedDatabase, SimulatedDurably, SimulatedEnvironment, World
from tests.simulation.blocking import blocking
from tests.simulation.clients import Clients, Script
from tests.simulation.history import Heard, History
from tests.simulation.trouble import DURATION, LEASE, MAX_CRASHES, POLL, Interval, Profile, Trouble, random_profile
from tests.simulation.workload import Scene, leaf, scripted

_CHORES = {"RETENTION_SECONDS": 0.9, "AUDIT_SECONDS": 0.8, "KEYS_SECONDS": 0.8}
PATIENCE = 90.0
"""Seconds of virtual time in which everything has to end once nothing goes wrong any more."""


@dataclass
class Post:
    """A place that a process has, and after its end the next one."""

    name: str
    main: Callable[[Process, asyncio.Event], Coroutine[Any, Any, None]]
    process: Process | None = None
    stop: asyncio.Event | None = None
    number: int = 0
    is_over: bool = False


class Stage:
    """The simulation of one seed."""

    def __init__(self, seed: int | str, memory: Memory) -> None:
        self.seed = seed
        self.world = World(seed)
        self.profile: Profile = random_profile(seed)
        self.trouble = Trouble(self.world, self.profile, seed)
        self.chance = Random(f"stage {seed}")
        self.database = SimulatedDatabase(self.world, self.trouble, is_parallel=self.profile.is_parallel, memory=memory)
        self.database.open()
        self.history = History(self.database)
        self.clients = Clients(self.history, self.profile, Random(f"clients {seed}"))
        self.settings = Settings(
            lease=timedelta(seconds=LEASE),
            poll_interval=timedelta(seconds=POLL),
            max_concurrent_runs=self.profile.slots,
            max_crashes=MAX_CRASHES,
            grace=timedelta(seconds=self.chance.choice((0.0, 0.3, 2.0))),
            retain_runs=_kept(self.profile.retain_runs),
            retain_events=_kept(self.profile.retain_events),
        )
        self.executions: dict[str, int] = {}
        self.cursor = 0
        self.posts: list[Post] = [Post(f"w{number}", self._work) for number in range(self.profile.workers)]
        self.posts += [Post(script.name, self._client_main(script)) for script in self.clients.scripts()]
        self.posts.append(Post("s0", self._subscribe))
        self.faults: list[str] = []
        """What went wrong in the processes themselves."""

    # --- the play -------------------------------------------------------------------------------------------

    def play(self) -> list[str]:
        """Play it to its end. Returns what did not end."""
        with ExitStack() as stack:
            if self.profile.has_chores:
                for name, seconds in _CHORES.items():
                    stack.enter_context(patch.object(maintenance, name, seconds))
            return self._play()

    def _play(self) -> list[str]:
        for post in self.posts:
            self._start(post)
        for when, what in self._plan():
            self.world.call_at(when, what)
        self.world.run(until=lambda: False, limit=DURATION)
        self.trouble.is_over = True
        self.world.note("from now on everything works")
        if not self._wait(self._is_done, PATIENCE):
            return ["end: there are runs that never end"]
        missed: list[str] = []
        kept = self.profile.retain_runs
        if kept and not self._wait(lambda: not self.history.overdue(kept + 2.0), 10.0):
            missed.append("G12: what is not to be kept is never purged")
        workers = [post for post in self.posts if post.main == self._work]
        for post in workers:
            self._stop(post, for_good=True)
        if not self._wait(lambda: all(post.process is None for post in workers), 30.0):
            missed.append("end: a worker does not stop")
        if not self._wait(self._is_heard, 15.0):
            missed.append("G9: the subscriber never hears the last event")
        return missed

    def close(self) -> None:
        """Give everything back."""
        self.world.close()
        self.database.close()

    def _wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Play on until something is so, looking now and then."""
        end = self.world.now + seconds
        while not until():
            if self.world.now >= end:
                return False
            self.world.run(until=lambda: False, limit=min(self.world.now + 0.25, end))
        return True

    def _is_done(self) -> bool:
        waiting = [post for post in self.posts if post.name[0] == "c" and not post.is_over]
        return not waiting and not self.history.open_runs()

    def _is_heard(self) -> bool:
        last = self.history.last_event()
        return last is None or any((one.run, one.seq) == last for one in self.history.heard)

    # --- what goes wrong ------------------------------------------------------------------------------------

    def _plan(self) -> list[tuple[float, Callable[[], object]]]:
        chance, profile = self.chance, self.profile
        plan: list[tuple[float, Callable[[], object]]] = []
        kinds: list[tuple[int, Callable[[], object]]] = [
            (profile.crashes, self._crash),
            (profile.freezes, self._freeze),
            (profile.outages, lambda: self._window("outage")),
            (profile.slow, lambda: self._window("slow")),
            (profile.stops, self._stop_some),
            (profile.jumps, self._jump),
        ]
        for count, what in kinds:
            plan += [(chance.uniform(0.05, DURATION * 0.9), what) for _ in range(count)]
        return plan

    def _some(self) -> Post:
        """Mostly a worker."""
        workers = self.profile.workers
        return self.posts[self.chance.randrange(workers if self.chance.random() < 0.8 else len(self.posts))]

    def _crash(self) -> None:
        process = self._some().process
        if process is not None:
            self.world.note(f"{process.name:10} is killed")
            process.die()

    def _freeze(self) -> None:
        process = self._some().process
        if process is not None:
            seconds = self.chance.uniform(0.1, 3 * LEASE)
            self.trouble.add("frozen", process.name, seconds)
            process.freeze(seconds)

    def _window(self, kind: str) -> None:
        whom = "*" if self.chance.random() < 0.3 else self._some().name
        self.trouble.add(kind, whom, self.chance.uniform(0.2, 2 * LEASE))

    def _jump(self) -> None:
        """Set the clock of the database, mostly ahead."""
        environment = self.database.environment
        environment.skew += self.chance.uniform(0.1, 3 * LEASE) * self.chance.choice((1, 1, -1))
        self.trouble.set_clock(environment.skew)

    def _stop_some(self) -> None:
        post = self.posts[self.chance.randrange(self.profile.workers)]
        self._stop(post, for_good=False)

    # --- processes ------------------------------------------------------------------------------------------

    def _start(self, post: Post) -> None:
        if post.is_over:
            return
        post.number += 1
        process = post.process = self.world.process(f"{post.name}.{post.number}")
        stop = post.stop = asyncio.Event()
        process.at_death = lambda: self._died(post, process)
        process.start(lambda: self._main(post, process, stop))

    async def _main(self, post: Post, process: Process, stop: asyncio.Event) -> None:
        try:
            await post.main(process, stop)
        except Exception as error:  # noqa: BLE001  # a finding
            self.faults.append(f"{process.name} failed: {error!r}")
        if process.is_alive:
            self.world.note(f"{process.name:10} ended")
            process.at_death = None
            post.process = None
            post.is_over = post.is_over or post.name[0] != "w"
            if not post.is_over:
                self.world.call_later(self.chance.uniform(0.05, 0.5), lambda: self._start(post))

    def _died(self, post: Post, process: Process) -> None:
        self.world.note(f"{process.name:10} is dead")
        self.trouble.counts["crash"] = self.trouble.counts.get("crash", 0) + 1
        self.trouble.intervals.append(Interval("dead", process.name, self.world.now, 1e9))
        post.process = None
        self.world.call_later(self.chance.uniform(0.05, 0.8), lambda: self._start(post))

    def _stop(self, post: Post, *, for_good: bool) -> None:
        post.is_over = post.is_over or for_good
        if post.process is not None and post.stop is not None:
            self.world.note(f"{post.process.name:10} is to stop")
            self.trouble.intervals.append(Interval("stopping", post.process.name, self.world.now, 1e9))
            post.process.loops[0].call_soon_threadsafe(post.stop.set)

    def _environment(self, process: Process) -> SimulatedEnvironment:
        skew, uptime = self.chance.uniform(-1, 1) * self.profile.skew, self.chance.uniform(0, 1e5)
        return SimulatedEnvironment(process, skew=skew, uptime=uptime, thread_seconds=0.05)

    def _durably(self, process: Process) -> SimulatedDurably:
        return SimulatedDurably(self.database, self._environment(process), self.settings)

    async def _work(self, process: Process, stop: asyncio.Event) -> None:
        environment = self._environment(process)
        durably = SimulatedDurably(self.database, environment, self.settings)
        scene = Scene(self.history, environment, self.executions, self.trouble)
        async with durably.worker([scripted, leaf, blocking], deps=scene.provide):
            self.history.started.append((process.name, self.world.now))
            await stop.wait()
        await durably.close()
        self.history.stopped.append((process.name, self.world.now, self.database.transaction))

    def _client_main(self, script: Script) -> Callable[[Process, asyncio.Event], Coroutine[Any, Any, None]]:
        async def main(process: Process, _: asyncio.Event) -> None:
            durably = self._durably(process)
            await self.clients.follow(script, process, durably)
            await durably.close()

        return main

    async def _subscribe(self, process: Process, _: asyncio.Event) -> None:
        durably = self._durably(process)
        async with durably.events(after=self.cursor) as events:
            async for event in events:
                if process.is_alive and event.seq is not None:
                    told = (event.id, event.type.value, event.step)
                    self.history.heard.append(Heard(event.run_id, event.seq, self.database.transaction, *told))
                    self.cursor = self.cursor if event.cursor is None else event.cursor


def _kept(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None
