"""What the demo shows: lines, a progress bar, tables. On anything but a terminal it is plain text."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from textwrap import wrap

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from demo.proof import Check

LABEL_WIDTH = 10
MIN_WIDTH = 40
PLAIN_LINES = 4
"""How often progress is reported where a bar cannot move."""


class Screen:
    """Where it is shown."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str) -> None:
        """Begin."""
        self._console.print(Text(text, style="bold"), end="\n\n")

    def say(self, label: str, text: str, *, style: str = "cyan") -> None:
        """Write a line under a label."""
        lines = wrap(text, max(self._console.width - LABEL_WIDTH - 1, MIN_WIDTH))
        for line, name in zip_longest(lines, [label], fillvalue=""):
            self._console.print(Text.assemble((f"{name:<{LABEL_WIDTH}}", style), " ", line), soft_wrap=True)

    @contextmanager
    def bar(self, total: int) -> Generator[Bar]:
        """Show how far the import is, below everything that is said meanwhile."""
        is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        columns = (
            TextColumn(f"{{task.description:<{LABEL_WIDTH}}}", style="cyan"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, disable=not is_live) as progress:
            yield Bar(self, progress, total, is_live=is_live)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str] | None]) -> None:
        """Show a table; None is a gap."""
        table = Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            is_number = column in {"seq", "starts", "commits", "generation", "ms", "seconds"}
            table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number)
        for row in rows:
            table.add_row(*(row if row is not None else ["..."] * len(columns)))
        self._console.print()
        self._console.print(table)

    def checks(self, checks: Sequence[Check]) -> None:
        """Show what was proved, or what was not."""
        self._console.print()
        for check in checks:
            self.say("ok" if check.holds else "FAILED", check.text, style="green" if check.holds else "bold red")


class Bar:
    """How far the import is."""

    def __init__(self, screen: Screen, progress: Progress, total: int, *, is_live: bool) -> None:
        self._screen = screen
        self._progress = progress
        self._total = total
        self._is_live = is_live
        self._task = progress.add_task("import", total=total)
        self._said = 0

    def label(self, text: str) -> None:
        """Say what goes on."""
        self._progress.update(self._task, description=text)

    def show(self, done: int) -> None:
        """Show how many rows are done."""
        self._progress.update(self._task, completed=done)
        quarter = done * PLAIN_LINES // self._total
        if not self._is_live and quarter > self._said:
            self._said = quarter
            self._screen.say("progress", f"{done:,} of {self._total:,} rows")


def excerpt(length: int, interesting: Collection[int], *, ends: int = 3, around: int = 2) -> list[int | None]:
    """Return the places of a long list that are worth showing; None where some are left out."""
    shown = {*range(ends), *range(length - ends, length)}
    for place in interesting:
        shown.update(range(place - around, place + around + 1))
    places: list[int | None] = []
    for place in sorted(place for place in shown if 0 <= place < length):
        if places and places[-1] is not None and place > places[-1] + 1:
            places.append(None)
        places.append(place)
    return places
