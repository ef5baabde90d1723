"""The short form of `make chaos`: every scenario once, on every database it is for. What is missing fails."""

from __future__ import annotations

import pytest

from chaos.arena import Rules
from chaos.audit import Dialect
from chaos.run import Grounds, play
from chaos.scenarios import SCENARIOS, Scenario

SHORT = Rules(seconds=0, lease=2.0, slack=20.0, patience=60.0, may_lose_leases=True)
"""One round of faults; a machine that is busy with other tests may take its time."""
CASES = [
    pytest.param(scenario, dialect, id=f"{scenario.name}-{dialect}")
    for scenario in SCENARIOS
    for dialect in scenario.databases
]


@pytest.mark.parametrize(("scenario", "dialect"), CASES)
async def test_nothing_is_lost_doubled_or_stuck_after(scenario: Scenario, dialect: Dialect, where: Grounds) -> None:
    verdict = await play(scenario, dialect, where, SHORT)
    assert verdict.findings == []
    assert verdict.faults >= 1
    assert verdict.runs >= 4


def test_every_scenario_has_a_name_of_its_own_on_each_database() -> None:
    names = [(scenario.name, dialect) for scenario in SCENARIOS for dialect in scenario.databases]
    assert len(set(names)) == len(names)
