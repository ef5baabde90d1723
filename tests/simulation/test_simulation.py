"""Many seeds hold, one seed gives one trace, and the bugs that were planted are found."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from durably.testing import Memory
from tests.simulation.history import AUDIT
from tests.simulation.planted import BUGS, Bug
from tests.simulation.plants import sql
from tests.simulation.verdict import judge, judge_many

SEEDS = 500
CHUNK = 50
ROOT = Path(__file__).parents[2]
_DIGESTS = "from tests.simulation.verdict import judge; print(*(judge(seed).digest for seed in range(6)))"


def kept_seeds() -> list[int]:
    """The seeds of `seeds.txt`."""
    lines = (ROOT / "tests/simulation/seeds.txt").read_text("utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_guarantees_hold_under_every_seed(first: int) -> None:
    verdicts = judge_many(first, CHUNK)
    assert {verdict.seed: verdict.findings for verdict in verdicts if verdict.findings} == {}
    faults = set(chain.from_iterable(verdict.faults for verdict in verdicts))
    assert faults >= {"crash", "lost before", "lost after", "locked", "frozen", "outage", "slow", "blocked", "clock"}
    assert not [kind for kind in verdicts[0].checked if not any(verdict.checked[kind] for verdict in verdicts)]


def test_the_guarantees_hold_under_seeds_that_once_failed() -> None:
    assert {seed: judge(seed).findings for seed in kept_seeds()} == dict.fromkeys(kept_seeds(), ())


def test_one_seed_gives_one_trace() -> None:
    first = [judge(seed) for seed in range(6)]
    again = [judge(seed) for seed in range(6)]
    assert [verdict.trace for verdict in first] == [verdict.trace for verdict in again]
    assert len({verdict.digest for verdict in first}) == len(first)
    assert min(len(verdict.trace) for verdict in first) > 50


def test_a_seed_gives_the_same_trace_whatever_was_played_before() -> None:
    used = Memory(AUDIT)
    for seed in range(20, 26):
        judge(seed, used)
    for seed in range(6):
        fresh = Memory(AUDIT)
        assert judge(seed, used).trace == judge(seed, fresh).trace
        fresh.close()
    used.close()


def test_another_process_sees_the_same_trace() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", _DIGESTS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [judge(seed).digest for seed in range(6)]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_found(bug: Bug) -> None:
    with bug.plant():
        assert any(bug.is_found(judge(seed).findings) for seed in (bug.seed, *range(SEEDS)))


def test_a_bug_is_planted_against_each_guarantee() -> None:
    """G14 is about cost, which has no seed."""
    assert {f"G{number}" for number in range(1, 14)} - {bug.breaks for bug in BUGS} == set()
    assert len({bug.name for bug in BUGS}) == len(BUGS)


def test_a_bug_whose_sql_does_not_run_is_not_taken_for_found() -> None:
    bug = Bug("nonsense", "G7", sql("admit", (r"ORDER BY", "ODER VON")), 0)
    with bug.plant():
        findings = judge(bug.seed).findings
    assert findings
    assert not bug.is_found(findings)


def test_a_planted_bug_that_hits_nothing_says_so() -> None:
    with sql("claim", (r"no such text", ""))(), pytest.raises(LookupError, match="misses"):
        judge(0)
