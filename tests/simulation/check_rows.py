"""What the audit table must show: G3, G4, G5, G7, G8, G9, G12 and G13, transaction by transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from tests.simulation.history import Change, History, Transaction
from tests.simulation.trouble import LEASE, MAX_CRASHES, Profile
from tests.support.row_rules import ENDED, TOLD, RowRules, is_move

_HELD_EVENTS = {"step:start", "step:complete", "step:fail", "log:write", "run:progress"}
"""Events that only who holds the lease may write."""
_LEASE_US = round(LEASE * 1e6)
_STATE_EVENTS = {*TOLD.values(), "run:trigger", "run:delete", "run:replace"}


class Ledger:
    """The rows as they were after each transaction, and what was wrong with them."""

    _txn, _number = Transaction(0.0, "", "", 0), 0

    def __init__(self, history: History, profile: Profile) -> None:
        self.findings: list[str] = []
        self.holders: dict[tuple[str, int], str] = {}
        """The process that claimed this generation of a run."""
        self.moments: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        """Of each run: from which transaction on it had which status and generation."""
        self.stored: dict[tuple[str, str], tuple[int, str]] = {}
        """Of each completed step: its transaction and its output."""
        self.endings: dict[tuple[str, int], tuple[int, dict[str, Any]]] = {}
        """The row as each generation was ended by its holder, and in which transaction."""
        self.takeovers: list[tuple[int, str, int, int]] = []
        """Transaction, run, and old generation whose lease ran out, and when that was in microseconds."""
        self.renewals: dict[tuple[str, int], int] = {}
        """The last transaction that said until when this generation of a run is leased."""
        self.claimable: list[tuple[str, int, int | None]] = []
        """Runs that could be claimed from one transaction on to another one."""
        self.dues: list[tuple[str, int, int, int]] = []
        """Runs that waited for their start: that time in microseconds, and from which transaction on to which one."""
        self.chores: list[tuple[str, int, int | None]] = []
        """What some worker had to do for a client's own transaction, from one transaction on to another one."""
        self.events: dict[tuple[str, int], tuple[int, str, str | None]] = {}
        """Id, type and step of each event, by its run and seq."""
        self.purged: dict[tuple[str, int], int] = {}
        """Run and seq of each event that was purged, and the transaction."""
        self.leases: list[tuple[str, str, int, int, int | None]] = []
        """Process, run, generation, and the transactions that began and ended the lease."""
        self.inserted: list[tuple[int, str, dict[str, Any]]] = []
        self.deleted: dict[str, int] = {}
        self.counts: Counter[str] = Counter()  # runs that were purged, and steps that runs have from others
        self._history, self._profile = history, profile
        self._rows: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        # of a run that was deleted, those that it had then
        self._seqs: Counter[str] = Counter()
        self._limits: dict[str, int] = defaultdict(lambda: 1)
        self._rules = RowRules()
        self._open_claims: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._begun: Counter[tuple[str, str]] = Counter()
        self._open_chores: dict[str, int] = {}
        self._open_leases: dict[str, tuple[str, int, int]] = {}
        self._go_through(history.changes())

    def find(self, guarantee: str, text: str) -> None:
        """Note that something is wrong."""
        self.findings.append(f"{guarantee}: {text} (in #{self._number} {self._txn.names} of {self._txn.author})")

    def state_after(self, run: str, txn: int) -> tuple[str, int]:
        """Status and generation of a run after a transaction; those before its deletion, when it is gone."""
        found = ("missing", 0)
        for at, status, generation in self.moments[run]:
            if at > txn:
                break
            if status != "deleted":
                found = (status, generation)
        return found

    def _go_through(self, every: list[Change]) -> None:
        for number, changes in groupby(every, key=lambda change: change.txn):
            self._transaction(number, list(changes))
        for run, begin in self._open_claims.items():
            self.claimable.append((run, begin, None))
        for run, begin in self._open_chores.items():
            self.chores.append((run, begin, None))
        for run, (process, generation, begin) in self._open_leases.items():
            self.leases.append((process, run, generation, begin, None))

    # --- one transaction ------------------------------------------------------------------------------------

    def _transaction(self, number: int, changes: list[Change]) -> None:
        self._number, self._txn = number, self._history.transactions[number]
        before = self._slots()
        self._expected: dict[str, Counter[str]] = defaultdict(Counter)
        self._told: dict[str, Counter[str]] = defaultdict(Counter)
        self._admitted: list[str] = []
        self._dropped: list[tuple[str, dict[str, Any]]] = []
        self._copied: list[str] = []
        if "audit_keys" in self._txn.names:
            self.find("G7", "the slots of a key were miscounted")
        kinds: dict[str, Callable[[Change], None]] = {
            "run": self._run,
            "step": self._step,
            "event": self._event,
            "gone": self._gone,
            "lease": self._check_length,
            "limit": self._limit,
        }
        for change in changes:
            kinds[change.kind](change)
        self._check_told()
        self._check_keys(before)
        for run, step in self._dropped:
            if run not in self._rows:
                continue
            self._steps[run].pop(step["name"], None)
            if self._rows[run]["status"] != "completed":
                self.find("G12", f"step {step['name']} of {run} is gone, and the run is not")
        for run in self._copied:
            self._check_copies(run)

    def _check_told(self) -> None:
        for run in {**self._expected, **self._told}:
            happened, told = self._expected[run], self._told[run]
            # a step that failed and ran again is one row
            happened["step:fail"] = max(happened["step:fail"], told["step:fail"])
            if +happened != +told:
                self.find("G9", f"{run}: {dict(+happened)} happened, {dict(+told)} was told")

    def _slots(self) -> Counter[str]:
        return Counter(row["concurrency_key"] for row in self._rows.values() if row["slot"])

    def _check_keys(self, before: Counter[str]) -> None:
        slots = self._slots()
        for key, count in slots.items():
            if count > max(self._limits[key], before[key]):
                self.find("G7", f"{count} runs of {key!r} have slots, {self._limits[key]} may")
        waiting: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for run, row in self._rows.items():
            if row["hold"] == "key":
                waiting[row["concurrency_key"]].append((row["rank"], run))
            if row["status"] == "leased" and row["concurrency_key"] and not row["slot"]:
                self.find("G7", f"{run} is leased without a slot of {row['concurrency_key']!r}")
        for key, runs in waiting.items():
            if slots[key] < self._limits[key]:
                self.find("G7", f"{min(runs)[1]} waits beside a free slot of {key!r}")
        for run in self._admitted:
            mine = self._rows[run]
            if any(other < (mine["rank"], run) for other in waiting[mine["concurrency_key"]]):
                self.find("G7", f"{run} got a slot before its turn")

    # --- rows -----------------------------------------------------------------------------------------------

    def _limit(self, change: Change) -> None:
        self._limits[change.run] = (change.new or {})["limit"]

    def _run(self, change: Change) -> None:
        run, old, new = change.run, change.old, change.new
        if new is None:
            self._delete(run, old or {})
        elif old is None:
            self.inserted.append((self._number, run, new))
            if run in self._history.copies:
                self._copied.append(run)
            self._expected[run]["run:trigger"] += 1
            if (new["available_at"] or 0) > self._txn.now_us and new["hold"] != "time":
                self.find("G1", f"{run} does not wait for its start")
            self._set(run, new)
        else:
            self._change(run, old, new)
            self._set(run, new)

    def _set(self, run: str, row: dict[str, Any]) -> None:
        self._rows[run] = row
        self.moments[run].append((self._number, row["status"], row["generation"]))
        is_claimable = row["status"] == "pending" and row["hold"] is None
        if is_claimable:
            self._open_claims.setdefault(run, self._number)
        elif run in self._open_claims:
            self.claimable.append((run, self._open_claims.pop(run), self._number))
        if row["hold"] == "time":
            self._waiting.setdefault(run, self._number)
        if row["hold"] == "admit" or (row["slot"] and row["status"] == "cancelled"):
            self._open_chores.setdefault(run, self._number)
        elif run in self._open_chores:
            self.chores.append((run, self._open_chores.pop(run), self._number))

    def _delete(self, run: str, old: dict[str, Any]) -> None:
        if old["status"] not in ENDED:
            self.find("G8", f"{run} was deleted while it was {old['status']}")
        if old["slot"]:
            self.find("G7", f"{run} was deleted with its slot")
        is_purge = "purge_runs" in self._txn.names
        self.counts["runs purged"] += is_purge
        if is_purge and not self._is_old(old["completed_at"], self._profile.retain_runs):
            self.find("G12", f"{run} was purged before its time")
        self._expected[run]["run:delete"] += 1
        self._rows.pop(run, None)
        self._open_chores.pop(run, None)
        self.moments[run].append((self._number, "deleted", 0))
        self.deleted[run] = self._number

    def _change(self, run: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        if self._gives_back(old, new):
            return
        for finding in self._rules.change(run, old, new, now_us=self._txn.now_us):
            self.find(*finding)
        pair = (old["status"], new["status"])
        if not is_move(old, new):
            self._touch(run, old, new)
            return
        if pair not in TOLD:
            return
        self._expected[run][TOLD[pair]] += 1
        if new["status"] == "leased":
            self._lease(run, old, new)
            return
        if old["status"] == "leased":
            self._end_lease(run, old, new)
        if pair == ("failed", "pending") and "resume_runs" not in self._txn.names:
            self.find("G8", f"{run} is pending again, and nobody resumed it")

    def _gives_back(self, old: dict[str, Any], new: dict[str, Any]) -> bool:
        """Whether a worker gives back the slot of a run that a user's transaction cancelled."""
        changed = [name for name in new if old[name] != new[name]]
        is_over = old["status"] in ENDED and "free_inside" in self._txn.names
        return is_over and changed == ["slot"] and not new["slot"]

    def _touch(self, run: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        """A change that is no change of status."""
        if old["input"] != new["input"]:
            self._expected[run]["run:replace"] += 1
            if old["generation"]:
                self.find("G8", f"{run} got another input after it had started")
        if old["hold"] == "key" and new["hold"] is None:
            self._admitted.append(run)
        if old["hold"] == "time" != new["hold"]:
            self.dues.append((run, old["available_at"], self._waiting.pop(run), self._number))
            if self._txn.now_us < old["available_at"]:
                self.find("G1", f"{run} was released before its start")
        if old["status"] == "leased" and self.holders.get((run, old["generation"])) != self._txn.author:
            self.find("G4", f"{self._txn.author} wrote to {run}@{old['generation']}, which it does not hold")

    def _lease(self, run: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        if old["status"] == "leased":
            self.takeovers.append((self._number, run, old["generation"], old["lease_expires_at"]))
            self._close_lease(run)
        if self._rules.crashes[run] >= MAX_CRASHES:
            self.find("G13", f"{run} was leased after {self._rules.crashes[run]} crashes")
        self.holders[run, new["generation"]] = self._txn.author
        self._open_leases[run] = (self._txn.author, new["generation"], self._number)

    def _end_lease(self, run: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._close_lease(run)
        generation = old["generation"]
        if new["status"] == "cancelled":
            return
        if "fail_crashed" in self._txn.names and new["status"] == "failed":
            self._rules.crashes[run] += 1
            self.takeovers.append((self._number, run, generation, old["lease_expires_at"]))
            if old["lease_expires_at"] > self._txn.now_us or self._rules.crashes[run] < MAX_CRASHES:
                self.find("G13", f"{run} was failed after {self._rules.crashes[run]} crashes")
            return
        if self.holders.get((run, generation)) != self._txn.author:
            self.find("G4", f"{self._txn.author} ended {run}@{generation}, which it does not hold")
        if new["crashes"] != (crashes := self._rules.crashes[run]):
            self.find("G13", f"{run} was {new['status']} with {new['crashes']} crashes instead of {crashes}")
        self.endings[run, generation] = (self._number, new)

    def _close_lease(self, run: str) -> None:
        process, generation, begin = self._open_leases.pop(run, ("", 0, 0))
        self.leases.append((process, run, generation, begin, self._number))

    def _check_length(self, change: Change) -> None:
        new = change.new or {}
        self.renewals[change.run, new["generation"]] = self._number
        lasts = new["expires"] - self._txn.now_us
        if lasts != _LEASE_US:
            self.find("G6", f"the lease of {change.run} lasts {lasts / 1e6} s from now on")

    def _is_old(self, at_us: int, kept: float) -> bool:
        """Whether a purge that keeps what is not older than so many seconds may take this."""
        return kept > 0 and at_us + kept * 1e6 < self._txn.now_us

    # --- steps and events -----------------------------------------------------------------------------------

    def _step(self, change: Change) -> None:
        run, old, new = change.run, change.old, change.new
        if new is None:
            self._dropped.append((run, old or {}))
            return
        self._steps[run][new["name"]] = new
        for finding in self._rules.step(run, old, new):
            self.find(*finding)
        if run not in self._history.copies or self._rows[run]["generation"]:
            self._check_holder(run, f"step {new['name']}")
            if new["generation"] != self._rows[run]["generation"]:
                self.find("G4", f"step {new['name']} of {run} was stored by the old generation {new['generation']}")
            self._expected[run]["step:complete" if new["status"] == "completed" else "step:fail"] += 1
        if new["status"] == "completed":
            self.stored[run, new["name"]] = (self._number, new["output"])

    def _check_copies(self, run: str) -> None:
        """A run that goes on where another one was has the steps before that, and no others."""
        source, begin = self._history.copies[run]
        steps = self._steps[source]
        at = steps[begin]["position"] if begin in steps else 0
        due = [one for one in steps.values() if one["status"] == "completed" and one["position"] < at]
        wanted, found = (
            sorted((one["name"], one["position"], one["output"]) for one in several)
            for several in (due, self._steps[run].values())
        )
        self.counts["steps taken over"] += len(found)
        if found != wanted:
            self.find("G5", f"{run} took {found} over from {source}, and not what is before {begin}: {wanted}")

    def _gone(self, change: Change) -> None:
        old = change.old or {}
        if "purge_events" not in self._txn.names or not self._is_old(old["created_at"], self._profile.retain_events):
            self.find("G9", f"event {old['type']} of {change.run} is gone before its time")
        self.purged[change.run, old["seq"]] = self._number

    def _event(self, change: Change) -> None:
        run, event = change.run, change.new or {}
        self._seqs[run] += 1
        if event["seq"] != self._seqs[run]:
            self.find("G9", f"event {event['type']} of {run} has number {event['seq']} instead of {self._seqs[run]}")
        last = next(reversed(self.events.values()), (0,))[0]
        if event["id"] <= last:
            self.find("G9", f"event {event['type']} of {run} has id {event['id']} after {last}")
        self.events[run, event["seq"]] = (event["id"], event["type"], event["step"])
        step = run, str(event["step"])
        if event["type"] == "step:start":
            self._begun[step] += 1
        elif event["type"] in {"step:complete", "step:fail"}:
            if not self._begun[step]:
                self.find("G9", f"{event['type']} of {event['step']} of {run} was told without a start")
            self._begun[step] -= 1
        if event["type"] in _HELD_EVENTS:
            self._check_holder(run, f"event {event['type']}")
        if event["type"] in _STATE_EVENTS or event["type"] in {"step:complete", "step:fail"}:
            self._told[run][event["type"]] += 1

    def _check_holder(self, run: str, what: str) -> None:
        row = self._rows.get(run)
        if row is None or row["status"] != "leased":
            self.find("G4", f"{what} of {run} was stored, and nobody holds it")
        elif self.holders.get((run, row["generation"])) != self._txn.author:
            self.find("G4", f"{what} of {run}@{row['generation']} was stored by one who does not hold it")


def unique(values: Iterable[str]) -> list[str]:
    """Each finding once, in order."""
    return list(dict.fromkeys(values))
