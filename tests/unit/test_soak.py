"""The parts of the soak and of the backlogs that decide or say something."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from bench.backlog import __main__ as backlog_main
from bench.backlog import report as backlog_report
from bench.backlog.measure import OPERATIONS
from bench.backlog.report import Measured
from bench.backlog.scenarios import scenarios
from bench.soak import report, settings
from bench.soak.run import Outcome
from bench.soak.verdict import SERIES, Point, Series, judge

MEMORY = Series("worker_memory", "memory", "MiB", 0.25, 1)


def looks(value: float, *, slope: float = 0.0, noise: float = 0.0, tooth: float = 0.0) -> list[Point]:
    """Ten minutes of looks at a line, one every ten seconds; `slope` is for an hour."""
    chance = random.Random(1)
    return [
        (4 + at / 6, value + slope * at / 360 + chance.uniform(-noise, noise) + tooth * math.fmod(at, 12) / 12)
        for at in range(61)
    ]


def test_a_line_that_only_trembles_is_flat() -> None:
    assert judge(MEMORY, looks(50, noise=3)).verdict == "flat"


def test_a_saw_tooth_is_flat() -> None:
    assert judge(MEMORY, looks(50, tooth=30)).verdict == "flat"


def test_a_leak_of_one_part_in_twenty_in_ten_minutes_is_found_in_the_noise() -> None:
    judged = judge(MEMORY, looks(60, slope=20, noise=0.5))
    assert judged.verdict == "growing"
    assert judged.slope == pytest.approx(20, rel=0.1)


def test_what_is_allowed_is_a_share_or_a_least() -> None:
    assert judge(MEMORY, looks(1, slope=0.9)).allowed == 1
    assert judge(MEMORY, looks(1, slope=0.9)).verdict == "flat"
    assert judge(MEMORY, looks(100, slope=20)).allowed == pytest.approx(25, rel=0.1)


def test_what_is_never_deleted_grows_and_an_uneven_load_does_not() -> None:
    rows = next(series for series in SERIES if series.key == "rows_runs")
    never_deleted = [(at, 600 * at) for at, _ in looks(0)]
    assert judge(rows, never_deleted).verdict == "growing"
    assert judge(rows, looks(600, slope=700, noise=50)).verdict == "flat"


def test_a_line_that_falls_is_flat() -> None:
    points = looks(50, noise=1)
    assert judge(MEMORY, [(at, value + (10 if at < 6 else 0)) for at, value in points]).verdict == "flat"


def test_too_few_or_too_short_is_no_verdict() -> None:
    assert judge(MEMORY, looks(50, slope=500)[:20]).verdict == "too short"
    assert judge(MEMORY, looks(50, slope=500)[::10]).verdict == "too short"


def an_outcome(*, slope: float = 0.0) -> Outcome:
    about = {"database": "SQLite 3", "settings": "WAL", "machine": "2 cores"}
    points = {"worker_memory": looks(50, slope=slope), "rate": looks(10)}
    return Outcome(
        database="sqlite", run="2026-01-01T00:00:00+00:00", minutes=14, warm_up=4, about=about, points=points
    )


def test_a_soak_is_good_when_nothing_grows_and_nothing_is_wrong() -> None:
    good, growing, wrong = an_outcome(), an_outcome(slope=100), an_outcome()
    wrong.findings.append("2 runs did not end")
    assert [report.is_good(one) for one in (good, growing, wrong)] == [True, False, False]
    assert "growing    memory of the steady worker" in report.verdict(growing, as_json=False)
    assert "WRONG: 2 runs did not end" in report.verdict(wrong, as_json=False)
    assert json.loads(report.verdict(wrong, as_json=True))["ok"] is False


def test_a_soak_survives_its_file_and_becomes_a_page(tmp_path: Path) -> None:
    outcome = an_outcome(slope=100)
    outcome.counts["workers killed"] = 1234
    report.save(tmp_path, outcome)
    page = (tmp_path / report.PAGE).read_text("utf-8")
    assert "1,234 workers killed. Nothing was wrong at the end." in page
    assert "| **growing** |" in page
    kept = json.loads((tmp_path / "benchmarks" / "soak-sqlite.json").read_text("utf-8"))
    assert kept["points"]["rate"] == [list(point) for point in outcome.points["rate"]]


def test_every_line_of_the_plots_is_a_line_that_is_known() -> None:
    known = {series.key for series in SERIES}
    assert {key for _, lines in report.PANELS for key, _ in lines} <= known


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--minutes", "0"], "--minutes"), (["--every", "0"], "--every"), (["--workers", "0"], "--w")],
)
def test_a_soak_that_cannot_be_is_refused(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings.parse(arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


# --- backlogs ---------------------------------------------------------------------------------------


def measured(*, claim: float) -> Measured:
    titles = {scenario.key: scenario.title for scenario in scenarios(small=True)}
    times: dict[str, dict[str, float]] = {key: dict.fromkeys(OPERATIONS, 2.0) for key in titles}
    slow = times | {"pending-1m": times["pending-1m"] | {"claim": claim}}
    return Measured(
        database="sqlite",
        run="2026-01-01T00:00:00+00:00",
        size="small",
        turns=1,
        about={"database": "SQLite 3", "machine": "2 cores"},
        titles=titles,
        plain=times,
        analyzed=slow,
    )


def test_ratios_are_to_the_empty_case() -> None:
    found = backlog_report.ratios(measured(claim=5).analyzed, "claim")
    assert (found["empty"], found["pending-1m"]) == (1, 2.5)


def test_backlogs_survive_their_file_and_become_a_page(tmp_path: Path) -> None:
    backlog_report.save(tmp_path, {"sqlite": measured(claim=5)})
    assert backlog_report.load(tmp_path) == {"sqlite": measured(claim=5)}
    page = (tmp_path / backlog_report.PAGE).read_text("utf-8")
    assert "| 10,000 runs pending | 2.00 | 1.00 | 5.00 | 2.50 |" in page
    assert "A small run" in page
    assert "2.50" in backlog_report.terminal(measured(claim=5))


def test_more_turns_than_runs_wait_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        backlog_main.parse(["--turns", "5000"])
    assert "--turns" in capsys.readouterr().err
