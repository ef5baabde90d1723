"""A disk that can be full: a small one in memory, or, where nothing may be mounted, a limit on the size of files.

Both are real: the writes of the database fail in the system, with ENOSPC or with EFBIG.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

BALLAST_BYTES = 256 * 1024
LIMIT_BYTES = 32 * 1024
"""Of a file, where a limit stands for the full disk: less than a database that is worth the name has."""


class Disk:
    """A folder on a small disk. `writers` says which processes write to it."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self.writers: Callable[[], Iterable[int]] = tuple
        folder.mkdir()
        self.is_small = _mount(folder, megabytes)
        self._ballast = folder / "ballast"

    @property
    def kind(self) -> str:
        """How it is made full, for people."""
        return "tmpfs, ENOSPC" if self.is_small else "file size limit, EFBIG"

    def fill(self) -> None:
        """Leave no room. Safe to repeat."""
        if not self.is_small:
            self._limit(str(LIMIT_BYTES))
            return
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            size = BALLAST_BYTES
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Make room again. Safe to repeat."""
        if self.is_small:
            self._ballast.unlink(missing_ok=True)
        else:
            self._limit("unlimited")

    def close(self) -> None:
        """Remove it. What still writes to it keeps it until its end."""
        if self.is_small:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)  # noqa: S607 - the system's own

    def _limit(self, size: str) -> None:
        """As the user of each process: it takes a right that root may lack to limit those of others."""
        for pid in self.writers():
            with suppress(FileNotFoundError):  # it has ended
                owner = Path(f"/proc/{pid}").stat()
                subprocess.run(
                    [_prlimit(), f"--pid={pid}", f"--fsize={size}:unlimited"],
                    check=False,
                    capture_output=True,
                    user=owner.st_uid if is_root() else None,
                    group=owner.st_gid if is_root() else None,
                    extra_groups=[] if is_root() else None,
                )


def _prlimit() -> str:
    found = shutil.which("prlimit")
    if found is None:
        raise RuntimeError("prlimit is missing: apt-get install util-linux")
    return found


def _mount(folder: Path, megabytes: int) -> bool:
    """Whether a small file system could be mounted there: that takes rights which containers often do not give."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "durably-chaos", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    found.append(int(folder.name))
    return found


def is_root() -> bool:
    """Whether permissions of files mean nothing to this process."""
    return os.geteuid() == 0
