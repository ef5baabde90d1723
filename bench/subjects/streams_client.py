"""The subscribers of W5, all in one process: prints a line when all are there, and what they received at the end."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

from bench.task import Task, argument
from tools.descriptors import allow_many

STEP = re.compile(rb'"type":"step:(start|complete)".*?"stepIndex":(\d+)')


class Received:
    """When the ends of steps came, to all subscribers."""

    def __init__(self) -> None:
        self.begun = 0.0
        """When the first frame of a step came."""
        self.arrived: dict[str, list[float]] = {}

    def note(self, line: bytes) -> None:
        """Take a line of a stream."""
        if (found := STEP.search(line)) is None:
            return
        now = time.monotonic()
        self.begun = self.begun or now
        if found[1] == b"complete":
            self.arrived.setdefault(found[2].decode(), []).append(now)


class Subscriber(asyncio.Protocol):
    """One connection. It reads the chunks of the answer as lines; frames are one line each."""

    def __init__(self, request: bytes, received: Received) -> None:
        self._request = request
        self._received = received
        self._rest = b""
        self.is_open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if not self.is_open.done():
            self.is_open.set_result(None)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._received.note(line)
            if b'"type":"run:complete"' in line and not self.is_over.done():
                self.is_over.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as asyncio calls it
        """See asyncio."""
        for future in (self.is_open, self.is_over):
            if not future.done():
                future.set_result(None)


async def subscribe(task: Task, port: int, path: str) -> Received:
    """Open all streams, then read them to their ends."""
    received = Received()
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    subscribers: list[Subscriber] = []
    for _ in range(task.concurrency):
        _, subscriber = await loop.create_connection(lambda: Subscriber(request, received), "127.0.0.1", port)
        subscribers.append(subscriber)
    await asyncio.gather(*(subscriber.is_open for subscriber in subscribers))
    print("ready", flush=True)
    await asyncio.gather(*(subscriber.is_over for subscriber in subscribers))
    return received


if __name__ == "__main__":
    allow_many()
    result = asyncio.run(subscribe(argument(), int(sys.argv[2]), sys.argv[3]))
    print(json.dumps({"begun": result.begun, "arrived": result.arrived}), flush=True)
