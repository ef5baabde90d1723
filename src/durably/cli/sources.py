"""Which source files there are below a folder, and whether one of them changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".py", ".pyi", ".sql", ".toml")
SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv", "build", "dist"}


class Sources:
    """The source files of a folder. Folders that begin with a dot, and those of packages, are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = dict(_stamps(folder))
        self._wakers: list[asyncio.Event] = []
        self.version = 0
        """Counts up with every change."""

    def look(self) -> str | None:
        """Return the name of a file that changed, came or went since the last look; None if there is none."""
        now = dict(_stamps(self._folder))
        before, self._seen = self._seen, now
        changed = {path for path, _ in now.items() ^ before.items()}
        return os.path.relpath(min(changed), self._folder) if changed else None

    def tell(self) -> None:
        """Tell those who wait that something changed."""
        self.version += 1
        self._wakers, wakers = [], self._wakers
        for waker in wakers:
            waker.set()

    async def changed_since(self, version: int) -> None:
        """Return once there is a newer version."""
        while self.version <= version:
            waker = asyncio.Event()
            self._wakers.append(waker)
            await waker.wait()


def _stamps(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each file with its time and size. A file that goes meanwhile is left out."""
    pending = [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in SKIPPED:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.name.endswith(SUFFIXES):
                        stat = entry.stat()
                        yield entry.path, (stat.st_mtime_ns, stat.st_size)
        except OSError:
            continue
