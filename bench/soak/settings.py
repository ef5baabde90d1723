"""What the soak is told, and what its worker processes are told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.settings import DATABASES, ROOT

LEAST_MINUTES = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """A worker process's first argument, as JSON."""

    url: str
    concurrency: int = 10
    lease_seconds: float = 3.0
    retain_seconds: float = 45.0
    tell_seconds: float = 1.0
    """How often it says what its claims took."""

    def to_json(self) -> str:
        """Return it as the argument of a process."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """The command line, checked."""

    databases: tuple[str, ...]
    minutes: float
    every: float
    """Seconds between two lines."""
    rate: float
    """Triggers a second."""
    workers: int
    fault_every: float
    """Seconds between two faults."""
    as_json: bool
    out: Path | None
    """The folder of the page, if one is to be written."""
    seed: int

    @property
    def warm_up_minutes(self) -> float:
        """How long growth is not judged: until caches are full and the first runs are purged."""
        return min(4.0, self.minutes * 0.3)


def parse(arguments: Sequence[str] | None = None) -> Soak:
    """Read the command line; ends the process with a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="make soak", description="Keep a mixed load with faults, and watch it.")
    parser.add_argument("--minutes", type=float, default=15, help="how long the load is kept (15)")
    parser.add_argument("--db", choices=DATABASES, help="one database; both, at the same time, if it is not given")
    parser.add_argument("--every", type=float, default=10, help="seconds between two lines (10)")
    parser.add_argument("--rate", type=float, default=10, help="triggers a second (10)")
    parser.add_argument("--workers", type=int, default=3, help="worker processes, of which all but one are killed (3)")
    parser.add_argument("--fault-every", type=float, default=10, help="seconds between two faults (10)")
    parser.add_argument("--json", action="store_true", help="a line is a JSON object")
    parser.add_argument("--out", type=Path, help="write a page with plots into this folder, as docs/")
    parser.add_argument("--seed", type=int, default=1, help="of the load and the faults (1)")
    given = parser.parse_args(arguments)
    if given.minutes < LEAST_MINUTES:
        parser.error(f"argument --minutes: at least {LEAST_MINUTES}")
    for name in ("every", "rate", "fault_every"):
        if getattr(given, name) <= 0:
            parser.error(f"argument --{name.replace('_', '-')}: must be over 0")
    if given.workers < 1:
        parser.error("argument --workers: at least 1")
    return Soak(
        databases=(given.db,) if given.db else DATABASES,
        minutes=given.minutes,
        every=given.every,
        rate=given.rate,
        workers=given.workers,
        fault_every=given.fault_every,
        as_json=given.json,
        out=None if given.out is None else ROOT / given.out,
        seed=given.seed,
    )
