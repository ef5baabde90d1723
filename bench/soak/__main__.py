"""`python -m bench.soak`: keep the load, print lines, say whether anything grows. `--help` says what can be chosen."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from bench.settings import ROOT
from bench.soak import report
from bench.soak.probes import Values
from bench.soak.run import soak
from bench.soak.settings import Soak, parse
from durably.cli.loops import Loop, run


def main(arguments: Sequence[str]) -> int:
    """Soak one database here, several in processes of their own. Returns 0 when all is flat and nothing is wrong."""
    settings = parse(arguments)
    database, *others = settings.databases
    return run(_several(settings, arguments) if others else _one(settings, database), Loop.AUTO)


async def _several(settings: Soak, arguments: Sequence[str]) -> int:
    """All at the same time."""
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.soak", *arguments, "--db", database, cwd=ROOT)
        for database in settings.databases
    ]
    return max(await asyncio.gather(*(process.wait() for process in processes)))


async def _one(settings: Soak, database: str) -> int:
    def tell(minutes: float, values: Values) -> None:
        print(report.line(database, minutes, values, as_json=settings.as_json), flush=True)

    outcome = await soak(settings, database, tell)
    print(report.verdict(outcome, as_json=settings.as_json), flush=True)
    if settings.out is not None:
        report.save(settings.out, outcome)
    return 0 if report.is_good(outcome) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
