"""Plots as SVG: rates, ratios, and values over time. matplotlib is in the benchmark's own environment only."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results import Results, Section
from bench.systems import SYSTEMS

COLOURS = {"ours": "#1f6feb", "floor": "#57606a", "variant": "#8ab4f8", "peer": "#d0d7de"}
LINES = ("#1f6feb", "#d29922", "#57606a", "#2da44e", "#cf222e", "#8250df")
WORDS = {"w1": "jobs a second", "w2": "steps a second", "postgres": "PostgreSQL", "sqlite": "SQLite"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several plots in a figure: a title, and the points of each line by its name."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def draw(folder: Path, results: Results) -> list[str]:
    """Draw what can be drawn into the folder. Returns the names of the files; none where matplotlib is missing."""
    pyplot = _pyplot()
    if pyplot is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[str] = []
    for section in results.values():
        if section.workload in {"w1", "w2"} and section.cells:
            name = f"{section.workload}-{section.database}.svg"
            _bars(pyplot, section, folder / name)
            drawn.append(name)
    return drawn


def draw_lines(file: Path, panels: Sequence[Panel], *, columns: int = 3, mark: float | None = None) -> bool:
    """Draw values over minutes, a panel for each kind, with a line at `mark`. False where matplotlib is missing."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.4 * columns, 1.9 * rows), sharex=True, squeeze=False)
    flat = [axis for row in axes for axis in row]
    for axis, panel in zip(flat, panels, strict=False):
        for place, (name, points) in enumerate(panel.lines.items()):
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1, color=LINES[place % len(LINES)])
        if mark is not None:
            axis.axvline(mark, color="#d0d7de", linewidth=1)
        axis.set_ylim(bottom=0)
        axis.set_title(panel.title, fontsize=8)
        if len(panel.lines) > 1:
            axis.legend(fontsize=6, frameon=False)
        _bare(axis)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    for axis in flat[max(len(panels) - columns, 0) : len(panels)]:
        axis.set_xlabel("minutes", fontsize=8)
        axis.tick_params(labelbottom=True)
    _save(pyplot, figure, file)
    return True


def draw_ratios(file: Path, panels: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]]) -> bool:
    """Draw bars by name and group, next to a line at 1. False where matplotlib is missing."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    figure, axes = pyplot.subplots(1, len(panels), figsize=(10, 3.4), sharey=True, squeeze=False)
    for axis, (title, groups) in zip(axes[0], panels, strict=True):
        height = 0.8 / max(len(groups), 1)
        for place, (group, values) in enumerate(groups.items()):
            spots = [number + (place - (len(groups) - 1) / 2) * height for number in range(len(values))]
            bars = axis.barh(spots, list(values.values()), height * 0.9, label=group, color=LINES[place])
            axis.bar_label(bars, [f"{value:.2f}" for value in values.values()], padding=2, fontsize=6)
            axis.set_yticks(range(len(values)), list(values), fontsize=8)
        axis.axvline(1, color=COLOURS["floor"], linewidth=0.8)
        axis.set_xlim(left=0, right=max(2.0, *(1.2 * value for values in groups.values() for value in values.values())))
        axis.set_title(title, fontsize=9)
        _bare(axis)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(fontsize=7, frameon=False, loc="lower right")
    _save(pyplot, figure, file)
    return True


def _pyplot() -> Any:  # noqa: ANN401 - matplotlib is not installed everywhere
    """Matplotlib's drawing, with files that are the same for the same values; None where it is missing."""
    try:
        importlib.import_module("matplotlib").use("svg")
    except ModuleNotFoundError:
        return None
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"svg.hashsalt": "durably", "svg.fonttype": "none", "font.size": 9})
    return pyplot


def _save(pyplot: Any, figure: Any, file: Path) -> None:  # noqa: ANN401 - as above
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _bare(axis: Any) -> None:  # noqa: ANN401 - as above
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _bars(pyplot: Any, section: Section, file: Path) -> None:  # noqa: ANN401 - matplotlib is not installed everywhere
    """One group of bars a concurrency, on a logarithmic scale."""
    levels = sorted({cell.at for cell in section.cells if cell.system != "commits"})
    systems = [system for system in _known(section) if system != "commits"]
    figure, axes = pyplot.subplots(1, len(levels), figsize=(10, 0.45 * len(systems) + 1.2), sharey=True, squeeze=False)
    for axis, at in zip(axes[0], levels, strict=True):
        _panel(axis, section, systems, at)
    axes[0][0].invert_yaxis()
    what = f"{section.workload.upper()}, {WORDS[section.database]}: {WORDS[section.workload]} (logarithmic)"
    figure.suptitle(what, fontsize=10)
    _save(pyplot, figure, file)


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
