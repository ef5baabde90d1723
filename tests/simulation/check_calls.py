"""What callers and subscribers were told: G1, G2 and G9; and what is left when everything has ended."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from itertools import pairwise
from typing import Any

from tests.simulation.check_rows import Ledger
from tests.simulation.clients import plan_tag
from tests.simulation.history import History


class CallChecker:
    """Compares what calls returned with the rows."""

    def __init__(self, history: History, ledger: Ledger) -> None:
        self.findings: list[str] = []
        self._history = history
        self._ledger = ledger
        self._check_triggers()
        self._check_options()
        self._check_idempotency()
        self._check_acts()
        self._check_children()
        self._check_visits()
        self._check_subscriber()
        self._check_rest()

    def _find(self, guarantee: str, text: str) -> None:
        self.findings.append(f"{guarantee}: {text}")

    def _check_triggers(self) -> None:
        inserts: dict[str, list[int]] = defaultdict(list)
        known = {run: txn for txn, run, _ in self._ledger.inserted}
        again = {call.run for call in self._history.calls if call.kind == "retrigger" and call.error is None}
        for txn, run, row in self._ledger.inserted:
            if run not in again and row["idempotency_key"] is None:
                inserts[plan_tag(row["input"])].append(txn)
        # a retrigger, also one whose author died before it was told, makes another run of the same input
        most = 1 + sum(kind == "retrigger" for kind in self._history.begun)
        for call in self._history.calls:
            if call.kind not in {"trigger", "many"} or call.error is not None:
                continue
            if call.run is not None and known.get(call.run, call.txn + 1) > call.txn:
                self._find("G1", f"trigger returned {call.run}, which was not stored by then")
            tags = call.detail.get("tags") or [call.detail["tag"]]
            plain = "if_pending" not in call.detail and "idempotency_key" not in call.detail
            for tag in tags if plain else ():
                if not 1 <= len(inserts[tag]) <= most:
                    self._find("G1", f"one trigger of {tag} made {len(inserts[tag])} runs")

    def _check_options(self) -> None:
        """Runs have the keys and the start that were asked for: rules about keys see none of a lost one."""
        inserts = {run: (txn, row) for txn, run, row in self._ledger.inserted}
        calls, visits = self._history.calls, self._history.visits
        told = [(one.run, one.detail) for one in calls if one.kind == "trigger" and one.error is None]
        deeds = [deed for visit in visits for deed in visit.deeds if deed.kind == "trigger"]
        told += [(deed.run, deed.options) for deed in deeds]  # whose transaction began some time before its commit
        for run, options in told:
            if run in inserts:
                self._check_row(run, *inserts[run], options)
        keys: dict[str, str | None] = {}
        for call in calls:
            keys |= zip(call.detail.get("tags", ()), call.detail.get("keys", ()), strict=True)
        for _, run, row in self._ledger.inserted:
            tag = plan_tag(row["input"])
            if tag.startswith("tag-") and row["concurrency_key"] != keys.setdefault(tag, row["concurrency_key"]):
                self._find("G7", f"{run} of {tag} has the key {row['concurrency_key']!r} instead of {keys[tag]!r}")

    def _check_row(self, run: str, txn: int, row: dict[str, Any], options: dict[str, Any]) -> None:
        for name, guarantee in (("idempotency_key", "G2"), ("concurrency_key", "G7")):
            if row[name] != options.get(name):
                self._find(guarantee, f"{run} has the {name} {row[name]!r} instead of {options.get(name)!r}")
        delay = options.get("delay")
        if options.get("disposition") == "created" and delay is not None:
            waits = (row["available_at"] or 0) - self._history.transactions[txn].now_us
            if waits != delay / timedelta(microseconds=1):
                self._find("G1", f"{run} starts after {waits} us instead of {delay}")

    def _check_idempotency(self) -> None:
        lives: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for txn, run, row in self._ledger.inserted:
            if row["idempotency_key"] is not None:
                lives[row["job"], row["idempotency_key"]].append((txn, run))
        for (_, key), runs in lives.items():
            for (_, older), (txn, newer) in pairwise(runs):
                if self._ledger.deleted.get(older, txn + 1) > txn:
                    self._find("G2", f"{key} has two runs: {older} and {newer}")
        inputs = {run: plan_tag(row["input"]) for _, run, row in self._ledger.inserted}
        for call in self._history.calls:
            is_keyed = "idempotency_key" in call.detail and call.error is None and call.run is not None
            if is_keyed and inputs.get(call.run or "") != call.detail["tag"]:
                self._find("G2", f"trigger of {call.detail['tag']} returned a run of {inputs.get(call.run or '')}")

    def _check_acts(self) -> None:
        """What a call says that it did is so in the rows when it returns."""
        reached = {"cancel": "cancelled", "resume": "pending", "delete": "deleted"}
        for call in self._history.calls:
            if call.kind in reached and call.error is None and call.run is not None:
                states = [state for txn, state, _ in self._ledger.moments[call.run] if txn <= call.txn]
                if reached[call.kind] not in states:
                    self._find("G10", f"{call.kind} of {call.run} returned, and it was never {reached[call.kind]}")

    def _check_children(self) -> None:
        made: dict[str, set[str]] = defaultdict(set)
        for _, run, row in self._ledger.inserted:
            if row["job"] == "leaf":
                made[plan_tag(row["input"])].add(run)
        for tag, runs in made.items():
            if len(runs) > 1 and not runs & set(self._ledger.deleted):
                self._find("G2", f"the child {tag} was triggered as {sorted(runs)}")

    def _check_visits(self) -> None:
        """What clients did in a transaction of their own is there if and only if it was committed, all of it."""
        inserts = {run: (txn, plan_tag(row["input"])) for txn, run, row in self._ledger.inserted}
        for visit in self._history.visits:
            made = [deed for deed in visit.deeds if deed.disposition == "created"]
            found = {inserts[deed.run][0] for deed in made if deed.run in inserts}
            missing = [deed.run for deed in made if deed.run not in inserts]
            is_split = len(found) > 1 or (found and missing)
            if is_split or (found and visit.outcome in {"rolled back", "open"}):
                self._find("G1", f"{visit} is {visit.outcome}, and stored in {found} without {missing}")
            if visit.outcome != "committed":
                continue
            if missing:
                self._find("G1", f"{visit} is committed without {missing}")
            for deed in visit.deeds:
                states = {state for _, state, _ in self._ledger.moments[deed.run]}
                if deed.kind == "cancel" and "cancelled" not in states:
                    self._find("G10", f"{visit} is committed, and {deed.run} was never cancelled")
                if deed.tag and inserts.get(deed.run, (0, deed.tag))[1] != deed.tag:
                    self._find("G2", f"{visit}: {deed.run} has the input {inserts[deed.run][1]}")

    def _check_subscriber(self) -> None:
        """Every event is heard, and those of a run in order, whatever is heard again; but not what was purged."""
        heard: dict[str, int] = defaultdict(int)
        purged = self._ledger.purged
        for one in self._history.heard:
            run, seq, txn = one.run, one.seq, one.txn
            if any(purged.get((run, missed), txn + 1) > txn for missed in range(heard[run] + 1, seq)):
                self._find("G9", f"the subscriber heard {seq} of {run} after {heard[run]}")
            if self._ledger.events.get((run, seq)) != (one.id, one.type, one.step):
                self._find("G9", f"the subscriber heard {one}, stored was {self._ledger.events.get((run, seq))}")
            heard[run] = max(heard[run], seq)
        rows = self._history.raw.execute("SELECT run_id, max(seq) FROM durably_events GROUP BY run_id").fetchall()
        for run, last in rows:
            if heard[run] < last:
                self._find("G9", f"the subscriber heard {heard[run]} of {last} events of {run}")

    def _check_rest(self) -> None:
        raw = self._history.raw
        drift = """SELECT k.key FROM durably_concurrency_keys k WHERE k.active <>
                   (SELECT count(*) FROM durably_runs r WHERE r.slot AND r.concurrency_key = k.key)"""
        for (key,) in raw.execute(drift):
            self._find("G7", f"the slots of {key!r} are miscounted")
        for table in ("steps", "logs"):
            orphans = f"SELECT DISTINCT run_id FROM durably_{table} WHERE run_id NOT IN (SELECT id FROM durably_runs)"
            for (run,) in raw.execute(orphans):
                self._find("G12", f"{table} of {run} are left, and the run is not")
