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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say. Returns the exit code: 1 when a seed failed, or a planted bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one and print its trace")
    parser.add_argument(
        "--planted", action="store_true", help="for each planted bug, find the first seed that finds it"
    )
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return show(options.seed)
    return find_planted(options.seeds) if options.planted else play(options.first, options.seeds)


def show(seed: int) -> int:
    """Play one seed and print everything."""
    verdict = judge(seed)
    print(*verdict.trace, sep="\n")
    print(f"\nseed {seed}: {verdict.transactions} transactions in {verdict.seconds:.1f} s of virtual time")
    print(f"faults: {_counted(verdict.faults)}")
    print(f"trace:  {verdict.digest}")
    print(*([f"FOUND   {finding}" for finding in verdict.findings] or ["nothing is wrong"]), sep="\n")
    return 1 if verdict.findings else 0


def play(first: int, count: int) -> int:
    """Play many seeds on all cores."""
    began = time.perf_counter()
    faults: Counter[str] = Counter()
    failed: list[Verdict] = []
    transactions, seconds = 0, 0.0
    for number, verdict in enumerate(_verdicts(first, count), 1):
        faults.update(verdict.faults)
        transactions += verdict.transactions
        seconds += verdict.seconds
        if verdict.findings:
            failed.append(verdict)
            if len(failed) <= _SHOWN:
                print(f"seed {verdict.seed} fails (make simulate SEED={verdict.seed}):")
                print(*(f"    {finding}" for finding in verdict.findings[:5]), sep="\n", flush=True)
        if number % 1000 == 0:
            print(f"{number} seeds, {number / (time.perf_counter() - began):.1f} a second", flush=True)
    passed = time.perf_counter() - began
    print(f"{count} seeds in {passed:.1f} s: {count / passed:.1f} a second, {len(failed)} failed")
    print(f"{transactions} transactions, {seconds / 3600:.1f} hours of virtual time")
    print(f"faults: {_counted(faults)}")
    return 1 if failed else 0


def find_planted(seeds: int) -> int:
    """Print for each planted bug the first seed that finds it."""
    missed = 0
    for bug in BUGS:
        with bug.plant():
            verdict = next((found for found in map(judge, range(seeds)) if found.findings), None)
        missed += verdict is None
        found = "not found" if verdict is None else f"{verdict.seed}: {verdict.findings[0]}"
        print(f"{bug.name} (noted: {bug.seed})\n    {found}", flush=True)
    return 1 if missed else 0


def _verdicts(first: int, count: int) -> Iterator[Verdict]:
    """The verdicts in order, without traces: they are long."""
    chunks = [(start, min(_CHUNK, first + count - start)) for start in range(first, first + count, _CHUNK)]
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as pool:
        for verdicts in pool.map(judge_many, *zip(*chunks, strict=True)):
            yield from verdicts


def _counted(faults: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "none"


if __name__ == "__main__":
    sys.exit(main())
