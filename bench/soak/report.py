"""Lines for the terminal, and `soak.md` with a plot for each database. Pure, but for the files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import plots
from bench.soak.probes import Values
from bench.soak.run import Outcome
from bench.soak.verdict import Judgement

PAGE = "soak.md"
TITLES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}

INTRODUCTION = """\
# The soak

`make soak MINUTES=15` keeps a mixed load with faults on SQLite and on PostgreSQL, both at the same time, prints a line
every ten seconds, and says in the end whether anything grows: it ends with 0 when nothing grows and nothing is wrong,
else with 1. `DB=sqlite` takes one database, `EVERY=60` sets the seconds between two lines, `JSON=1` makes each line a
JSON object, and `OUT=docs` writes this page.

The load: short and long runs, with steps, larger results, log lines and progress; plain functions in threads; keys;
priorities, delays, idempotency keys, `if_pending`; runs that fail and are resumed; cancels and retriggers; runs that
trigger others. Runs and events are deleted 45 seconds after they ended, leases are 3 seconds.

The faults, one every few seconds: a worker is killed with SIGKILL and started again; half of the connections are
terminated by the server; a worker is stopped for longer than its lease and then goes on. The first worker is never
killed, so that its memory can tell.

When the load ends, every run must end too; no counter of a key may have drifted, no event may be missing in its run,
and no worker may have died by itself.

A line **grows** when its slope an hour is over what is allowed for it, and its last third lies above nine tenths of
its first third. The slope is the median of the slopes between all pairs of looks, so a saw-tooth has none. Less than
five minutes after the warm-up are too short to tell. What is allowed is the most of three: a share of the line's
median an hour (a quarter for the memory of a worker, a half for rows); a least where the line is low (ten runs a
second write some 140 MiB an hour, so ten are no sign that something is not deleted); and, over the judged time, the
share by which the line trembles when nothing grows (a twentieth for memory, a quarter for rows, once its median for
milliseconds). What is never deleted grows by about its whole median in the judged time. The numbers are in
[bench/soak/verdict.py](../bench/soak/verdict.py). The grey lines are where the judging begins."""

FOUND = """\
## What was found

- The machine had much other work while this was measured: the milliseconds went with that.
- A listening connection that the server ended at the wrong moment ended the listening itself, by an error of the driver
  that nobody caught: the process only polled from then on. It goes on now, and it connects again at once; before, it
  noticed after up to half a minute.
- In asyncio's own event loop the resident memory of a worker on PostgreSQL grew by about 25 MiB an hour for a quarter
  of an hour. Nothing was kept: the number of blocks that Python held stayed the same over thousands of runs, and the
  C library, told to trim its heap, gave the memory back. The likely reason are asyncio's read buffers of 256 KiB,
  each cut down to the few bytes that came. In uvloop, which `durably worker` takes where it is installed, the memory
  stayed as it was; this page was measured with it."""

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("memory, MiB", (("worker_memory", "worker"), ("client_memory", "client"), ("server_memory", "server"))),
    ("connections; files of the worker", (("connections", "connections"), ("worker_files", "files"))),
    ("runs that ended, a second", (("rate", ""),)),
    ("rows", (("rows_runs", "runs"), ("rows_steps", "steps"), ("rows_logs", "logs"))),
    ("rows of events", (("rows_events", ""),)),
    ("tables and write-ahead log, MiB", (("bytes", "tables"), ("wal", "log"))),
    ("dead rows", (("dead", ""),)),
    ("free pages in the file, MiB", (("free", ""),)),
    ("claim, median, ms", (("claim", ""),)),
    ("events: median lateness, ms", (("lag", ""),)),
    ("runs that have not ended", (("backlog", ""),)),
)

_SHORT = (
    ("rate", "{:.1f} ends/s"),
    ("claim", "claim {:.1f} ms"),
    ("lag", "events {:.0f} ms late"),
    ("worker_memory", "worker {:.1f} MiB"),
    ("client_memory", "client {:.1f} MiB"),
    ("server_memory", "server {:.1f} MiB"),
    ("connections", "{:.0f} connections"),
    ("worker_files", "{:.0f} files"),
    ("rows_runs", "{:.0f} runs"),
    ("rows_steps", "{:.0f} steps"),
    ("rows_logs", "{:.0f} logs"),
    ("rows_events", "{:.0f} events"),
    ("rows_concurrency_keys", "{:.0f} keys"),
    ("bytes", "{:.1f} MiB"),
    ("dead", "{:.0f} dead"),
    ("free", "{:.1f} MiB free"),
    ("wal", "log {:.1f} MiB"),
    ("backlog", "{:.0f} open"),
)


def line(database: str, minutes: float, values: Values, *, as_json: bool) -> str:
    """What was seen at one look."""
    if as_json:
        rounded = {name: round(value, 3) for name, value in values.items()}
        return json.dumps({"database": database, "minutes": round(minutes, 3)} | rounded)
    parts = [form.format(values[name]) for name, form in _SHORT if name in values]
    return f"{database:8} {minutes:5.1f} min  {', '.join(parts)}"


def verdict(outcome: Outcome, *, as_json: bool) -> str:
    """The end: counts, lines that grow, what is wrong."""
    judged = outcome.judge()
    if as_json:
        lines = [asdict(one) | {"series": one.series.key} for one in judged]
        head = {"database": outcome.database, "ok": is_good(outcome), "counts": outcome.counts}
        return json.dumps(head | {"findings": outcome.findings, "lines": lines})
    rows = [f"{one.verdict:10} {one.series.title}{_numbers(one)}" for one in judged]
    counts = ", ".join(f"{count:,} {name}" for name, count in outcome.counts.items())
    wrong = [f"WRONG: {finding}" for finding in outcome.findings] or ["nothing is wrong"]
    return "\n".join([f"{TITLES[outcome.database]}: {counts}", *rows, *wrong])


def _numbers(judged: Judgement) -> str:
    if judged.verdict == "too short":
        return ": it takes five minutes after the warm-up"
    unit = f" {judged.series.unit}" if judged.series.unit else ""
    return f": {judged.median:.1f}{unit}, {judged.slope:+.1f} an hour, {judged.allowed:.1f} allowed"


def is_good(outcome: Outcome) -> bool:
    """Whether nothing grows and nothing is wrong."""
    return not outcome.findings and all(judged.verdict != "growing" for judged in outcome.judge())


# --- the page -----------------------------------------------------------------------------------------------


def save(folder: Path, outcome: Outcome) -> None:
    """Write the data and the plot of this soak, and the page of all that were written there."""
    target = folder / "benchmarks"
    target.mkdir(parents=True, exist_ok=True)
    (target / f"soak-{outcome.database}.json").write_text(json.dumps(asdict(outcome)) + "\n", encoding="utf-8")
    is_drawn = plots.draw_lines(target / _plot(outcome), _panels(outcome), mark=outcome.warm_up)
    files = [target / f"soak-{database}.json" for database in TITLES]
    known = [_load(file) for file in files if file.exists()]
    (folder / PAGE).write_text(page(known, is_drawn=is_drawn), encoding="utf-8")


def _load(file: Path) -> Outcome:
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    points: dict[str, list[list[float]]] = data.pop("points")
    return Outcome(**data, points={key: [(at, value) for at, value in line] for key, line in points.items()})


def _plot(outcome: Outcome) -> str:
    return f"soak-{outcome.database}.svg"


def _panels(outcome: Outcome) -> list[plots.Panel]:
    found: list[plots.Panel] = []
    for title, lines in PANELS:
        present = {name: outcome.points[key] for key, name in lines if outcome.points.get(key)}
        if present:
            found.append(plots.Panel(title, present))
    return found


def page(known: Iterable[Outcome], *, is_drawn: bool) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for outcome in known:
        about = outcome.about
        when = outcome.run.replace("T", " ").removesuffix("+00:00")
        counts = ", ".join(f"{count:,} {name}" for name, count in outcome.counts.items())
        parts += [
            f"## {TITLES[outcome.database]}",
            f"{when} UTC, {_span(outcome)}; {about['database']} ({about['settings']}), on {about['machine']}.",
            f"{counts}. {_wrong(outcome.findings)}",
        ]
        if is_drawn:
            parts.append(f"![The soak on {TITLES[outcome.database]}](benchmarks/{_plot(outcome)})")
        parts.append(_table(outcome.judge()))
    return "\n\n".join([*parts, FOUND]) + "\n"


def _span(outcome: Outcome) -> str:
    return f"{outcome.minutes:g} minutes, of which the first {outcome.warm_up:g} are not judged"


def _wrong(findings: Sequence[str]) -> str:
    return "Nothing was wrong at the end." if not findings else f"**Wrong: {'; '.join(findings)}.**"


def _table(judged: Iterable[Judgement]) -> str:
    rows: list[Sequence[str]] = [("", "median", "slope an hour", "allowed", ""), ["---"] * 5]
    for one in judged:
        unit = f" {one.series.unit}" if one.series.unit else ""
        verdict = f"**{one.verdict}**" if one.verdict == "growing" else one.verdict
        rows.append(
            (one.series.title, f"{one.median:,.1f}{unit}", f"{one.slope:+,.1f}", f"{one.allowed:,.1f}", verdict)
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
