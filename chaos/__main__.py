"""`python -m chaos`: what it is told, and how it ends."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chaos.arena import Rules, Verdict
from chaos.audit import Dialect
from chaos.report import Report
from chaos.run import grounds, play
from chaos.scenarios import SCENARIOS, Scenario

INTERRUPTED = 130


def main() -> int:
    """Play the scenarios. Returns the exit code: 0 when nothing was found."""
    arguments = _parser().parse_args()
    logging.getLogger("durably").addHandler(logging.NullHandler())  # that the database is away is no news here
    chosen: list[tuple[Scenario, Dialect]] = [
        (scenario, dialect)
        for scenario in SCENARIOS
        for dialect in scenario.databases
        if (not arguments.scenario or scenario.name in arguments.scenario) and arguments.db in {None, dialect}
    ]
    if not chosen:
        print("chaos: none of these scenarios is for that database", file=sys.stderr)
        return 2
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report(Console(highlight=False))
    began = time.monotonic()
    try:
        verdicts = asyncio.run(_play(chosen, arguments.seconds, report, arguments.keep))
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was started is stopped", file=sys.stderr)
        return INTERRUPTED
    report.table(verdicts, time.monotonic() - began)
    return 1 if any(verdict.findings for verdict in verdicts) else 0


def _parser() -> argparse.ArgumentParser:
    names = sorted({scenario.name for scenario in SCENARIOS})
    parser = argparse.ArgumentParser(prog="chaos", description="Real faults under load, and a checker afterwards.")
    parser.add_argument("--scenario", choices=names, action="append", metavar="NAME", help=f"only: {', '.join(names)}")
    parser.add_argument("--db", choices=("sqlite", "postgres"), help="only on this database")
    parser.add_argument("--seconds", type=_seconds, help="how long each scenario goes on (default: its own time)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write down what happened where something is found")
    return parser


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")


async def _play(
    chosen: Sequence[tuple[Scenario, Dialect]], seconds: float | None, report: Report, keep: Path | None
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    with grounds() as where:
        for scenario, dialect in chosen:
            report.begin(scenario, dialect)
            rules = Rules(seconds=scenario.seconds if seconds is None else seconds)
            verdicts.append(await play(scenario, dialect, where, rules, keep=keep))
            report.end(verdicts[-1])
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
