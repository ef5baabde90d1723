"""PgBouncer in transaction mode, before a server of ours: Debian's package `pgbouncer`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tools.postgres_process import free_port, unprivileged_user

PATIENCE = 30.0
POOL = 4
"""Connections to the server, for all workers together: fewer than those have connections to the pooler."""


class PgBouncer:
    """A pooler on a port of its own, gone at the end of the block."""

    def __init__(self, url: str) -> None:
        found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found is None:
            raise RuntimeError("PgBouncer is missing: apt-get install pgbouncer")
        self._binary = found
        self._target = urlsplit(url)
        self._port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="durably-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = urlunsplit(self._target._replace(netloc=f"{self._target.username}@127.0.0.1:{self._port}"))

    def __enter__(self) -> Self:
        target = self._target
        (self._folder / "config.ini").write_text(
            f"[databases]\n* = host={target.hostname} port={target.port} user={target.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {POOL}\nmax_client_conn = 500\nserver_login_retry = 1\n"
        )
        self._folder.chmod(0o755)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it. Returns when it accepts connections."""
        user = unprivileged_user() if os.geteuid() == 0 else None  # it refuses to run as root
        self._process = subprocess.Popen(
            [self._binary, str(self._folder / "config.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=user and user.pw_uid,
            group=user and user.pw_gid,
            extra_groups=user and [],
        )
        deadline = time.monotonic() + PATIENCE
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start (exit code {self._process.returncode})")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does. Safe to repeat."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _accepts(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0
