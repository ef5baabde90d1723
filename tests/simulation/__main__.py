"""`make simulate`: many seeds on all cores, one seed with its trace, or the planted bugs."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count

from tests.simulation.planted import BUGS
from tests.simulation.verdict import Verdict, judge, judge_many

_CHUNK = 20
_SHOWN = 10
"""Failing seeds that are described."""
_EVERY = 10.0
"""Seconds between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say. Returns the exit code: 1 when a seed failed, or a planted bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one and print its trace")
    parser.add_argument(
        "--planted", action="store_true", help="for each planted bug, find the first seed that finds it"
    )
    parser.add_argument(
        "--cores", type=int, default=cpu_count(), help="how many processes play; all cores if not given"
    )
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return show(options.seed)
    return find_planted(options.seeds) if options.planted else play(options.first, options.seeds, options.cores)


def show(seed: int) -> int:
    """Play one seed and print everything."""
    verdict = judge(seed)
    print(*verdict.trace, sep="\n")
    print(f"\nseed {seed}")
    print(f"faults:  {_counted(verdict.faults)}")
    print(f"checked: {_counted(verdict.checked)}")
    print(f"trace:   {verdict.digest}")
    print(*([f"FOUND   {finding}" for finding in verdict.findings] or ["nothing is wrong"]), sep="\n")
    return 1 if verdict.findings else 0


def play(first: int, count: int, cores: int) -> int:
    """Play many seeds on so many cores."""
    began = told = time.perf_counter()
    faults: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    failed: list[Verdict] = []
    for number, verdict in enumerate(_verdicts(first, count, cores), 1):
        faults.update(verdict.faults)
        checked.update(verdict.checked)
        if verdict.findings:
            failed.append(verdict)
            if len(failed) <= _SHOWN:
                print(f"seed {verdict.seed} fails (make simulate SEED={verdict.seed}):")
                print(*(f"    {finding}" for finding in verdict.findings[:5]), sep="\n", flush=True)
        now = time.perf_counter()
        if now - told >= _EVERY:
            told = now
            print(f"{number} of {count} seeds, {number / (now - began):.1f} a second, {len(failed)} failed", flush=True)
    passed = time.perf_counter() - began
    print(f"{count} seeds in {passed:.1f} s: {count / passed:.1f} a second")
    print(f"faults:  {sum(faults.values()):,}: {_counted(faults)}")
    print(f"checked: {_counted(checked)}")
    if failed:
        print(f"failed:  {len(failed)}: {' '.join(str(verdict.seed) for verdict in failed)}")
        return 1
    print("nothing was found")
    return 0


def find_planted(seeds: int) -> int:
    """Print for each planted bug the first seed that finds it."""
    missed = 0
    for bug in BUGS:
        with bug.plant():
            verdict = next((found for found in map(judge, range(seeds)) if bug.is_found(found.findings)), None)
        missed += verdict is None
        found = "not found" if verdict is None else f"{verdict.seed}: {verdict.findings[0]}"
        print(f"{bug.name} (breaks {bug.breaks}, noted: {bug.seed})\n    {found}", flush=True)
    return 1 if missed else 0


def _verdicts(first: int, count: int, cores: int) -> Iterator[Verdict]:
    """The verdicts in order, without traces: they are long."""
    chunks = [(start, min(_CHUNK, first + count - start)) for start in range(first, first + count, _CHUNK)]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        for verdicts in pool.map(judge_many, *zip(*chunks, strict=True)):
            yield from verdicts


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(numbers.items())) or "none"


if __name__ == "__main__":
    sys.exit(main())
