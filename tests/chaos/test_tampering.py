"""What is done behind everybody's back is found: audit, queries, subscriber and checker see it on both databases."""

from __future__ import annotations

import pytest

from chaos.arena import Arena
from chaos.audit import Dialect
from chaos.run import Grounds, play
from chaos.scenarios import BOTH, Scenario
from tests.chaos.test_scenarios import SHORT

ONE_OF = "(SELECT id FROM {runs} WHERE status = 'completed' ORDER BY id LIMIT 1 OFFSET "
TAMPERING: dict[str, str] = {
    "is completed and changed in ['crashes']": f"UPDATE {{runs}} SET crashes = crashes + 1 WHERE id = {ONE_OF} 0)",
    "was stored again": f"UPDATE {{steps}} SET position = position + 9 WHERE name = 's0' AND run_id = {ONE_OF} 1)",
    "is gone": f"DELETE FROM {{steps}} WHERE name = 's0' AND run_id = {ONE_OF} 2)",
    "have a gap, or are out of order": f"DELETE FROM {{events}} WHERE type = 'run:leased' AND run_id = {ONE_OF} 3)",
    "which is not stored": f"DELETE FROM {{events}} WHERE type = 'run:complete' AND run_id = {ONE_OF} 4)",
    "the slots of a key were miscounted": "UPDATE {concurrency_keys} SET active = active + 1",
    "was deleted, and nobody asked for it": f"DELETE FROM {{runs}} WHERE id = {ONE_OF} 5)",
    "and there is no such run": "SELECT 1",  # the same one: its trigger had returned
}
"""What is found, and what was done."""


async def tamper(arena: Arena) -> None:
    """Do all of it when the work is done."""
    await arena.start_workers(1)
    arena.load.start(8)
    await arena.busy(30)
    await arena.settle()
    for text in TAMPERING.values():
        await arena.place.sql(text)


@pytest.mark.parametrize("dialect", BOTH)
async def test_tampering_is_found(dialect: Dialect, where: Grounds) -> None:
    scenario = Scenario(name="tampered", what="tampering", databases=BOTH, play=tamper, seconds=0)
    verdict = await play(scenario, dialect, where, SHORT)
    missed = [what for what in TAMPERING if not any(what in finding for finding in verdict.findings)]
    assert missed == []


async def lose(arena: Arena) -> None:
    """Lose what the last look needs."""
    await arena.place.sql("DROP TABLE durably_steps")


async def test_a_database_that_cannot_be_read_in_the_end_is_found(where: Grounds) -> None:
    scenario = Scenario(name="lost", what="a table is lost", databases=("sqlite",), play=lose, seconds=0)
    [finding] = (await play(scenario, "sqlite", where, SHORT)).findings
    assert finding.startswith("end: what is stored cannot be read: OperationalError: no such table")


async def leave(arena: Arena) -> None:
    """Let a worker end by itself."""
    await arena.start_workers(1)
    await arena.living[0].stop()


async def test_a_worker_that_ends_by_itself_is_found(where: Grounds) -> None:
    scenario = Scenario(name="left", what="a worker ends", databases=("sqlite",), play=leave, seconds=0)
    [finding] = (await play(scenario, "sqlite", where, SHORT)).findings
    assert finding.endswith("ended by itself")
