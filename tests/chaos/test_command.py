"""What `python -m chaos` says, and how it ends."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from chaos import __main__ as command
from chaos.arena import Verdict
from chaos.report import COLUMNS, FINDINGS_SHOWN, Report, figures
from chaos.scenarios import SCENARIOS

VERDICT = Verdict(
    scenario="workers-killed",
    database="SQLite",
    findings=(),
    faults=60,
    recoveries=(3.0, 3.25, 4.5),
    runs=1234,
    steps=5678,
    takeovers=99,
    events=12345,
    seconds=61.04,
    bound=5.0,
    note="[all] of them",
)


def shown(*verdicts: Verdict) -> str:
    """What is printed into a pipe."""
    pipe = io.StringIO()
    report = Report(Console(file=pipe, highlight=False))
    for verdict in verdicts:
        report.begin(SCENARIOS[0], "sqlite")
        report.end(verdict)
    report.table(verdicts, 61.0)
    return pipe.getvalue()


def test_the_table_in_a_pipe_is_plain_and_whole() -> None:
    text = shown(VERDICT)
    assert "\x1b" not in text
    assert "…" not in text
    assert "ok: 60 faults, 1234 runs ([all] of them)" in text
    assert all(figure in text for figure in figures(VERDICT))
    assert text.endswith("60 faults survived, 1,234 runs checked, 61 s: nothing was found.\n")


def test_there_is_a_figure_for_every_column() -> None:
    assert len(figures(VERDICT)) == len(COLUMNS)
    assert figures(replace(VERDICT, recoveries=()))[1:4] == ["0", "", ""]


def test_findings_are_shown_and_counted() -> None:
    text = shown(VERDICT, replace(VERDICT, findings=[f"G5: [{number}]" for number in range(FINDINGS_SHOWN + 2)]))
    assert "FOUND G5: [0]" in text
    assert "and 2 more" in text
    assert text.endswith("22 findings, see FOUND above.\n")


def test_a_machine_without_time_is_mentioned() -> None:
    assert "Others want" not in shown(VERDICT)
    assert "recovery was given up to 9.5 s" in shown(VERDICT, replace(VERDICT, bound=9.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "nonsense"], "invalid choice: 'nonsense'"),
        (["--seconds", "-1"], "'-1' is no number of seconds"),
        (["--seconds", "nan"], "'nan' is no number of seconds"),
        (["--db", "oracle"], "invalid choice: 'oracle'"),
    ],
)
def test_a_wrong_argument_is_explained(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["chaos", *arguments])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("findings", "code"), [((), 0), (("G5: s0 of r was stored twice",), 1)])
def test_the_exit_code_says_whether_something_was_found(
    findings: Sequence[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def played(*_: object) -> list[Verdict]:
        return [replace(VERDICT, findings=findings)]

    def keep(*_: object) -> None:
        """Leave the signals of this process alone."""

    monkeypatch.setattr(command, "_play", played)
    monkeypatch.setattr(signal, "signal", keep)
    monkeypatch.setattr(sys, "argv", ["chaos", "--scenario", "storm"])
    assert command.main() == code
    assert ("nothing was found" in capsys.readouterr().out) == (code == 0)


def test_a_scenario_that_is_not_for_a_database_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["chaos", "--scenario", "pooled", "--db", "sqlite"])
    assert command.main() == 2
    assert "none of these scenarios is for that database" in capsys.readouterr().err
