"""`--health-port`: whether this process lives and works, over HTTP, for load balancers and orchestrators.

Answers come from a thread of their own, so a blocked event loop is seen, and is not what the answer waits for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from durably import SystemEnvironment, ValidationError


@dataclass(frozen=True, slots=True)
class Report:
    """How a process is."""

    is_alive: bool
    """False: it should be killed and started anew."""
    is_ready: bool
    """Whether it works: it has started, is not stopping, and the database answers."""
    details: dict[str, object] = field(default_factory=dict[str, object])


Ask = Callable[[], Report]


@contextmanager
def health_server(port: int | None, ask: Ask) -> Generator[int | None]:
    """Answer on this port (0: any that is free; None: on none) while the block runs. Gives the port.

    `GET /live` is 200 while the process should live, `GET /ready` and `GET /` while it works; 503 otherwise, each with
    a JSON object that says why. Raises ValidationError when the port cannot be had.
    """
    if port is None:
        yield None
        return
    try:
        server = _Server(port, ask)
    except OSError as error:
        raise ValidationError("--health-port", f"{port} cannot be had: {error.strerror}") from error
    SystemEnvironment().start_thread("durably-health", server.serve_forever)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, port: int, ask: Ask) -> None:
        super().__init__(("", port), _Handler)
        self.ask = ask

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    server_version = "durably"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        path = self.path.partition("?")[0].rstrip("/")
        if path not in {"", "/live", "/ready", "/health"}:
            self._answer(404, {"error": "not found: there are /live and /ready"})
            return
        server = self.server
        if not isinstance(server, _Server):
            return
        report = server.ask()
        is_well = report.is_alive if path == "/live" else report.is_ready and report.is_alive
        self._answer(200 if is_well else 503, {"status": "ok" if is_well else "unavailable"} | report.details)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self.do_GET()

    def _answer(self, status: int, body: dict[str, object]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class has it
        """Probes come every few seconds: they are not worth a line."""
