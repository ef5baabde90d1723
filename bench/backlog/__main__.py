"""`python -m bench.backlog`: fill, measure, write the page. `--help` says what can be chosen."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import machine
from bench.backlog import report
from bench.backlog.measure import WARM_UP, measure, opened, prepare, settle
from bench.backlog.report import Measured
from bench.backlog.scenarios import WAITING, Dialect, scenarios
from bench.places import Places, open_places
from bench.settings import ROOT

DIALECTS: tuple[Dialect, ...] = ("postgres", "sqlite")
MOST_TURNS = WAITING // 2 - 2 * WARM_UP


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for. Ends the process, naming the argument, for what cannot be."""
    parser = argparse.ArgumentParser(prog="make backlog", description="Measure claims in front of long backlogs.")
    parser.add_argument("--db", choices=DIALECTS, help="one database; both if it is not given")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small: a hundredth, to see it work")
    parser.add_argument("--turns", type=int, default=200, help="turns that count, in each backlog (200)")
    parser.add_argument("--out", type=Path, help="folder of the page (docs/; dist/bench/ for a small one)")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.turns <= MOST_TURNS:
        parser.error(f"argument --turns: must be 1 to {MOST_TURNS}, for each takes a run from behind the busy key")
    if chosen.out is None:
        chosen.out = ROOT / ("docs" if chosen.size == "full" else "dist/bench")
    return chosen


async def measured(dialect: Dialect, places: Places, *, small: bool, turns: int) -> Measured:
    """All backlogs on one database, without statistics and with them."""
    async with AsyncExitStack() as stack:
        folders = stack.enter_context(ExitStack())
        subjects = [
            await stack.enter_async_context(opened(each, dialect, folders.enter_context(places.fresh(dialect))))
            for each in scenarios(small=small)
        ]
        for subject in subjects:
            begin = time.monotonic()
            await prepare(subject)
            print(f"{dialect}: {subject.scenario.title} [{time.monotonic() - begin:.1f} s]", flush=True)
        plain = await measure(subjects, turns)
        for subject in subjects:
            await subject.analyze()
        analyzed = await measure(subjects, turns)
    return Measured(
        database=dialect,
        run=datetime.now(UTC).isoformat(timespec="seconds"),
        size="small" if small else "full",
        turns=turns,
        about={"database": places.version(dialect), "machine": machine.describe(), "durably": version("durably")},
        titles={each.key: each.title for each in scenarios(small=small)},
        plain=plain,
        analyzed=analyzed,
    )


def main(chosen: argparse.Namespace) -> int:
    """Measure what was chosen. What an earlier run measured on the other database is kept."""
    dialects: tuple[Dialect, ...] = (chosen.db,) if chosen.db else DIALECTS
    known = report.load(chosen.out)
    with open_places(dialects) as places:
        settle(places)
        for dialect in dialects:
            done = asyncio.run(measured(dialect, places, small=chosen.size == "small", turns=chosen.turns))
            known[dialect] = done
            report.save(chosen.out, known)
            print(f"\n{report.terminal(done)}\n", flush=True)
    print(f"written: {report.PAGE} and its plots")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse()))
