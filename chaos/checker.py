"""What must hold of a record: G1 to G13 of the rows, of the code, of the events. Pure: values in, findings out.

What queries find wrong, and what a scenario saw itself, comes with the record.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chaos.audit import Change
from chaos.record import Record, gaps, generations_of
from chaos.witness import Deed
from tests.support.row_rules import ENDED, TOLD, RowRules, is_move

CANCEL_SECONDS = 1.0
"""Within this the code of a cancelled run is interrupted."""
CLOCK_MICROSECONDS = 1000
"""How exactly SQLite tells the time."""


def check(record: Record) -> list[str]:
    """Return what does not hold, each finding once."""
    ledger = Ledger(record)
    findings = [*record.troubles, *ledger.findings]
    findings += _check_code(record, ledger)
    findings += _check_ends(record, ledger)
    findings += _check_recoveries(record)
    findings += _check_events(record, ledger)
    findings += _check_callers(record, ledger)
    return list(dict.fromkeys(findings))


@dataclass(slots=True)
class Line:
    """The runs of a concurrency key: who has a slot, who waits for one, and since when in vain."""

    slots: set[str] = field(default_factory=set[str])
    waiting: set[str] = field(default_factory=set[str])
    idle_since: float | None = None


class Ledger:
    """The rows as they were after each change, and what was wrong with them."""

    def __init__(self, record: Record) -> None:
        self.findings: list[str] = []
        self.stored: dict[tuple[str, str], tuple[int, str]] = {}
        """Of each completed step the generation that stored it, and its output as it is stored."""
        self.ends: dict[tuple[str, int], dict[str, Any]] = {}
        """The row as each generation ended."""
        self.told: dict[str, Counter[str]] = defaultdict(Counter)
        """The events that the changes of each run ask for."""
        self.takeovers: list[tuple[str, int, float]] = []
        """Run, old generation and expiry of each lease that ran out."""
        self._record = record
        self.rows: dict[str, dict[str, Any]] = {}
        self._lines: dict[str, Line] = defaultdict(Line)
        self._ended_in: dict[str, str | None] = {}
        self._rules = RowRules()
        self._leased: Counter[str] = Counter()
        for change in record.changes:
            if change.kind == "run":
                self._run(change)
            else:
                self._step(change)
        for key in self._lines:
            self._check_line(key, float("inf"))

    def _find(self, guarantee: str, text: str) -> None:
        self.findings.append(f"{guarantee}: {text}")

    # --- runs -----------------------------------------------------------------------------------------------

    def _run(self, change: Change) -> None:
        run, old, new = change.run, change.old, change.new
        if new is None:
            self._find("G8", f"{run} was deleted, and nobody asked for it")
            return
        if old is None:
            self.told[run]["run:trigger"] += 1
        else:
            self._change(change, old, new)
        self.rows[run] = new
        if new["concurrency_key"] is not None:
            self._line_up(change, new)
        if new["status"] == "leased" and (old is None or old["status"] != "leased"):
            self._occupy(new)
        if old is not None and old["status"] == "leased" and new["status"] != "leased":
            self._leased[old["concurrency_key"]] -= 1

    def _line_up(self, change: Change, new: dict[str, Any]) -> None:
        """Take note of who waits for a key, and who has a slot of it."""
        key, run = new["concurrency_key"], change.run
        self._check_line(key, change.at)
        line = self._lines[key]
        (line.slots.add if new["slot"] else line.slots.discard)(run)
        (line.waiting.add if new["hold"] == "key" else line.waiting.discard)(run)
        if not line.waiting or len(line.slots) >= self._limit(key):
            line.idle_since = None
        elif line.idle_since is None:
            line.idle_since = change.at

    def _check_line(self, key: str, at: float) -> None:
        """Within a transaction a slot may be free for a moment; its statements may have to wait for the network."""
        line, bound = self._lines[key], self._record.lease + self._record.slack
        if line.idle_since is not None and at - line.idle_since > bound:
            self._find("G7", f"{sorted(line.waiting)} waited beside a free slot of {key!r}")

    def _limit(self, key: str) -> int:
        return self._record.limits.get(key, 1)

    def _occupy(self, new: dict[str, Any]) -> None:
        key = new["concurrency_key"]
        self._leased[key] += 1
        if key is not None and self._leased[key] > self._limit(key):
            self._find("G7", f"{self._leased[key]} runs of {key!r} were leased at once")
        if key is not None and not new["slot"]:
            self._find("G7", f"a run was leased without a slot of {key!r}")

    def _change(self, change: Change, old: dict[str, Any], new: dict[str, Any]) -> None:
        run, pair = change.run, (old["status"], new["status"])
        for finding in self._rules.change(run, old, new, now_us=change.at * 1e6 + CLOCK_MICROSECONDS):
            self._find(*finding)
        if not is_move(old, new) or pair not in TOLD:
            return
        asked = {"run:resume": self._record.resumed, "run:cancel": self._record.to_cancel}.get(TOLD[pair])
        if asked is not None and run not in asked:
            self._find("G8", f"{run} went from {pair[0]} to {pair[1]}, and nobody asked for it")
        self.told[run][TOLD[pair]] += 1
        if pair == ("leased", "leased"):
            self.takeovers.append((run, old["generation"], old["lease_expires_at"] / 1e6))
        elif pair[0] == "leased":
            self.ends[run, old["generation"]] = new
            self._ended_in[run] = change.txn

    # --- steps ----------------------------------------------------------------------------------------------

    def _step(self, change: Change) -> None:
        run, old, new = change.run, change.old, change.new
        if new is None:
            self._find("G12", f"step {(old or {}).get('name')} of {run} is gone")
            return
        name = f"step {new['name']} of {run}@{new['generation']}"
        for finding in self._rules.step(run, old, new):
            self._find(*finding)
        row = self.rows.get(run)
        generation = 0 if row is None else row["generation"]
        is_held = row is not None and (row["status"] == "leased" or self._is_same(change))
        if not is_held or generation != new["generation"]:
            self._find("G4", f"{name} was stored when the run was {row and row['status']}@{generation}")
        if new["status"] == "completed":
            self.stored[run, new["name"]] = (new["generation"], new["output"])

    def _is_same(self, change: Change) -> bool:
        """Whether the run was ended in the same transaction, which may note that first."""
        return change.txn is not None and self._ended_in.get(change.run) == change.txn


# --- what the code did --------------------------------------------------------------------------------------


def _check_code(record: Record, ledger: Ledger) -> list[str]:
    found = [
        f"G3: {run}@{generation} was executed by {len(pids)} processes"
        for (run, generation), pids in generations_of(record.deeds).items()
        if len(pids) > 1
    ]
    newest: dict[str, int] = {}
    for deed in record.deeds:
        if deed.kind == "start" and deed.generation < newest.get(deed.run, 0):
            found.append(f"G3: {_place(deed)} began beside generation {newest[deed.run]}")
        newest[deed.run] = max(newest.get(deed.run, 0), deed.generation)
        found += _check_value(deed, ledger)
    return found + _check_executions(record, ledger) + _check_cancels(record)


def _check_executions(record: Record, ledger: Ledger) -> list[str]:
    """A stored step was executed once by the generation that stored it, and never by a later one."""
    found: list[str] = []
    starts = Counter((deed.run, deed.step, deed.generation) for deed in record.deeds if deed.kind == "start")
    for (run, step), (generation, _) in ledger.stored.items():
        if starts[run, step, generation] != 1:
            found.append(f"G5: {step} of {run}@{generation} was executed {starts[run, step, generation]} times")
    for run, step, generation in list(starts):
        stored = ledger.stored.get((run, step))
        if stored is not None and generation > stored[0]:
            found.append(f"G5: {step} of {run} was executed by generation {generation} after {stored[0]} had stored it")
    return found


def _check_value(deed: Deed, ledger: Ledger) -> list[str]:
    if deed.kind not in {"done", "got"}:
        return []
    stored = ledger.stored.get((deed.run, deed.step))
    if deed.kind == "got" and stored is None:
        return [f"G5: {_place(deed)} returned, and was never stored"]
    is_mine = stored is not None and (deed.kind == "got" or deed.generation == stored[0])
    if stored is not None and is_mine and stored[1] != f'"{deed.value}"':
        return [f"G11: {_place(deed)} made or returned {deed.value}, stored is {stored[1]}"]
    return []


def _check_cancels(record: Record) -> list[str]:
    late = CANCEL_SECONDS + record.slack
    return [
        f"G10: {_place(deed)} began {deed.at - record.cancelled[deed.run]:.2f} s after the cancel"
        for deed in record.deeds
        if deed.kind == "start" and deed.run in record.cancelled and deed.at > record.cancelled[deed.run] + late
    ]


def _check_ends(record: Record, ledger: Ledger) -> list[str]:
    found: list[str] = []
    deeds: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for deed in record.deeds:
        deeds[deed.run, deed.generation][deed.kind] = deed.value
    for (run, generation), row in ledger.ends.items():
        found += [f"{finding[0]}: {run}@{generation} {finding[1]}" for finding in _end(row, deeds[run, generation])]
    return found + _check_takeovers(record, ledger)


def _end(row: dict[str, Any], did: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with the end of a generation, whose code did this."""
    error: dict[str, Any] = json.loads(row["error"] or "{}")
    match row["status"]:
        case "failed" if error.get("type") == "WorkerCrashed":
            yield "G13", "was failed as crashed"
        case "failed" if "raise" not in did:
            yield "G12", f"failed, and its code raised nothing: {str(error)[:200]}"
        case "failed" if did["raise"] != error.get("type"):
            yield "G12", f"raised {did['raise']}, and failed with {str(error)[:200]}"
        case "completed" if "end" not in did:
            yield "G12", "completed, and its code did not"
        case "completed" if json.loads(did["end"]) != json.loads(row["output"] or "null"):
            yield "G12", f"returned {did['end']}, stored is {row['output']}"
        case "pending" if "end" in did:
            yield "G12", "was handed back after its code had succeeded"
        case _:
            return


def _check_takeovers(record: Record, ledger: Ledger) -> list[str]:
    """A lease that ran out has a reason."""
    if record.may_lose_leases:
        return []
    found: list[str] = []
    pids = generations_of(record.deeds)
    for run, generation, expiry in ledger.takeovers:
        holders = pids.get((run, generation), set[int]())
        if not any(
            (fault.pid is None or not holders or fault.pid in holders)
            and fault.at <= expiry
            and expiry - 2 * record.lease <= fault.over
            for fault in record.faults
        ):
            found.append(f"G6: {run}@{generation} was lost by a worker that was well")
    return found


def _check_recoveries(record: Record) -> list[str]:
    """Whoever lived went on in time; and that was looked at."""
    bound = record.lease + record.slack
    unseen = [
        f"G6: nobody has looked whether all recovered from {fault.what}"
        for fault in record.faults
        if fault.is_measured and fault.pid is None and fault.recovery is None
    ]
    return unseen + [
        f"G6: recovery from {fault.what} took {fault.recovery:.1f} s, {bound:.1f} were allowed"
        for fault in record.faults
        if fault.recovery is not None and fault.recovery > bound
    ]


def _place(deed: Deed) -> str:
    return f"{deed.step} of {deed.run}@{deed.generation}"


# --- events and callers -------------------------------------------------------------------------------------


def _check_events(record: Record, ledger: Ledger) -> list[str]:
    found: list[str] = []
    numbers: dict[str, list[int]] = defaultdict(list)
    for run, number in record.stored_events:
        numbers[run].append(number)
    found += [f"G9: the events of {run} have a gap, or are out of order" for run, seqs in numbers.items() if gaps(seqs)]
    types = {*TOLD.values(), "run:trigger"}
    for run in record.runs:
        told = Counter(
            {type_: count for type_, count in record.events.get(run, Counter[str]()).items() if type_ in types}
        )
        if told != +ledger.told[run]:
            found.append(f"G9: {run}: {dict(+ledger.told[run])} happened, {dict(told)} was told")
    for run, ended in record.runs.items():
        stored = record.events.get(run, Counter())["step:complete"]
        if not ended.steps == stored == sum(1 for key in ledger.stored if key[0] == run):
            found.append(f"G9: {run} has {ended.steps} steps and {stored} events of them")
    return found + _check_heard(record)


def _check_heard(record: Record) -> list[str]:
    heard, stored = Counter(record.heard), set(record.stored_events)
    found = [f"G9: a subscriber heard {event} {count} times" for event, count in heard.items() if count > 1]
    found += [f"G9: a subscriber missed {event}" for event in sorted(stored - set(heard))]
    found += [f"G9: a subscriber heard {event}, which is not stored" for event in sorted(set(heard) - stored)]
    last: dict[str, int] = {}
    for run, number in record.heard:
        if number <= last.get(run, 0):
            found.append(f"G9: a subscriber heard event {number} of {run} after {last[run]}")
        last[run] = number
    return found


def _check_callers(record: Record, ledger: Ledger) -> list[str]:
    found = [
        f"G1: the trigger of {key!r} returned run {run}, and there is no such run"
        for key, run in record.acknowledged.items()
        if run not in record.runs
    ]
    keys = {run: key for key, run in record.acknowledged.items()}
    for guarantee, name, asked in (("G2", "idempotency_key", keys), ("G7", "concurrency_key", record.keys)):
        stored = {run: ledger.rows[run][name] for run in asked if run in ledger.rows}
        found += [
            f"{guarantee}: {run} has the {name} {key!r} instead of {asked[run]!r}"
            for run, key in stored.items()
            if key != asked[run]
        ]
    twins = Counter((row["job"], row["idempotency_key"]) for row in ledger.rows.values())
    found += [f"G2: {key!r} of {job} has {count} runs" for (job, key), count in twins.items() if key and count > 1]
    doubled = [run for run, count in Counter(record.acknowledged.values()).items() if count > 1]
    found += [f"G2: run {run} was the answer to two triggers of different keys" for run in doubled]
    found += [
        f"end: {run.id} of {run.job} is still {run.status}" for run in record.runs.values() if run.status not in ENDED
    ]
    return found
