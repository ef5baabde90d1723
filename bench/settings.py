"""What `make bench` is told: which workloads, databases and sizes, how many rounds, with or without peers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKLOADS = ("w1", "w2", "w3", "w4", "w5", "w6")
DATABASES = ("postgres", "sqlite")
CONCURRENCIES = (1, 10, 100)
SUBSCRIBERS = (1, 100, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much work a measurement is."""

    jobs: int
    """Jobs of W1."""
    runs: int
    """Runs of W2, of five steps each."""
    triggers: int
    """Triggers of W3."""
    events: int
    """Steps of W5 that follow one another at once, and as many again with pauses."""
    seconds: float
    """When a drain is cut off."""
    trigger_seconds: float
    """How long W4 takes."""
    idle_seconds: float
    """How long W6 looks at an idle worker."""


FULL = Sizes(jobs=2000, runs=500, triggers=120, events=200, seconds=8, trigger_seconds=6, idle_seconds=10)
SMALL = Sizes(jobs=200, runs=50, triggers=20, events=30, seconds=3, trigger_seconds=1.5, idle_seconds=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command line, checked."""

    workloads: tuple[str, ...]
    databases: tuple[str, ...]
    rounds: int
    sizes: Sizes
    size: str
    peers: bool
    out: Path
    """The folder for `benchmarks.md`, its data and its plots."""


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; ends the process with a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"workloads, of {' '.join(WORKLOADS)}; all if it is not given")
    parser.add_argument("--db", default="", help=f"databases, of {' '.join(DATABASES)}; both if it is not given")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each (of w3, three times as many); their median counts"
    )
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small only shows that all works")
    parser.add_argument("--peers", action="store_true", help="also measure the peers that are installed")
    parser.add_argument("--out", type=Path, help="where the report goes: docs/, or dist/bench/ when small")
    given = parser.parse_args(arguments)
    for name, chosen, known in (("--only", given.only, WORKLOADS), ("--db", given.db, DATABASES)):
        if wrong := set(_words(chosen)) - set(known):
            parser.error(f"{name}: {' '.join(sorted(wrong))}: not one of {' '.join(known)}")
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    default = ROOT / "docs" if given.size == "full" else ROOT / "dist" / "bench"
    return Settings(
        workloads=tuple(name for name in WORKLOADS if name in _words(given.only)) or WORKLOADS,
        databases=tuple(name for name in DATABASES if name in _words(given.db)) or DATABASES,
        rounds=given.rounds,
        sizes=FULL if given.size == "full" else SMALL,
        size=given.size,
        peers=given.peers,
        out=given.out or default,
    )


def _words(text: str) -> list[str]:
    return text.lower().replace(",", " ").split()
