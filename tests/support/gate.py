"""A gate that jobs in other processes wait at: a FIFO, from which something can be read once the gate is open.

Nobody reads it, so that it stays open for all who come. Programs of a test get a copy of this file beside them.
"""

from __future__ import annotations

import asyncio
import os
import select
from pathlib import Path


class Gate:
    """The side of the test. It is closed at first."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR)

    def open(self) -> None:
        """Let all pass who wait, and all who come."""
        os.write(self._descriptor, b"o")

    def close(self) -> None:
        """Let go of the FIFO, when nobody waits any more."""
        os.close(self._descriptor)


async def passed(path: str) -> None:
    """Return once the gate is open."""
    loop, is_open = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    loop.add_reader(descriptor, is_open.set)
    try:
        await is_open.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def pass_blocking(path: str) -> None:
    """Block until the gate is open."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)
