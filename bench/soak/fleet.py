"""The worker processes: started, killed, frozen, started again. One that dies by itself is a finding."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

from bench.launch import clean_environment
from bench.settings import ROOT
from bench.soak.settings import WorkerTask

START_SECONDS = 60.0
RESTART_SECONDS = 1.0
STOP_SECONDS = 30.0


class Fleet:
    """Workers of one database. The first one is the steady one: it is never killed, so that its memory tells."""

    def __init__(self, task: WorkerTask, count: int, logs: Path) -> None:
        self._task = task
        self._logs = logs
        self._processes: list[Process | None] = [None] * count
        self._condemned: set[int] = set()
        self._stopping = asyncio.Event()
        self._begun = asyncio.Event()
        self._works = False
        self.claims: list[float] = []
        """Milliseconds of claims since they were last taken."""
        self.deaths: list[str] = []
        """Workers that ended though nobody killed them."""
        self.killed = 0
        self.frozen = 0

    @property
    def steady(self) -> int | None:
        """The process id of the steady worker; None when it is gone."""
        first = self._processes[0]
        return None if first is None else first.pid

    @property
    def pids(self) -> list[int]:
        """Those that run, the steady one first."""
        return [process.pid for process in self._processes if process is not None]

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start them; each lives in a task of the group until `stop`."""
        for place in range(len(self._processes)):
            group.create_task(self._live(place))

    async def begun(self) -> bool:
        """Return when the first of them works; False when one ends by itself before that, or none works in a minute."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._begun.wait(), START_SECONDS)
        return self._works

    async def _live(self, place: int) -> None:
        while not self._stopping.is_set():
            with (self._logs / f"worker-{place}.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "bench.soak.worker",
                    self._task.to_json(),
                    cwd=ROOT,
                    env=clean_environment(),
                    stdout=PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            self._processes[place] = process
            try:
                await self._listen(process)
                code = await process.wait()
            finally:
                self._processes[place] = None
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
            if process.pid not in self._condemned and not self._stopping.is_set():
                self.deaths.append(f"worker {place} ended by itself, exit code {code}")
                self._begun.set()
            await asyncio.sleep(0 if self._stopping.is_set() else RESTART_SECONDS)

    async def _listen(self, process: Process) -> None:
        """Take what it says about its claims, until it ends."""
        if process.stdout is not None:
            async for line in process.stdout:
                self._works = True
                self._begun.set()
                if line.endswith(b"\n"):  # else it was killed in the middle of it
                    self.claims += json.loads(line)

    def take_claims(self) -> list[float]:
        """What claims took since the last call, in milliseconds."""
        taken, self.claims = self.claims, []
        return taken

    # --- faults ---------------------------------------------------------------------------------------------

    def kill(self, chance: random.Random) -> bool:
        """Kill one that is not the steady one, without any warning. False when there is none."""
        victims = [process for process in self._processes[1:] if process is not None]
        if not victims:
            return False
        victim = chance.choice(victims)
        self._condemned.add(victim.pid)
        os.killpg(victim.pid, signal.SIGKILL)
        self.killed += 1
        return True

    async def freeze(self, chance: random.Random, seconds: float) -> None:
        """Stop one, the steady one included, for longer than its lease."""
        pids = self.pids
        if not pids:
            return
        victim = chance.choice(pids)
        os.killpg(victim, signal.SIGSTOP)
        self.frozen += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            if victim in self.pids:
                os.killpg(victim, signal.SIGCONT)

    async def stop(self) -> None:
        """End them in good order."""
        self._stopping.set()
        running = [process for process in self._processes if process is not None]
        for process in running:
            process.terminate()
        waits = [asyncio.ensure_future(process.wait()) for process in running]
        if waits:
            await asyncio.wait(waits, timeout=STOP_SECONDS)
        for process in running:
            if process.returncode is None:
                self.deaths.append(f"process {process.pid} did not end within {STOP_SECONDS:g} s of SIGTERM")
                os.killpg(process.pid, signal.SIGKILL)
