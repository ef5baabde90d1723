"""`python -m bench`: measure, keep the numbers, write the report. `--help` says what can be chosen."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from bench import machine, report, results
from bench.places import open_places
from bench.rounds import measure
from bench.settings import Settings, parse

BUSY_LOAD = 0.5


def main(settings: Settings) -> int:
    """Measure what was chosen. What was measured is kept even when a later workload is interrupted."""
    run = datetime.now(UTC)
    if (load := machine.load()) > BUSY_LOAD:
        print(f"note: other processes keep this machine busy (load {load}): the numbers will be too low")
    known = results.load(settings.out)
    with open_places(settings.databases) as places:
        for workload in settings.workloads:
            for database in settings.databases:
                section = measure(workload, database, settings, places, run)
                known[results.key_of(workload, database)] = section
                results.save(settings.out, known)
                report.write(settings.out, known)
    print()
    print(report.verdicts(known))
    print(f"\nwritten: {settings.out}/benchmarks.md, after {(datetime.now(UTC) - run).total_seconds():.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse()))
