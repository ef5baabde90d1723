"""The parts of the benchmark that decide something: what is compared, what holds, what is cut out, what is said."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bench import report, results
from bench.bars import BARS, Bar, Ref, judge
from bench.launch import Failed, launch
from bench.results import Results, Section
from bench.rounds import turns
from bench.settings import ROOT, parse
from bench.subjects.without_events import WRITES, without_events
from bench.systems import SYSTEMS, System
from bench.task import Stopwatch, Task
from durably.store import catalogue
from durably.store.migrate import migrations
from durably.store.sqlite_calls import Calls

OURS, FLOOR = Ref("w2", "sqlite", "ours", 100), Ref("w2", "sqlite", "floor", 100)
HALF = Bar(group="W2", text="of the floor", value=OURS, over=FLOOR, least=0.5)


def measured(ours: float, floor: float | None = None) -> Results:
    about = {"database": "SQLite", "settings": "", "machine": "2 cores"}
    section = Section(
        workload="w2", database="sqlite", run="2026-01-01T00:00:00+00:00", size="full", rounds=3, about=about
    )
    for system, rate in (("ours", ours), ("floor", floor)):
        if rate is not None:
            section.cell(system, 100).values["rate"] = [rate * 2, rate, rate / 2]
    return {"w2/sqlite": section}


def test_the_medians_are_compared() -> None:
    assert judge(HALF, measured(60, 100)).measured == pytest.approx(0.6)
    assert judge(HALF, measured(60, 100)).verdict == "holds"
    assert judge(HALF, measured(40, 100)).verdict == "does not hold"


def test_what_has_no_bar_is_shown() -> None:
    aimed_at = Bar(group="W2", text="of the floor", value=OURS, over=FLOOR, aim=0.5)
    assert judge(aimed_at, measured(40, 100)).verdict == "shown"


def test_a_page_tells_what_misses_a_bar_by_a_hair() -> None:
    near = Bar(group="W2", text="of the floor", value=OURS, over=FLOOR, least=0.3)
    assert judge(near, measured(29.5, 100)).verdict == "does not hold"
    assert "0.295x" in report.verdicts(measured(29.5, 100))


def test_a_ratio_is_that_of_the_rounds() -> None:
    """The machine was half as fast in two of three rounds: no round says 0.5 but the last."""
    found = measured(60, 100)
    for system, rates in (("ours", [60.0, 30.0, 50.0]), ("floor", [100.0, 50.0, 100.0])):
        found["w2/sqlite"].cell(system, 100).values["rate"] = rates
    assert judge(HALF, found).measured == pytest.approx(0.6)


def test_what_was_not_measured_is_said_to_be_so() -> None:
    assert judge(HALF, {}).verdict == "not measured"
    assert judge(HALF, measured(60)).verdict == "not measured"


def test_values_of_different_runs_are_not_compared() -> None:
    found = measured(60, 100)
    other = measured(1)["w2/sqlite"]
    other.run = "2026-01-02T00:00:00+00:00"
    found["w2/postgres"] = other
    bar = Bar(group="", text="", value=OURS, over=Ref("w2", "postgres", "ours", 100), least=1)
    assert judge(bar, found).verdict == "not measured"


def test_every_bar_names_a_system_that_measures_its_workload() -> None:
    measures = {
        (system.key, kind, base) for system in SYSTEMS for kind in system.measures for base in system.measures[kind]
    }
    for ref in [bar.value for bar in BARS] + [bar.over for bar in BARS if bar.over is not None]:
        assert (ref.system, ref.workload, ref.database) in measures


def test_results_survive_their_file_and_become_a_page(tmp_path: Path) -> None:
    found = measured(60, 100)
    found["w2/sqlite"].failures["dbos"] = "not installed here"
    results.save(tmp_path, found)
    page = report.page(results.load(tmp_path), ["w2-sqlite.svg"])
    assert results.load(tmp_path) == found
    assert "| durably |  |" in page
    assert "60 (0.60)" in page
    assert "benchmarks/w2-sqlite.svg" in page
    assert "dbos: not installed here" in page


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_events_are_cut_out_of_what_a_worker_writes_and_nothing_else(dialect: str) -> None:
    whole = catalogue.load(dialect, "durably_")
    with without_events():
        cut = catalogue.load(dialect, "durably_")
    assert {name for name in whole if whole[name] != cut[name]} == set(WRITES)
    assert not [sql for name in WRITES for sql in cut[name] if "events (run_id" in sql.text]


def test_what_is_left_without_events_is_still_sql() -> None:
    raw = sqlite3.connect(":memory:")
    Calls(raw).prepare()
    for migration in migrations("sqlite", "durably_"):
        for statement in migration.statements:
            raw.execute(statement)
    with without_events():
        cut = catalogue.load("sqlite", "durably_")
    for name in WRITES:
        for sql in cut[name]:
            if "RAISE(" not in sql.text:  # that is for triggers only
                raw.execute(f"EXPLAIN {sql.text}", dict.fromkeys(sql.params))
    raw.close()


def test_a_process_that_fails_is_a_reason_without_paths(tmp_path: Path) -> None:
    broken = System(key="x", title="x", role="peer", module="bench.no_such_module", measures={})
    failed = launch(broken, Task(kind="w1", url=str(tmp_path / "x.db"), seconds=1))
    assert isinstance(failed, Failed)
    assert "no_such_module" in failed.reason
    assert str(tmp_path) not in failed.reason


def test_a_system_that_is_not_installed_is_a_reason() -> None:
    absent = System(key="x", title="x", role="peer", module="m", measures={}, environment=".venv-bench-absent")
    assert launch(absent, Task(kind="w1", url="x")) == Failed("not installed here")


def test_systems_take_turns_concurrency_by_concurrency() -> None:
    order = [(turn.at, turn.system.role) for turn in turns("w2", "sqlite", peers=False)]
    assert [at for at, _ in order] == sorted(at for at, _ in order)
    assert {role for _, role in order} == {"ours", "floor", "variant"}


def test_the_clock_starts_after_the_warm_up() -> None:
    watch = Stopwatch(Task(kind="w2", url="", jobs=2, warm_up=1))
    for _ in range(3):
        watch.started()
        watch.finished()
    answer = watch.answer()
    assert watch.is_done
    assert answer["jobs"] == 2
    assert answer["rate"] == pytest.approx(10 / answer["seconds"])


def test_a_choice_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "w9"])
    assert "w9" in capsys.readouterr().err
    assert parse(["--only", "w2,w1", "--db", "sqlite"]).workloads == ("w1", "w2")


IMPORT_ALL = """
import importlib, pkgutil, sys
import bench
for found in pkgutil.walk_packages(bench.__path__, "bench."):
    if not found.name.startswith("bench.peers") and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_the_benchmarks_environment_has_all_that_it_imports() -> None:
    """It has requirements of its own: what is missing there is seen here, where everything is installed."""
    made = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, check=True, capture_output=True, text=True)
    known = packages_distributions()
    needed = {name.lower().replace("_", "-") for module in made.stdout.split() for name in known.get(module, ())}
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "bench.txt").read_text("utf-8"), re.MULTILINE))
    assert {"typer", "asyncpg", "starlette"} <= needed
    assert needed - pinned - {"durably", "setuptools"} == set()  # the latter looks into every process
