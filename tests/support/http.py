"""A server under test: a real uvicorn on a real socket, and clients that read its streams."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlencode

import httpx
import uvicorn
from starlette.types import ASGIApp

from durably import Durably, EventType, Job, Run
from durably.cli.server import Server
from durably.http import create_app
from durably.http.app import DurablyApp
from durably.jobs import Target

SECONDS = 20.0
RUN_KEYS = {
    "id", "jobName", "input", "status", "currentStepIndex", "completedStepCount", "progress", "output", "error",
    "labels", "startedAt", "completedAt", "createdAt", "isTerminal", "isActive",
}  # fmt: skip
MORE_RUN_KEYS = {"attempt", "priority", "availableAt", "waitingFor"}
STEP_KEYS = {"id", "runId", "name", "index", "status", "output", "error", "startedAt", "completedAt"}


@dataclass
class Frame:
    """One frame of a stream."""

    id: str | None
    data: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.data["type"])

    def __str__(self) -> str:
        return f"{self.type} {self.data.get('stepName') or ''}".strip()


class EventSource:
    """Reads a stream as a browser does."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> Frame:
        """Return the next frame. Raises StopAsyncIteration at the end."""
        id_, data = None, list[str]()
        async with asyncio.timeout(SECONDS):
            while True:
                line = await anext(self._lines)
                name, _, value = line.partition(": ")
                if not line and data:
                    return Frame(id_, json.loads("\n".join(data)))
                match name:
                    case "id":
                        id_ = value
                    case "data":
                        data.append(value)
                    case "":
                        self.comments += [value] if value else []
                    case _:
                        raise AssertionError(f"unexpected line {line!r}")

    async def take(self, count: int) -> list[Frame]:
        return [await self.next() for _ in range(count)]

    async def until(self, type_: EventType | str) -> list[Frame]:
        """Return the frames up to one of this type."""
        frames = [await self.next()]
        while frames[-1].type != type_:
            frames.append(await self.next())
        return frames

    async def rest(self) -> list[Frame]:
        """Return all frames up to the end."""
        frames = list[Frame]()
        try:
            while True:
                frames.append(await self.next())
        except StopAsyncIteration:
            return frames

    async def comment(self) -> str:
        """Return the next comment."""
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                if line.startswith(":"):
                    return line
        raise AssertionError("the stream ended without a comment")


@dataclass
class Site:
    """One server and a client for it."""

    durably: Durably
    app: DurablyApp
    port: int
    server: Server
    client: httpx.AsyncClient
    base: str = ""
    log: list[str] = field(default_factory=list[str])

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(self.base + path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.client.post(self.base + path, json=body, **options)

    async def act(self, operation: str, run: Run[Any] | str) -> httpx.Response:
        """Cancel, resume, retrigger or delete a run."""
        run_id = run.id if isinstance(run, Run) else run
        if operation == "delete":
            return await self.client.delete(f"{self.base}/run", params={"runId": run_id})
        return await self.post(f"/{operation}", params={"runId": run_id})

    async def trigger(self, job: str, input: Any = None, **more: Any) -> str:
        response = await self.post("/trigger", {"jobName": job, "input": input} | more)
        assert response.status_code == 200, response.text
        return str(response.json()["runId"])

    async def run(self, run_id: str) -> dict[str, Any]:
        response = await self.get("/run", params={"runId": run_id})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    @asynccontextmanager
    async def stream(
        self, path: str, params: Any = None, *, after: str | None = None, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[EventSource, None]:
        """Open a stream. The headers have arrived on entering."""
        headers = (headers or {}) | ({} if after is None else {"Last-Event-ID": after})
        async with self.client.stream("GET", self.base + path, params=params, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            yield EventSource(response)

    def of_run(self, run: Run[Any] | str, **options: Any) -> Any:
        run_id = run.id if isinstance(run, Run) else run
        return self.stream("/subscribe", {"runId": run_id}, **options)

    def feed(self, *params: tuple[str, str], **options: Any) -> Any:
        return self.stream("/runs/subscribe", list(params), **options)


@asynccontextmanager
async def listening(
    app: ASGIApp, *, grace: int | None = None, port: int = 0, closes: bool = True
) -> AsyncGenerator[tuple[Server, int], None]:
    """Serve an application on a free port with a real uvicorn. `closes`: it may close what it serves at the end."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        timeout_graceful_shutdown=grace,
        lifespan="auto" if closes else "off",
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        while not server.started:
            await asyncio.sleep(0)
            assert not serving.done(), serving
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def site(
    durably: Durably, *, jobs: Sequence[Target[Any, Any] | str] = (), **options: Any
) -> AsyncGenerator[Site, None]:
    """Serve a Durably alone."""
    app = create_app(durably, jobs=jobs, **options)
    async with (
        listening(app, grace=5) as (server, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client,
    ):
        yield Site(durably, app, port, server, client)
        app.close_streams()


class RawClient:
    """Opens a stream over a socket of its own, and reads nothing of it until it is told to."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path

    async def __aenter__(self) -> Self:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)  # soon full
        raw.setblocking(False)  # noqa: FBT003 - a positional parameter
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self._port))
        self._reader, self._writer = await asyncio.open_connection(sock=raw, limit=2**10)
        self._writer.write(f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await self._writer.drain()
        async with asyncio.timeout(SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        self.name: tuple[str, int] = raw.getsockname()
        transport: object = self._writer.transport
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.pause_reading()
        return self

    async def read_until(self, text: bytes) -> bytes:
        """Return what has arrived up to where this text is."""
        self._transport.resume_reading()
        body = b""
        async with asyncio.timeout(SECONDS):
            while text not in body:
                got = await self._reader.read(2**16)
                assert got, body
                body += got
        return body

    async def read_all(self) -> bytes:
        """Return the body of what arrives before the connection ends or breaks, its chunks joined."""
        self._transport.resume_reading()
        raw, body = b"", b""
        with suppress(OSError):
            async with asyncio.timeout(SECONDS):
                while got := await self._reader.read(2**16):
                    raw += got
        while raw:
            size, _, raw = raw.partition(b"\r\n")
            length = int(size or b"0", 16)
            body += raw[:length]
            raw = raw[length + 2 :]
        return body

    def finish(self) -> None:
        """Close it in good order: the server gets a FIN."""
        self._writer.close()

    def abort(self) -> None:
        """Break it off: the server gets a RST."""
        found: socket.socket = self._writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()


def query(**params: str) -> str:
    return urlencode(params)


def quick(url: str, **settings: Any) -> Durably:
    options: dict[str, Any] = {"poll_interval": timedelta(milliseconds=50)} | settings
    return Durably(url, **options)


async def work(durably: Durably, *jobs: Job[Any, Any]) -> None:
    """Execute all runs that can be claimed now."""
    await durably.worker(jobs).process_until_idle()


async def until(is_so: Any) -> None:
    """Return when the function returns something true."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.wait([never], timeout=0.01)
