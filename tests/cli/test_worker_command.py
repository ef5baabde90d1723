"""`durably worker` works until it is told to stop, stops in good order, and says what is wrong with its arguments."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import CliRunner

from durably import Durably
from durably.cli.commands import app
from tests.support.gate import Gate

APP = """
import asyncio
from pathlib import Path
from durably import Durably, Step, SyncDurably, SyncStep, job
from gate import passed

durably = Durably("sqlite:///jobs.db")
blocking = SyncDurably("sqlite:///jobs.db")

@job("add")
async def add(step: Step, n: int) -> int:
    return n + 1

@job("loop")
async def loop(step: Step) -> str:
    return type(asyncio.get_running_loop()).__module__

@job("wait")
async def wait(step: Step) -> str:
    Path("started").touch()
    await passed("go")
    return "done"

@job("ask")
def ask(step: SyncStep) -> int:
    return blocking.trigger_and_wait("add", step.attempt, timeout=60)

jobs = [add, loop, wait]
number = 1
"""

SECONDS = 60.0

Process: TypeAlias = "subprocess.Popen[str]"
Start: TypeAlias = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, go: Gate) -> Iterator[Start]:
    (tmp_path / "app.py").write_text(APP)
    processes: list[Process] = []

    def start(*arguments: str) -> Process:
        command = [sys.executable, "-m", "durably.cli", "worker", *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_line(process: Process, text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"it ended without {text!r}")


def run_with(tmp_path: Path, work: Callable[[Durably], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Durably(f"sqlite:///{tmp_path}/jobs.db") as durably:
            await work(durably)

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "loop"), [(signal.SIGTERM, "auto"), (signal.SIGINT, "asyncio")])
def test_it_works_until_a_signal_comes(start: Start, tmp_path: Path, kind: signal.Signals, loop: str) -> None:
    process = start("app:durably", "app", "--concurrency", "2", "--loop", loop)
    wait_for_line(process, "worker ready: add, ask, loop, wait (process ")

    async def trigger(durably: Durably) -> None:
        assert await durably.trigger_and_wait("add", 1, timeout=SECONDS) == 2
        used = await durably.trigger_and_wait("loop", timeout=SECONDS)
        assert str(used).startswith("uvloop" if loop == "auto" else "asyncio")

    run_with(tmp_path, trigger)
    process.send_signal(kind)
    assert process.wait(SECONDS) == 0


def test_a_blocking_durably_is_taken_too_and_its_jobs_may_use_it(start: Start, tmp_path: Path) -> None:
    process = start("app:blocking", "app")
    wait_for_line(process, "worker ready")

    async def trigger(durably: Durably) -> None:
        assert await durably.trigger_and_wait("ask", timeout=SECONDS) == 2

    run_with(tmp_path, trigger)
    process.terminate()
    assert process.wait(SECONDS) == 0


def test_runs_may_end_after_the_first_signal(start: Start, tmp_path: Path, go: Gate) -> None:
    process = start("app:durably", "app:wait", "--grace", "30")
    wait_for_line(process, "worker ready")

    async def stop_it(durably: Durably) -> None:
        run = await durably.trigger("wait")
        async for event in durably.events(run=run):
            if event.type == "run:leased":
                process.terminate()
                wait_for_line(process, "stopping")
                go.open()
        assert await durably.result(run) == "done"

    run_with(tmp_path, stop_it)
    assert process.wait(SECONDS) == 0


def test_a_second_signal_hands_back_what_still_runs(start: Start, tmp_path: Path) -> None:
    process = start("app:durably", "app:jobs", "--grace", "300")
    wait_for_line(process, "worker ready")

    async def stop_it(durably: Durably) -> None:
        run = await durably.trigger("wait")
        async for event in durably.events(run=run):
            if event.type == "run:leased":
                process.terminate()
                wait_for_line(process, "stopping")
                process.terminate()
            if event.type == "run:release":
                break
        handed_back = await durably.get_run(run)
        assert handed_back is not None
        assert (handed_back.status, handed_back.attempt) == ("pending", 0)

    run_with(tmp_path, stop_it)
    assert process.wait(SECONDS) == 0


def test_a_signal_during_the_start_ends_it(start: Start, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").mkdir()
    process = start("app:durably", "app")
    wait_for_line(process, "trying again")
    process.terminate()
    assert process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("app", "app"), "DURABLY: 'app' must look like module:attribute, as in app:durably"),
        (("nothing:durably", "app"), "DURABLY: there is no module 'nothing' here"),
        (("app:nothing", "app"), "DURABLY: module 'app' has no 'nothing'"),
        (("app:number", "app"), "DURABLY: app:number is no Durably object but of type int"),
        (("app:durably", "nothing"), "JOBS: there is no module 'nothing' here"),
        (("app:durably", "app:number"), "JOBS: app:number is no job but of type int: is @job missing?"),
        (("app:durably", "os"), "module 'os' has no jobs"),
        (("app:durably", "app", "app:other_add"), "JOBS: module 'app' has no 'other_add'"),
    ],
)
@pytest.mark.usefixtures("go")
def test_wrong_arguments_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "app", raising=False)
    done = CliRunner().invoke(app, ["worker", *arguments])
    for name in ("app", "gate"):
        sys.modules.pop(name, None)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_uvloop_is_missed_only_where_it_was_asked_for(start: Start, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ModuleNotFoundError('gone', name='uvloop')")
    process = start("app:durably", "app", "--loop", "uvloop")
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (
        1,
        "durably: uvloop is not installed: `pip install uvloop`, or use --loop asyncio\n",
    )
    fallen_back = start("app:durably", "app")
    wait_for_line(fallen_back, "worker ready")


def test_what_is_wrong_within_the_users_module_keeps_its_traceback(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import not_there")
    _, errors = start("broken:durably", "broken").communicate(timeout=SECONDS)
    assert "No module named 'not_there'" in errors
    assert "broken.py" in errors


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('gone', name='typer')")
    command = [sys.executable, "-m", "durably.cli", "worker"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (1, "durably: typer is not installed: pip install 'durably[cli]'\n")
