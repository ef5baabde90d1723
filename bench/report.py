"""`benchmarks.md`: tables and judgements made of results. Plots lie beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import plots
from bench.bars import Judgement, judge_all
from bench.results import Results, Section
from bench.systems import SYSTEMS

PAGE = "benchmarks.md"
TITLES = {
    "w1": "W1: jobs without steps",
    "w2": "W2: runs of five steps",
    "w3": "W3: from the commit of a trigger to the start of its job",
    "w4": "W4: triggers",
    "w5": "W5: the events of one run to many subscribers",
    "w6": "W6: what a worker takes",
}
MEANING = {
    "w1": "Jobs a second, drained from a full queue by one worker process; in brackets the share of the floor.",
    "w2": "Steps a second: each step returns a small dict, each result is stored before the next step starts.",
    "w3": "Milliseconds to another process that was idle before; one trigger every 20 to 50 ms.",
    "w4": "Runs a second: one after the other, from 100 tasks at once, in batches of 1,000.",
    "w5": "Frames a second to 1, 100 and 1,000 streams over HTTP, with clients and worker in their own processes; in "
    "brackets the share of the floor. Milliseconds from the commit of a step, one every 50 ms, to its receipt. What "
    "the server takes meanwhile.",
    "w6": "One worker process with 100 slots: idle, then while it drains W2.",
}
DATABASES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}
LATENCIES = (("p50", "p50, ms"), ("p99", "p99, ms"))
TRIGGERS = (("one", "one by one"), ("tasks", "100 tasks"), ("batches", "batches"))
STREAMS = (
    ("p50", "p50, ms", "{:.2f}"),
    ("p99", "p99, ms", "{:.2f}"),
    ("cpu", "share of a core", "{:.2f}"),
    ("cpu_us", "processor time a frame, µs", "{:.0f}"),
    ("queries", "queries a second", "{:.1f}"),
    ("stream_kib", "memory a stream, KiB", "{:.0f}"),
    ("missed", "events missed", "{:.0f}"),
)
FOOTPRINT = (
    ("idle_queries", "queries a second, idle"),
    ("idle_transactions", "transactions a second, idle"),
    ("idle_commits", "transactions a second, idle, as the server counts them"),
    ("idle_switches", "wake-ups of the process a second, idle"),
    ("idle_cpu", "share of a core, idle"),
    ("idle_connections", "connections, idle"),
    ("busy_connections", "connections, busy"),
    ("start_memory", "memory before the worker, MiB"),
    ("idle_memory", "memory, idle, MiB"),
    ("busy_memory", "memory, busy, at most, MiB"),
)

INTRODUCTION = """\
# Benchmarks

Made by `make bench`; what the workloads are, and how they are measured, is in
[bench/README.md](../bench/README.md). Every write is durable: PostgreSQL with its default settings, SQLite with
`synchronous=FULL`, unless a table says otherwise. Everything in one section was measured in one run on one machine, in
turn, each time on a fresh database. The numbers are medians of the rounds, and the bars' ratios medians of the rounds'
ratios, for a machine may change its pace between two rounds: trust the ratios, not the numbers."""


def write(folder: Path, results: Results) -> None:
    """Write the page and its plots."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(folder / "benchmarks", results)
    (folder / PAGE).write_text(page(results, drawn), encoding="utf-8")


def page(results: Results, drawn: Sequence[str]) -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## The bars", _bars(judge_all(results))]
    for workload, title in TITLES.items():
        sections = [results[key] for key in sorted(results) if results[key].workload == workload]
        if sections:
            parts += [f"## {title}", MEANING[workload]]
            for section in sections:
                parts += _section(section, drawn)
    parts += ["## What was set", _settings(results)]
    return "\n\n".join(parts) + "\n"


def verdicts(results: Results) -> str:
    """The bars in short, for the terminal."""
    lines = [
        f"{judged.verdict:14} {_amount(judged):>10}  {_needed(judged):>10}  {judged.bar.group}: {judged.bar.text}"
        for judged in judge_all(results)
    ]
    return "\n".join(lines)


def _bars(judged: Iterable[Judgement]) -> str:
    rows = [(one.bar.group, one.bar.text, _amount(one), _needed(one), _aim(one), _verdict(one)) for one in judged]
    return _table(("where", "against", "measured", "bar", "aim", ""), rows)


def _verdict(judged: Judgement) -> str:
    return f"**{judged.verdict}**" if judged.verdict == "does not hold" else judged.verdict


def _amount(judged: Judgement) -> str:
    return "" if judged.measured is None else _with_unit(judged.measured, judged.bar.unit)


def _needed(judged: Judgement) -> str:
    least, most = judged.bar.least, judged.bar.most
    parts = [f"at least {_with_unit(least, judged.bar.unit)}"] if least is not None else []
    parts += [f"at most {_with_unit(most, judged.bar.unit)}"] if most is not None else []
    return ", ".join(parts)


def _aim(judged: Judgement) -> str:
    return "" if judged.bar.aim is None else _with_unit(judged.bar.aim, judged.bar.unit)


def _with_unit(value: float, unit: str) -> str:
    match unit:
        case "share":
            return f"{value * 100:.2f} %"
        case "x":
            return f"{value:.3g}x"
        case _:
            return f"{value:.2f} {unit}"


# --- sections -----------------------------------------------------------------------------------------------


def _section(section: Section, drawn: Sequence[str]) -> list[str]:
    about = section.about
    when = section.run.replace("T", " ").removesuffix("+00:00")
    small = "" if section.size == "full" else " **A small run: it shows that everything works, not how fast.**"
    rounds = f"{section.rounds} round{'s' if section.rounds > 1 else ''}"
    database = f"{about['database']} ({about['settings']})"
    head = f"Measured {when} UTC, {rounds}, {database}, on {about['machine']}.{small}"
    plot = f"{section.workload}-{section.database}.svg"
    parts = [f"### {DATABASES[section.database]}", head, _values(section)]
    if plot in drawn:
        parts.append(f"![{TITLES[section.workload]}, {DATABASES[section.database]}](benchmarks/{plot})")
    if section.failures:
        left_out = "; ".join(f"{_title(key)}: {reason}" for key, reason in sorted(section.failures.items()))
        parts.append(f"Not measured: {left_out}.")
    return parts


def _values(section: Section) -> str:
    match section.workload:
        case "w3":
            return _columns(section, LATENCIES, "{:.2f}")
        case "w4":
            return _columns(section, TRIGGERS, "{:,.0f}")
        case "w5":
            return _streams(section)
        case "w6":
            cell = section.cell("ours", 0)
            found = ((text, cell.median(name)) for name, text in FOOTPRINT)
            return _table(("", "median"), [(text, f"{value:.4g}") for text, value in found if value is not None])
        case _:
            return _rates(section)


def _columns(section: Section, names: Sequence[tuple[str, str]], form: str) -> str:
    rows: list[Sequence[str]] = []
    for cell in section.cells:
        values = (cell.median(name) for name, _ in names)
        texts = ["" if value is None else form.format(value) for value in values]
        rows.append((_title(cell.system), _version(section, cell.system), *texts))
    return _table(("", "version", *(text for _, text in names)), rows)


def _streams(section: Section) -> str:
    head = ("", "streams", "frames a second", *(text for _, text, _ in STREAMS))
    rows: list[Sequence[str]] = []
    for cell in sorted(section.cells, key=lambda cell: cell.at):
        values = ((cell.median(name), form) for name, _, form in STREAMS)
        texts = ["" if value is None else form.format(value) for value, form in values]
        rows.append((_title(cell.system), f"{cell.at:,}", _rate(section, cell.system, cell.at), *texts))
    return _table(head, rows)


def _rates(section: Section) -> str:
    levels = sorted({cell.at for cell in section.cells if cell.system != "commits"})
    systems = list(dict.fromkeys(cell.system for cell in section.cells if cell.system != "commits"))
    rows = [
        (_title(key), _version(section, key), *(_rate(section, key, at) for at in levels))
        for key in sorted(systems, key=lambda key: -(section.median(key, levels[-1], "rate") or 0))
    ]
    table = _table(("", "version", *(f"at {at}" for at in levels)), rows)
    commits = section.median("commits", 1, "rate")
    return (
        table if commits is None else f"{table}\n\nThe database alone commits {commits:,.0f} rows a second, one by one."
    )


def _rate(section: Section, key: str, at: int) -> str:
    value, floor = section.median(key, at, "rate"), section.median("floor", at, "rate")
    if value is None:
        return ""
    share = f" ({value / floor:.2f})" if floor and key != "floor" else ""
    return f"{value:,.0f}{share}"


def _settings(results: Results) -> str:
    measured = {cell.system for section in results.values() for cell in section.cells}
    lines = {system.title: system.settings for system in SYSTEMS if system.settings and system.key in measured}
    return "\n".join(f"- {title}: {text}" for title, text in lines.items())


def _title(key: str) -> str:
    return next((system.title for system in SYSTEMS if system.key == key), key)


def _version(section: Section, key: str) -> str:
    return section.versions.get("ours" if key.startswith("ours") else key, "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
