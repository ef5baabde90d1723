"""What class of machine this is: cores and memory, and no names or places."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> str:
    """Return one line: cores, memory, kind of processor and system, Python."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cores()} cores, {memory_gb()} GB of memory, {platform.machine()}, {platform.system()}, {python}"


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def memory_gb() -> int:
    """Memory in whole gigabytes; 0 where the system does not say."""
    if not hasattr(os, "sysconf"):
        return 0
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3)


def load() -> float:
    """How many processes want a processor, averaged over a minute; 0 where the system does not say."""
    average = Path("/proc/loadavg")
    return float(average.read_text(encoding="ascii").split()[0]) if average.exists() else 0.0
