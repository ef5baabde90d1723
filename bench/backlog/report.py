"""`backlog.md`: what claims cost in front of each backlog, as ratios to the empty case; data and plot lie beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import plots
from bench.backlog.measure import OPERATIONS, RUNS

PAGE, FILE, PLOT = "backlog.md", "backlog.json", "backlog.svg"
TITLES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}
EMPTY = "empty"

Medians = Mapping[str, Mapping[str, float]]
"""Milliseconds, by backlog and operation."""

INTRODUCTION = f"""\
# Long backlogs

What a claim costs must not grow with what waits or is finished (G14). Made by `make backlog`, which fills databases
with SQL and then takes turns in all of them, one after the other: trigger {RUNS} runs, look what there is to do, claim
{RUNS} runs, store their ends, and end the run that holds the slot of a busy key, which hands it to the next. So a
backlog stays as long as it is, and whatever slows the machine down slows all of them down. The numbers are medians,
as ratios to the same operation where nothing else is in the tables: the machine had other work too, so trust the
ratios, not the milliseconds.

The connections made their plans while the databases were still empty, and PostgreSQL gathered no statistics: a worker
that was there before the burst. Then the databases were analyzed, and all was measured again. Commits do not wait
for the disk here, for they would all wait equally long, and hide what grows.

A claim looks at some candidates of each of its jobs, at most four times as many as it may take. So it costs a little
more in front of any backlog than where nothing waits; in front of a million it reads what it reads in front of a
thousand, but for the depth of the indexes, and finds less of it in the machine's caches.

The plans themselves are tests, in front of the same backlogs
([PostgreSQL](../tests/conformance/test_store_backlogs_postgres.py),
[SQLite](../tests/conformance/test_store_backlogs_sqlite.py)) and for every statement of durably
([PostgreSQL](../tests/conformance/test_store_costs_postgres.py),
[SQLite](../tests/conformance/test_store_costs_sqlite.py)): they count rows, pages and instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All backlogs on one database."""

    database: str
    run: str
    """When it was measured, in UTC."""
    size: str
    turns: int
    about: Mapping[str, str]
    titles: Mapping[str, str]
    """Of the backlogs, by key."""
    plain: Medians
    analyzed: Medians


def ratios(medians: Medians, operation: str) -> dict[str, float]:
    """What an operation costs by backlog, where it costs 1 with nothing else there."""
    return {key: found[operation] / medians[EMPTY][operation] for key, found in medians.items()}


def load(folder: Path) -> dict[str, Measured]:
    """What earlier runs measured, by database."""
    file = folder / FILE
    if not file.exists():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {name: Measured(**data) for name, data in found.items()}


def save(folder: Path, known: Mapping[str, Measured]) -> None:
    """Write data, page and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {name: asdict(known[name]) for name in sorted(known)}
    (folder / FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    ordered = [known[name] for name in TITLES if name in known]
    drawn = plots.draw_ratios(folder / "benchmarks" / PLOT, [_panel(each) for each in ordered])
    (folder / PAGE).write_text(page(ordered, is_drawn=drawn), encoding="utf-8")


def _panel(measured: Measured) -> tuple[str, dict[str, dict[str, float]]]:
    groups = {"without statistics": measured.plain, "analyzed": measured.analyzed}
    named = {
        group: {measured.titles[key]: ratio for key, ratio in ratios(medians, "claim").items()}
        for group, medians in groups.items()
    }
    return f"{TITLES[measured.database]}: a claim, as a ratio", named


def page(known: Iterable[Measured], *, is_drawn: bool) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    if is_drawn:
        parts.append(f"![Claims in front of long backlogs](benchmarks/{PLOT})")
    for measured in known:
        parts += [f"## {TITLES[measured.database]}", _head(measured)]
        parts += ["A claim:", _claims(measured), "The other operations, analyzed:", _others(measured)]
    return "\n\n".join(parts) + "\n"


def _head(measured: Measured) -> str:
    when = measured.run.replace("T", " ").removesuffix("+00:00")
    small = "" if measured.size == "full" else " **A small run: it shows that everything works, not what it costs.**"
    about = measured.about
    return f"Measured {when} UTC, {measured.turns} turns, {about['database']}, on {about['machine']}.{small}"


def _claims(measured: Measured) -> str:
    head = ("", "ms, without statistics", "ratio", "ms, analyzed", "ratio")
    plain, analyzed = ratios(measured.plain, "claim"), ratios(measured.analyzed, "claim")
    rows = [
        (
            title,
            f"{measured.plain[key]['claim']:.2f}",
            f"{plain[key]:.2f}",
            f"{measured.analyzed[key]['claim']:.2f}",
            f"{analyzed[key]:.2f}",
        )
        for key, title in measured.titles.items()
    ]
    return _table(head, rows)


def _others(measured: Measured) -> str:
    names = [name for name in OPERATIONS if name != "claim"]
    found = {name: ratios(measured.analyzed, name) for name in names}
    rows = [(title, *(f"{found[name][key]:.2f}" for name in names)) for key, title in measured.titles.items()]
    return _table(("", *names), rows)


def terminal(measured: Measured) -> str:
    """The same in short, with the ratios of all operations."""
    lines = [f"{TITLES[measured.database]}: ratios to the empty case, without statistics / analyzed"]
    lines.append(" " * 46 + "".join(f"{name:>14}" for name in OPERATIONS))
    for key, title in measured.titles.items():
        cells = [
            f"{ratios(measured.plain, name)[key]:.2f} / {ratios(measured.analyzed, name)[key]:.2f}"
            for name in OPERATIONS
        ]
        lines.append(f"{title:46}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
