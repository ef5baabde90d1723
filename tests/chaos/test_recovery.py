"""How long a death was felt, as it is read from what was noted."""

from __future__ import annotations

from dataclasses import replace

from chaos.checker import check
from chaos.record import Fault, Record
from chaos.recovery import measure_takeovers
from tests.chaos.test_checker import leased, row, run_change, sound


def measured(record: Record) -> list[float | None]:
    measure_takeovers(record)
    return [fault.recovery for fault in record.faults]


def test_a_death_is_felt_until_another_process_has_the_run() -> None:
    assert measured(sound()) == [8.0]


def test_a_death_that_is_felt_for_too_long_is_found() -> None:
    record = replace(sound(), lease=3.0, slack=2.0)
    measure_takeovers(record)
    assert [finding.partition(",")[0] for finding in check(record)] == ["G6: recovery from SIGKILL took 8.0 s"]
    record.slack = 5.0
    assert check(record) == []


def test_a_death_is_felt_as_long_as_one_of_several_runs_waits() -> None:
    record = sound()
    record.changes = [
        *record.changes,
        run_change(10, row("pending", 0), leased(1), run="other"),
        run_change(25, leased(1), leased(2, crashes=1), run="other"),
    ]
    record.deeds = [*record.deeds, replace(record.deeds[0], run="other")]
    assert measured(record) == [13.0]


def test_what_a_worker_stored_before_it_died_is_no_recovery() -> None:
    record = sound()
    record.faults = [Fault("SIGKILL", 20.5, float("inf"), 1)]
    assert measured(record) == [None]


def test_a_checkpoint_that_ends_the_count_of_crashes_is_no_recovery() -> None:
    record = sound()
    record.changes = [record.changes[1], run_change(15, leased(1, crashes=1), leased(1))]
    assert measured(record) == [None]


def test_a_death_with_nobody_left_is_not_measured() -> None:
    record = sound()
    record.faults = [replace(record.faults[0], is_measured=False)]
    assert measured(record) == [None]
