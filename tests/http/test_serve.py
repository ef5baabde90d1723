"""`durably serve` as users start it, and servers in other processes: real signals, streams across processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from durably import Durably
from tests.support.gate import Gate
from tests.support.http import SECONDS, EventSource

APP = """
import os
from durably import Durably, Step, job
from durably.http import Auth, Reject, create_app
from gate import passed

durably = Durably(os.environ["DURABLY_TEST_URL"])

@job("wait")
async def wait(step: Step, path: str) -> str:
    async def look() -> str:
        await passed(path)
        return "there"
    await step.run("first", lambda: 1)
    return await step.run("look", look)

def check(request):
    raise Reject(401, "no")

auth = Auth(authenticate=check)
asgi = create_app(durably, jobs=[wait])
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.client = httpx.AsyncClient(timeout=SECONDS)

    async def says(self, pattern: str) -> re.Match[str]:
        """Return the next line that matches."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"it ended without {pattern!r}:\n" + "".join(self.lines))

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Return the exit code after a signal."""
        self.process.send_signal(number)
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    async def close(self) -> None:
        await self.client.aclose()
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()


Start: TypeAlias = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(url: str, tmp_path: Path, go: Gate) -> AsyncIterator[Start]:
    """Give what starts `durably serve`, or another command, where served.py is."""
    (tmp_path / "served.py").write_text(APP, "utf-8")
    started: list[Process] = []

    async def start(*arguments: str, module: str = "durably.cli", ready: str = r"serving (\S+) ") -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            cwd=tmp_path,
            env=os.environ | {"DURABLY_TEST_URL": url, "PYTHONPATH": str(tmp_path)},
            start_new_session=True,
        )
        opened = Process(process)
        started.append(opened)
        opened.client.base_url = httpx.URL((await opened.says(ready))[1])
        return opened

    yield start
    for opened in started:
        await opened.close()


SERVE = ("serve", "served:durably", "served", "--port", "0")


async def trigger(server: Process, path: str) -> str:
    response = await server.client.post("/trigger", json={"jobName": "wait", "input": path})
    assert response.status_code == 200, response.text
    return str(response.json()["runId"])


async def test_streams_tell_of_runs_in_other_processes_and_resume_in_them(
    start: Start, tmp_path: Path, go: Gate, durably: Durably
) -> None:
    one, two = await start(*SERVE), await start(*SERVE)
    worker = await start(*SERVE, "--worker")
    await worker.says("worker ready: wait")
    run_id = await trigger(one, "go")
    async with one.client.stream("GET", "/subscribe", params={"runId": run_id, "lastEventId": "0"}) as response:
        seen = await EventSource(response).until("step:complete")
    headers = {"Last-Event-ID": seen[-2].id or ""}
    async with (
        two.client.stream("GET", "/subscribe", params={"runId": run_id}, headers=headers) as response,
        one.client.stream("GET", "/runs/subscribe") as feed,
    ):
        stream = EventSource(response)
        assert (await stream.next()).data == seen[-1].data
        go.open()
        rest = await stream.rest()
        assert [frame.type for frame in rest if frame.type != "step:start"] == ["step:complete", "run:complete"]
        assert (await EventSource(feed).until("run:complete"))[-1].data["runId"] == run_id
    stored = [event.seq for event in await durably.get_events(run=run_id)]
    told = [frame.data["sequence"] for frame in [*seen, *rest]]
    assert told == stored[1:]


async def test_a_signal_ends_streams_and_server_and_hands_runs_back(
    start: Start, tmp_path: Path, durably: Durably
) -> None:
    server = await start(*SERVE, "--worker", "--grace", "0.2")
    run_id = await trigger(server, "go")
    async with (
        server.client.stream("GET", "/subscribe", params={"runId": run_id, "lastEventId": "0"}) as response,
        server.client.stream("GET", "/runs/subscribe") as feed,
    ):
        await EventSource(response).until("step:complete")
        server.process.send_signal(signal.SIGTERM)
        await EventSource(feed).rest()
    async with asyncio.timeout(SECONDS):
        assert await server.process.wait() == 0
    run = await durably.get_run(run_id)
    assert run is not None
    assert (run.status, run.attempt) == ("pending", 0)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # signals do not depend on the database
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_plain_uvicorn_is_not_kept_by_open_streams(start: Start, number: signal.Signals) -> None:
    server = await start("served:asgi", "--port", "0", module="uvicorn", ready=r"running on (http://\S+)")
    async with server.client.stream("GET", "/runs/subscribe") as feed:
        server.process.send_signal(number)
        async with asyncio.timeout(SECONDS):
            assert await EventSource(feed).rest() == []
    async with asyncio.timeout(SECONDS):
        await server.process.wait()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nor does this
async def test_auth_of_an_application_guards_it(start: Start) -> None:
    server = await start(*SERVE, "--auth", "served:auth")
    assert (await server.client.get("/runs")).status_code == 401
    assert await server.end() == 0


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nor does this
async def test_a_token_in_an_address_is_not_in_the_log(start: Start) -> None:
    server = await start(*SERVE, "--auth", "served:auth")
    await server.client.get("/runs?token=s3cret&limit=2&label.a=b%20c&s3cret")
    line = await server.says(r"GET /runs(\S+) HTTP")
    assert line[1] == "?token=***&limit=2&label.a=b%20c&***"
    assert await server.end() == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("serve", "served:durably", "served", "--worker", "--concurrency", "9" * 30), "max_concurrent_runs: "),
        (("serve", "served:durably", "--worker"), "JOBS: a worker needs jobs"),
        (("serve", "served"), "DURABLY: "),
        (("serve", "served:durably", "--auth", "served:wait"), "--auth: "),
        (("serve", "served:durably", "--host", "256.0.0.1"), "cannot listen on 256.0.0.1"),
    ],
)
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nor do arguments
async def test_what_is_wrong_is_said_in_one_line(start: Start, arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(AssertionError, match=f"durably: {text}"):
        await start(*arguments)
