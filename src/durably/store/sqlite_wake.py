"""Wake-ups between the processes that use one SQLite file.

Each listener owns a Unix datagram socket in a directory beside the file; a commit sends one byte to each. Where that is
impossible (no such sockets, a path too long for them), the listener looks at `PRAGMA data_version`: every 5 ms after a
change, slowing down to 100 ms. Either may be lost; the workers' polling stays behind it.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from durably.environment import Environment, new_reentrant_lock
from durably.store.operation import Wake
from durably.store.sqlite_forks import before_forks

_ALL = Wake.WORK | Wake.EVENTS | Wake.CANCEL
_LONGEST_PATH = 100
_QUICK, _SLOW = 0.005, 0.1
_PAUSE = 0.002
"""At most one datagram to each listener in this many seconds."""


class FileWaker:
    """Sends and receives wake-ups for one file, from one event loop."""

    def __init__(self, file: Path, environment: Environment) -> None:
        self._file = file
        self._folder = file.resolve().with_name(f"{file.name}-wake")
        self._name = environment.new_id().replace("-", "")[8:24]
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking: asyncio.Task[None] | None = None
        self._due = Wake.NOBODY
        self._timer: asyncio.TimerHandle | None = None

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """Call back when another process committed."""
        self._loop = asyncio.get_running_loop()
        if not self._bind(callback):
            self._looking = self._loop.create_task(self._look(callback))

    def notify(self, wake: Wake) -> None:
        """Send soon; what comes within the pause goes together."""
        self._due |= wake
        if self._timer is None and self._due:
            self._loop = asyncio.get_running_loop()
            self._send()
            self._timer = self._loop.call_later(_PAUSE, self._pause_over)

    def close(self) -> None:
        """Stop, and remove the socket's file."""
        if self._timer is not None:
            self._timer.cancel()
            self._send()
        if self._looking is not None:
            self._looking.cancel()
        if self._receiver is not None and self._loop is not None:
            self._loop.remove_reader(self._receiver.fileno())
            self._receiver.close()
            self._receiver = None
            (self._folder / self._name).unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _pause_over(self) -> None:
        self._timer = None
        if self._due:
            self.notify(Wake.NOBODY)

    def _bind(self, callback: Callable[[Wake], None]) -> bool:
        path = self._folder / self._name
        if not hasattr(socket, "AF_UNIX") or len(str(path).encode()) > _LONGEST_PATH:
            return False
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.settimeout(0)
        try:
            self._folder.mkdir(exist_ok=True)
            receiver.bind(str(path))
        except OSError:
            receiver.close()
            return False
        self._receiver = receiver
        asyncio.get_running_loop().add_reader(receiver.fileno(), self._receive, receiver, callback)
        return True

    def _receive(self, receiver: socket.socket, callback: Callable[[Wake], None]) -> None:
        wake = Wake.NOBODY
        with suppress(BlockingIOError):
            while data := receiver.recv(1):
                wake |= Wake(data[0] & _ALL.value)
        if wake:
            callback(wake)

    def _send(self) -> None:
        wake, self._due = self._due, Wake.NOBODY
        if not wake or not self._folder.is_dir():
            return
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sender.settimeout(0)
        for peer in self._folder.iterdir():
            if peer.name != self._name:
                self._send_to(peer, wake, self._sender)

    def _send_to(self, peer: Path, wake: Wake, sender: socket.socket) -> None:
        try:
            sender.sendto(bytes([wake.value]), str(peer))
        except ConnectionRefusedError:
            peer.unlink(missing_ok=True)  # its process died
        except OSError:
            return  # gone, or its queue is full: then it is awake anyway

    async def _look(self, callback: Callable[[Wake], None]) -> None:
        """Where sockets do not work: compare the file's version."""
        version = _Version(self._file)
        wait = _QUICK
        version.has_changed()
        try:
            while True:
                await asyncio.sleep(wait)
                changed = version.has_changed()
                wait = _QUICK if changed else min(wait * 1.5, _SLOW)
                if changed:
                    callback(_ALL)
        finally:
            version.let_go()


class _Version:
    """What a connection sees of the file: a number that changes with every commit of another one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._raw: sqlite3.Connection | None = None
        self._seen: int | None = None
        self.in_use = new_reentrant_lock()
        before_forks(self)

    def has_changed(self) -> bool:
        """Whether there may have been a commit since the last call. Yes for the first one, and after a fork."""
        with self.in_use:
            seen, self._seen = self._seen, 0
            with suppress(sqlite3.OperationalError):
                self._raw = self._raw or self._connect()
                self._seen = int(self._raw.execute("PRAGMA data_version").fetchone()[0])
            return seen != self._seen

    def let_go(self) -> None:
        """See `Forkable`."""
        with self.in_use:
            raw, self._raw, self._seen = self._raw, None, None
            if raw is not None:
                raw.close()

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._file.resolve().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
