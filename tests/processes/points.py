"""What jobs call in a worker process to tell the test how far they are, and to wait until it lets them go on.

Each call is answered by `tests/support/stage.py` in the test's process, before the code goes on: so the order in which
the test has noted the visits is the order in which things happened, over all processes and without any clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import uuid

STAGE = "DURABLY_TEST_STAGE"
"""The environment variable with the address of the stage, as host:port."""
SETTINGS = "DURABLY_TEST_SETTINGS"
"""The environment variable with what `tests/processes/app.py` makes its Durably of, as a JSON object."""
GO, DIE = "go", "die"


def reach(point: str, run: str, **facts: str) -> str:
    """Tell the test, and block until it answers. Returns its word; `die` kills this process like a power cut."""
    with socket.create_connection(_address()) as connection, connection.makefile("rb") as answer:
        connection.sendall(_line(point, run, facts))
        return _obey(answer.readline())


async def reach_async(point: str, run: str, **facts: str) -> str:
    """The same without blocking the event loop."""
    reader, writer = await asyncio.open_connection(*_address())
    try:
        writer.write(_line(point, run, facts))
        return _obey(await reader.readline())
    finally:
        writer.close()


def visit(point: str, run: str) -> str:
    """The body of a step: returns a value that no other execution of it returns."""
    made = uuid.uuid4().hex
    reach(point, run, made=made)
    return made


async def visit_async(point: str, run: str) -> str:
    """The body of a step that can be interrupted; it tells the test by what."""
    made = uuid.uuid4().hex
    try:
        await reach_async(point, run, made=made)
    except BaseException as error:
        reach("step interrupted", run, by=type(error).__name__)
        raise
    return made


def _address() -> tuple[str, int]:
    host, _, port = os.environ[STAGE].rpartition(":")
    return host, int(port)


def _line(point: str, run: str, facts: dict[str, str]) -> bytes:
    return json.dumps({"point": point, "run": run, "pid": os.getpid(), "facts": facts}).encode() + b"\n"


def _obey(answer: bytes) -> str:
    word = answer.decode().strip()
    if not word:
        raise RuntimeError("the test is over")
    if word == DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    return word
