"""What was measured, as it is kept in `benchmarks.json` beside the report. A run replaces what it measured."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "benchmarks.json"

Values = dict[str, list[float]]


@dataclass(slots=True)
class Cell:
    """One system at one concurrency: a value a round, by name."""

    system: str
    at: int
    values: Values = field(default_factory=Values)

    def median(self, name: str) -> float | None:
        """The median over the rounds; None when that was not measured."""
        found = self.values.get(name)
        return statistics.median(found) if found else None


@dataclass(slots=True, kw_only=True)
class Section:
    """A workload on a database, all of it measured in one run."""

    workload: str
    database: str
    run: str
    """When the run began, in UTC: sections of one run can be compared."""
    size: str
    rounds: int
    about: dict[str, str]
    """Versions, machine and settings."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    cells: list[Cell] = field(default_factory=list[Cell])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """Why a system has no values, by its key."""

    def cell(self, system: str, at: int) -> Cell:
        """The cell, made when it is not there yet."""
        for cell in self.cells:
            if (cell.system, cell.at) == (system, at):
                return cell
        self.cells.append(Cell(system, at))
        return self.cells[-1]

    def values(self, system: str, at: int, name: str) -> list[float]:
        """A cell's values, one a round."""
        cell = next((c for c in self.cells if (c.system, c.at) == (system, at)), Cell(system, at))
        return cell.values.get(name, [])

    def median(self, system: str, at: int, name: str) -> float | None:
        """A cell's median."""
        return next((c.median(name) for c in self.cells if (c.system, c.at) == (system, at)), None)


Results = dict[str, Section]


def key_of(workload: str, database: str) -> str:
    """The name of a section."""
    return f"{workload}/{database}"


def load(folder: Path) -> Results:
    """What earlier runs measured."""
    file = folder / FILE
    if not file.exists():
        return {}
    sections: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: _section(data) for key, data in sections.items()}


def save(folder: Path, results: Results) -> None:
    """Keep it, sorted, so that a change is easy to see."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {key: asdict(section) for key, section in sorted(results.items())}
    (folder / FILE).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _section(data: dict[str, Any]) -> Section:
    made = Section(**data)
    cells: list[dict[str, Any]] = data["cells"]
    made.cells = [Cell(**cell) for cell in cells]
    return made
