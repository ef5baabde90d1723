"""Plots of the rates, as SVG. matplotlib is in the benchmark's own environment only."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.results import Results, Section
from bench.systems import SYSTEMS

COLOURS = {"ours": "#1f6feb", "floor": "#57606a", "variant": "#8ab4f8", "peer": "#d0d7de"}
WORDS = {"w1": "jobs a second", "w2": "steps a second", "postgres": "PostgreSQL", "sqlite": "SQLite"}


def draw(folder: Path, results: Results) -> list[str]:
    """Draw what can be drawn into the folder. Returns the names of the files; none where matplotlib is missing."""
    try:
        importlib.import_module("matplotlib").use("svg")
    except ModuleNotFoundError:
        return []
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[str] = []
    for section in results.values():
        if section.workload in {"w1", "w2"} and section.cells:
            name = f"{section.workload}-{section.database}.svg"
            _bars(pyplot, section, folder / name)
            drawn.append(name)
    return drawn


def _bars(pyplot: Any, section: Section, file: Path) -> None:  # noqa: ANN401 - matplotlib is not installed everywhere
    """One group of bars a concurrency, on a logarithmic scale."""
    levels = sorted({cell.at for cell in section.cells if cell.system != "commits"})
    systems = [system for system in _known(section) if system != "commits"]
    pyplot.rcParams.update({"svg.hashsalt": "durably", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(1, len(levels), figsize=(10, 0.45 * len(systems) + 1.2), sharey=True, squeeze=False)
    for axis, at in zip(axes[0], levels, strict=True):
        _panel(axis, section, systems, at)
    axes[0][0].invert_yaxis()
    what = f"{section.workload.upper()}, {WORDS[section.database]}: {WORDS[section.workload]} (logarithmic)"
    figure.suptitle(what, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _panel(axis: Any, section: Section, systems: Sequence[str], at: int) -> None:  # noqa: ANN401 - as above
    rates = [section.median(system, at, "rate") or 0.0 for system in systems]
    bars = axis.barh([_title(system) for system in systems], rates, color=[_colour(system) for system in systems])
    axis.bar_label(bars, [f"{rate:,.0f}" if rate else "" for rate in rates], padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(left=10, right=max(*rates, 100.0) * 8)
    axis.set_title(f"at {at}", fontsize=9)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _known(section: Section) -> list[str]:
    present = {cell.system for cell in section.cells}
    return [key for key in dict.fromkeys(system.key for system in SYSTEMS) if key in present]


def _title(key: str) -> str:
    return next(system.title for system in SYSTEMS if system.key == key)


def _colour(key: str) -> str:
    return COLOURS[next(system.role for system in SYSTEMS if system.key == key)]
