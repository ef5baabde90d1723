"""`durably worker` with real processes: several of them, their health over HTTP, and starting anew on a change."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from durably import Durably
from tests.support.bench import eventually
from tests.support.gate import Gate
from tests.support.stage import PATIENCE

APP = """
import os
from pathlib import Path
from durably import Durably, Step, job
from gate import pass_blocking, passed

durably = Durably.from_env()

@job("who")
async def who(step: Step) -> int:
    return os.getpid()

@job("wait")
async def wait(step: Step) -> str:
    Path("started").touch()
    await passed("go")
    return "done"

@job("block")
async def block(step: Step) -> str:
    Path("blocked").touch()
    pass_blocking("go")
    return "done"

@job("version")
async def version(step: Step) -> str:
    return "one"
"""


class Program:
    """A command and what it says on standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode().rstrip())

    async def says(self, text: str, count: int = 1) -> list[str]:
        try:
            await eventually(lambda: len(self.said(text)) >= count or self._reading.done(), seconds=PATIENCE)
        except TimeoutError:
            pytest.fail(f"{text!r} was not said {count} times:\n{self.story()}")
        assert len(self.said(text)) >= count, self.story()
        return self.said(text)

    def said(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    def story(self) -> str:
        return "\n".join(self.lines)

    async def children(self, count: int) -> list[int]:
        """The ids of the worker processes, once so many are ready."""
        ready = await self.says("worker ready", count)
        return [int(match[1]) for line in ready if (match := re.search(r"process (\d+)", line))]

    async def port(self) -> int:
        [line, *_] = await self.says("health: http")
        return int(line.rpartition(":")[2])

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reading
        return code


Start: TypeAlias = Callable[..., Awaitable[Program]]


@pytest.fixture
async def start(url: str, tmp_path: Path, go: Gate) -> AsyncIterator[Start]:
    (tmp_path / "app.py").write_text(APP)
    programs: list[Program] = []

    async def start(*options: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "durably.cli", "worker", "app:durably", "app", *options,
            cwd=tmp_path,
            env=os.environ | {"DURABLY_URL": url, "DURABLY_LEASE": "1s", "DURABLY_POLL_INTERVAL": "200ms"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        programs.append(Program(process))
        return programs[-1]

    yield start
    for program in programs:
        pids = [int(match[1]) for line in program.lines if (match := re.search(r"\(process (\d+)\)", line))]
        for pid in (program.process.pid, *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await program.ended()


@pytest.fixture
async def durably(url: str) -> AsyncIterator[Durably]:
    async with Durably(url) as opened:
        yield opened


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def fetch(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def ask(port: int, path: str = "/ready") -> tuple[int, dict[str, Any]]:
    return await asyncio.to_thread(fetch, port, path)


async def is_ready(port: int, *, status: int = 200) -> None:
    async def has_come() -> bool:
        return (await ask(port))[0] == status

    await eventually(has_come, seconds=PATIENCE)


# --- several processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_several_processes_share_the_work_and_stop_together(start: Start, durably: Durably) -> None:
    program = await start("--processes", "2", "--concurrency", "1")
    children = await program.children(2)
    assert len(set(children)) == 2

    async def both_worked() -> bool:
        await asyncio.gather(*(durably.trigger_and_wait("who", timeout=PATIENCE) for _ in range(4)))
        return {run.output for run in await durably.get_runs("who")} == set(children)

    await eventually(both_worked, seconds=PATIENCE)
    program.process.terminate()
    assert await program.ended() == 0
    assert not any(map(is_alive, children))


async def test_a_process_that_is_killed_is_replaced_and_its_run_goes_on(
    start: Start, durably: Durably, tmp_path: Path, go: Gate
) -> None:
    program = await start("--processes", "2", "--concurrency", "1")
    children = await program.children(2)
    run = await durably.trigger("wait")
    await eventually((tmp_path / "started").exists, seconds=PATIENCE)
    for child in children:
        os.kill(child, signal.SIGKILL)
    await program.says("process ended with -9: starting it anew in 0.5 s", 2)
    replaced = await program.children(4)
    assert len(set(replaced)) == 4
    go.open()
    assert await durably.result(run, timeout=PATIENCE) == "done"
    program.process.send_signal(signal.SIGINT)
    assert await program.ended() == 0


async def test_processes_stop_in_good_order_when_the_one_that_watches_is_killed(start: Start, durably: Durably) -> None:
    program = await start("--processes", "2", "--grace", "0")
    children = await program.children(2)
    run = await durably.trigger("wait")

    async def is_leased() -> bool:
        found = await durably.get_run(run)
        return found is not None and found.status == "leased"

    await eventually(is_leased, seconds=PATIENCE)
    program.process.kill()
    await program.process.wait()
    await eventually(
        lambda: len(program.said("worker ready")) == 2 and not any(map(is_alive, children)), seconds=2 * PATIENCE
    )
    found = await durably.get_run(run)
    assert found is not None
    assert (found.status, found.crashes) == ("pending", 0)  # handed back, not crashed


async def test_runs_end_within_the_grace_and_a_second_signal_hands_them_back(
    start: Start, durably: Durably, tmp_path: Path
) -> None:
    program = await start("--processes", "2", "--grace", "300")
    await program.children(2)
    run = await durably.trigger("wait")
    await eventually((tmp_path / "started").exists, seconds=PATIENCE)
    program.process.terminate()
    await program.says("stopping: runs may end", 3)
    assert program.process.returncode is None
    program.process.terminate()
    assert await program.ended() == 0
    found = await durably.get_run(run)
    assert found is not None
    assert (found.status, found.attempt) == ("pending", 0)


async def test_processes_that_never_worked_are_not_started_again_and_again(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("durably = 1")
    program = await start("--processes", "2")
    assert await program.ended() == 1
    assert len(program.said("DURABLY: app:durably is no Durably object")) >= 1
    assert program.said("starting it anew") == []


# --- health -----------------------------------------------------------------------------------------


async def test_health_tells_whether_it_lives_and_works(
    start: Start, durably: Durably, tmp_path: Path, go: Gate
) -> None:
    program = await start("--health-port", "0", "--grace", "300")
    port = await program.port()
    await program.children(1)
    await is_ready(port)
    status, body = await ask(port, "/live")
    assert (status, body["status"], body["process"]) == (200, "ok", program.process.pid)
    assert (await ask(port, "/"))[0] == 200
    assert (await ask(port, "/nothing"))[0] == 404
    await durably.trigger("wait")
    await eventually((tmp_path / "started").exists, seconds=PATIENCE)
    program.process.terminate()
    await is_ready(port, status=503)  # it takes no more work,
    assert (await ask(port, "/live"))[0] == 200  # and must not be killed
    go.open()
    assert await program.ended() == 0


async def test_health_answers_while_the_event_loop_is_blocked(
    start: Start, durably: Durably, tmp_path: Path, go: Gate
) -> None:
    program = await start("--health-port", "0", "--jobs", "w*,block", "--exclude", "wait")
    assert "worker ready: block, who (process" in (await program.says("worker ready"))[0]  # those that it was told to
    port = await program.port()
    await is_ready(port)
    run = await durably.trigger("block")
    await eventually((tmp_path / "blocked").exists, seconds=PATIENCE)

    async def is_silent() -> bool:
        status, body = await ask(port, "/live")
        assert status == 200  # not for long enough
        return bool(body["loop_silent_seconds"] > 1)

    await eventually(is_silent, seconds=PATIENCE)
    go.open()
    assert await durably.result(run, timeout=PATIENCE) == "done"


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_a_worker_whose_database_is_away_is_not_ready_and_lives(
    start: Start, url: str, postgres_server: Any
) -> None:
    program = await start("--health-port", "0")
    port = await program.port()
    await is_ready(port)
    name = url.rpartition("/")[2]
    deny = f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'
    await asyncio.to_thread(postgres_server.execute, deny)
    kill = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
    await asyncio.to_thread(postgres_server.execute, kill)
    await is_ready(port, status=503)
    assert (await ask(port))[1]["database"] is False
    assert (await ask(port, "/live"))[0] == 200
    await asyncio.to_thread(postgres_server.execute, deny.replace("false", "true"))
    await is_ready(port)


async def test_health_of_several_processes_is_that_of_all(start: Start) -> None:
    program = await start("--processes", "2", "--health-port", "0")
    port = await program.port()
    assert (await ask(port))[0] == 503  # none is ready yet
    children = await program.children(2)
    await is_ready(port)
    _, body = await ask(port)
    assert {one["process"] for one in body["processes"]} == set(children)
    os.kill(children[0], signal.SIGKILL)
    await is_ready(port, status=503)
    await is_ready(port)
    program.process.terminate()
    assert await program.ended() == 0


async def test_a_port_that_is_taken_is_named(start: Start) -> None:
    first = await start("--health-port", "0")
    port = await first.port()
    second = await start("--health-port", str(port))
    assert await second.ended() == 1
    assert second.said(f"--health-port: {port} cannot be had: Address already in use")


# --- reload -----------------------------------------------------------------------------------------


def rewrite(path: Path, text: str) -> None:
    """Replace a file at once: one change, whoever looks meanwhile."""
    written = path.with_suffix(".txt")
    written.write_text(text)
    written.replace(path)


async def test_changes_start_the_worker_anew_and_hand_its_runs_back(
    start: Start, durably: Durably, tmp_path: Path, go: Gate
) -> None:
    program = await start("--reload")
    [first] = await program.children(1)
    assert await durably.trigger_and_wait("version", timeout=PATIENCE) == "one"
    waiting = await durably.trigger("wait")
    await eventually((tmp_path / "started").exists, seconds=PATIENCE)
    rewrite(tmp_path / "app.py", APP.replace('"one"', '"two"'))
    await program.says("app.py changed: starting anew")
    assert len(set(await program.children(2))) == 2
    assert not is_alive(first)
    assert await durably.trigger_and_wait("version", timeout=PATIENCE) == "two"
    go.open()
    ended = await durably.wait(waiting, timeout=PATIENCE)
    assert (ended.output, ended.crashes, ended.attempt) == ("done", 0, 1)

    rewrite(tmp_path / "app.py", "this is no Python")  # a mistake is waited out until it is repaired,
    await program.says("waiting for a change")
    assert program.said("SyntaxError")
    rewrite(tmp_path / "app.py", APP.replace('"one"', '"three"'))
    await program.children(3)
    assert await durably.trigger_and_wait("version", timeout=PATIENCE) == "three"

    for name in ("notes.txt", ".hidden.py", "__pycache__/x.py", "node_modules/y.py"):  # other files do not count,
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "late.py").write_text("x = 1")  # and new ones do
    await program.says("late.py changed: starting anew")
    await program.children(4)
    said = [line.partition(" changed")[0].split()[-1] for line in program.said("changed: starting anew")]
    assert said == ["app.py", "app.py", "app.py", "late.py"]
    program.process.terminate()
    assert await program.ended() == 0
