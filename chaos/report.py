"""What is shown while scenarios are played, and the table at the end. Plain text on anything but a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos.arena import Rules, Verdict
from chaos.audit import Dialect
from chaos.scenarios import Scenario

MIN_WIDTH = 140
"""Of the table where nobody looks at a terminal: no column is cut in a pipe."""
FINDINGS_SHOWN = 20
COLUMNS = ("faults", "recovered", "median", "worst", "takeovers", "runs", "steps", "events", "seconds")
DATABASES: dict[Dialect, str] = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


class Report:
    """Where it is shown."""

    def __init__(self, console: Console) -> None:
        self._console = console
        if not console.is_terminal:
            console.width = max(console.width, MIN_WIDTH)

    def begin(self, scenario: Scenario, dialect: Dialect) -> None:
        """Say what is done now."""
        self._console.print(f"[cyan]{scenario.name}[/cyan] on {DATABASES[dialect]}: {escape(scenario.what)}")

    def end(self, verdict: Verdict) -> None:
        """Say what came of it."""
        if not verdict.findings:
            note = f" ({verdict.note})" if verdict.note else ""
            self._console.print(f"  ok: {verdict.faults} faults, {verdict.runs} runs{escape(note)}")
        for finding in verdict.findings[:FINDINGS_SHOWN]:
            self._console.print(f"  [red]FOUND[/red] {escape(finding)}", soft_wrap=True)
        if len(verdict.findings) > FINDINGS_SHOWN:
            self._console.print(f"  and {len(verdict.findings) - FINDINGS_SHOWN} more")

    def table(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Show all of it, and a last line that says whether all is well."""
        table = Table(title="Real faults (times in seconds)", title_justify="left")
        table.add_column("scenario", no_wrap=True)
        table.add_column("database", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for verdict in verdicts:
            table.add_row(verdict.scenario, verdict.database, *figures(verdict), "FOUND" if verdict.findings else "ok")
        self._console.print()
        self._console.print(table)
        found = sum(len(verdict.findings) for verdict in verdicts)
        faults, runs = sum(one.faults for one in verdicts), sum(one.runs for one in verdicts)
        bound = max(one.bound for one in verdicts)
        if bound > min(one.bound for one in verdicts) or bound > Rules(seconds=0).bound:
            self._console.print(f"Others want the processors too: recovery was given up to {bound:.1f} s.")
        outcome = "nothing was found" if not found else f"{found} findings, see FOUND above"
        self._console.print(f"{faults} faults survived, {runs:,} runs checked, {seconds:.0f} s: {outcome}.")


def figures(verdict: Verdict) -> list[str]:
    """The figures of a scenario, in the order of `COLUMNS`."""
    times = verdict.recoveries
    return [
        str(verdict.faults),
        str(len(times)),
        f"{statistics.median(times):.2f}" if times else "",
        f"{max(times):.2f}" if times else "",
        str(verdict.takeovers),
        f"{verdict.runs:,}",
        f"{verdict.steps:,}",
        f"{verdict.events:,}",
        f"{verdict.seconds:.1f}",
    ]
