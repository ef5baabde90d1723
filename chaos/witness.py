"""What user code really did: told by worker processes, noted by the runner in the order in which it happened.

A deed is one datagram on a Unix socket. It is in the runner's queue when the call returns, so neither a SIGKILL a
moment later nor a full disk loses it, and deeds of several processes keep their order without any clock.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WITNESS = "DURABLY_CHAOS_WITNESS"
"""The environment variable with the path of the witness's socket."""
BUFFER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that user code did."""

    at: float
    """Seconds since 1970."""
    pid: int
    kind: str
    """`start`, `done`: of a step's function; `got`: `step.run` returned; `raise`, `end`: of the job's function."""
    run: str
    generation: int
    step: str
    value: str
    """What the step's function made, or `step.run` returned; what the job returned, as JSON, or the type raised."""


def tell(kind: str, run: str, generation: int, step: str = "", value: str = "") -> None:
    """Tell the witness. Returns when it cannot be lost any more."""
    deed = [time.time(), os.getpid(), kind, run, generation, step, value]
    _socket().send(json.dumps(deed).encode())


@functools.cache
def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.connect(os.environ[WITNESS])
    return made


class Witness(asyncio.DatagramProtocol):
    """Notes what it is told, and wakes whoever waits for something."""

    def __init__(self, path: Path, notify: Callable[[], None]) -> None:
        self.path = path
        self.deeds: list[Deed] = []
        self._notify = notify
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> None:
        """Begin to listen."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listening.bind(str(self.path))
        listening.setblocking(False)  # noqa: FBT003 - as it is called
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=listening)

    def close(self) -> None:
        """Listen no more."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Note one deed."""
        del addr
        self.deeds.append(Deed(*json.loads(data)))
        self._notify()
