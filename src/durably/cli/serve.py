"""`durably serve`: a server of its own over one Durably, with or without a worker in the same process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durably import Durably, Job, UsageError, ValidationError, Worker
from durably.cli.access import WithoutSecrets
from durably.cli.exits import told
from durably.cli.loops import Loop, run
from durably.cli.signals import signals
from durably.cli.targets import find_attribute, find_durably, find_jobs, make_current_directory_importable
from durably.cli.worker import MAX_SECONDS, start

if TYPE_CHECKING:
    from durably.http.app import DurablyApp

GRACE_SECONDS = 10.0
SILENT_MS = 30_000
"""How long a client may leave what was sent to it unread."""

_logger = logging.getLogger("durably.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and how to serve."""

    host: str
    port: int
    grace: float


def serve(
    durably: Annotated[str, typer.Argument(metavar="DURABLY", help="The Durably object, as module:attribute.")],
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOBS...]", help="Modules with jobs that may be triggered, or module:attribute."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    auth: Annotated[str | None, typer.Option(help="An Auth object, as module:attribute.")] = None,
    *,
    worker: Annotated[bool, typer.Option("--worker", help="Also work on these jobs, in this process.")] = False,
    concurrency: Annotated[int | None, typer.Option(min=1, help="How many runs the worker executes at once.")] = None,
    grace: Annotated[
        float, typer.Option(min=0, max=MAX_SECONDS, help="Seconds that answers and runs may take after a signal.")
    ] = 10.0,
    loop: Annotated[Loop, typer.Option(help="The event loop; auto is uvloop where it is installed.")] = Loop.AUTO,
) -> None:
    """Serve the HTTP routes and event streams until SIGTERM or SIGINT; a second signal interrupts what still runs."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.access").addFilter(WithoutSecrets())
    make_current_directory_importable()
    with told():
        target, known = find_durably(durably), find_jobs(jobs or [])
        app = _make_app(target, known, auth, host)
        working = _make_worker(target, known, concurrency=concurrency, grace=grace) if worker else None
        run(_run(app, target, working, Place(host=host, port=port, grace=grace)), loop)


def _make_app(durably: Durably, jobs: Sequence[Job[Any, Any] | str], auth: str | None, host: str) -> DurablyApp:
    try:
        from durably.http import Auth, create_app  # noqa: PLC0415 # the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"starlette", "anyio"}:
            raise
        raise UsageError(f"{error.name} is not installed: pip install 'durably[http]'") from error
    found: Any = None if auth is None else find_attribute(auth, field="--auth")
    if found is not None and Auth not in type(found).__mro__:
        raise ValidationError("--auth", f"{auth} is no Auth object but of type {type(found).__name__}")
    if found is None and host not in {"127.0.0.1", "::1", "localhost"}:
        _logger.warning("everybody who reaches %s may do everything: give --auth, or stay on 127.0.0.1", host)
    return create_app(durably, jobs=jobs, auth=found)


def _make_worker(
    durably: Durably, jobs: Sequence[Job[Any, Any] | str], *, concurrency: int | None, grace: float
) -> Worker:
    if not jobs:
        raise ValidationError("JOBS", "a worker needs jobs: name their modules, or leave out --worker")
    return durably.worker(jobs, max_concurrent_runs=concurrency, grace=timedelta(seconds=grace))


async def _run(app: DurablyApp, durably: Durably, worker: Worker | None, place: Place) -> None:
    """Serve and work until a signal comes; then end the streams, let answers and runs end, and disconnect."""
    stop, interrupt = asyncio.Event(), asyncio.Event()
    listening = _listen(place)
    with signals(stop, interrupt):
        serving = asyncio.create_task(_serve(app, listening, place, stop, interrupt), name="durably-server")
        working = asyncio.create_task(_work(worker, stop, interrupt), name="durably-serve-worker")
        try:
            await asyncio.wait({serving, working}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            stop.set()
            await asyncio.wait({serving, working})
            await durably.close()
    serving.result()
    working.result()


async def _serve(
    app: DurablyApp, listening: socket.socket, place: Place, stop: asyncio.Event, interrupt: asyncio.Event
) -> None:
    from uvicorn import Config  # noqa: PLC0415 # the extra may be missing

    from durably.cli.server import Server  # noqa: PLC0415 # as above

    grace = max(1, round(place.grace))
    config = Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=grace, server_header=False)
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="durably-uvicorn")
    stopping = asyncio.create_task(stop.wait(), name="durably-stop")
    address, port = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"serving http://{shown}:{port} (process {os.getpid()})", file=sys.stderr, flush=True)
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    app.close_streams()
    server.should_exit = True
    interrupting = asyncio.create_task(interrupt.wait(), name="durably-interrupt")
    await asyncio.wait({serving, interrupting}, return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = interrupt.is_set()
    for waiting in (stopping, interrupting):
        waiting.cancel()
    await serving


async def _work(worker: Worker | None, stop: asyncio.Event, interrupt: asyncio.Event) -> None:
    if worker is None:
        return
    stopping = asyncio.create_task(stop.wait(), name="durably-stop")
    starting = asyncio.create_task(start(worker), name="durably-start")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    starting.result()
    print(f"worker ready: {', '.join(worker.jobs)} (process {os.getpid()})", file=sys.stderr, flush=True)
    ending = asyncio.create_task(worker.ended(), name="durably-worker-end")
    await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (ending, stopping):
        waiting.cancel()
    halting = asyncio.create_task(worker.stop(), name="durably-worker-stop")
    interrupting = asyncio.create_task(interrupt.wait(), name="durably-interrupt")
    await asyncio.wait({halting, interrupting}, return_when=asyncio.FIRST_COMPLETED)
    interrupting.cancel()
    if not halting.done():
        halting.cancel()  # which cuts the grace short
        await asyncio.wait({halting})
        return
    halting.result()


def _listen(place: Place) -> socket.socket:
    """Bind the port. A client that reads nothing for long is given up by the system, with what was sent to it."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        listening = socket.create_server((place.host, place.port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(f"cannot listen on {place.host} port {place.port}: {error.strerror or error}") from error
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        listening.setsockopt(socket.IPPROTO_TCP, option, SILENT_MS)
    return listening
