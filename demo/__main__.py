"""`python -m demo`: what it is told, and how it ends."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from demo.app import LEASE
from demo.databases import empty_database, open_tables, workplace
from demo.screen import Screen
from demo.source import BadCsv, Plan, make_plan
from demo.story import Stalled, Story
from demo.workers import WorkerDied, workers_on
from durably import Durably, DurablyError

DATABASES = {"sqlite": "SQLite, a file of its own", "postgres": "PostgreSQL, a database of its own"}
INTERRUPTED = 130


def main() -> int:
    """Run the demo. Returns the exit code: 0 when everything that must hold does."""
    arguments = _parser().parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        path = find_airports() if arguments.csv is None else arguments.csv
        plan = make_plan(str(path.absolute()))
        proved = _run(plan, arguments.db, keep=arguments.keep)
    except KeyboardInterrupt:
        print("\ninterrupted; the workers are stopped", file=sys.stderr)
        return INTERRUPTED
    except (BadCsv, Stalled, WorkerDied, DurablyError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if not proved:
        print("demo: something that must hold does not: see FAILED above", file=sys.stderr)
        return 1
    print(f"\nAll of it holds. {time.monotonic() - began:.1f} s.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="A CSV import whose worker is killed on the way.")
    parser.add_argument("--db", choices=sorted(DATABASES), default="sqlite", help="where it works (default: sqlite)")
    parser.add_argument("--csv", type=Path, help="a CSV file in UTF-8 (default: 28,298 airports)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the database file and the logs")
    return parser


def find_airports() -> Path:
    """Return the file of the package `airportsdata`. Raises BadCsv."""
    spec = importlib.util.find_spec("airportsdata")
    if spec is None or spec.origin is None:
        raise BadCsv("the package airportsdata is not installed: use `make demo`, or name a file with --csv")
    return Path(spec.origin).with_name("airports.csv")


def _run(plan: Plan, kind: str, *, keep: bool) -> bool:
    screen = Screen(Console(highlight=False))
    screen.title("An import that survives the death of its worker")
    screen.say("data", f"{Path(plan.path).name}: {plan.rows:,} rows, {len(plan.columns)} columns")
    screen.say("database", DATABASES[kind])
    with workplace(keep=keep) as folder, empty_database(kind, folder) as url:
        proved = asyncio.run(_tell(plan, url, folder, screen))
        if keep:
            screen.say("kept", str(folder))
    return proved


async def _tell(plan: Plan, url: str, folder: Path, screen: Screen) -> bool:
    async with Durably(url, lease=LEASE) as durably, workers_on(url, folder) as workers:
        return await Story(durably, open_tables(url), plan, screen).tell(workers)


if __name__ == "__main__":
    sys.exit(main())
