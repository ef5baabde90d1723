"""What user code must not have done: G3, G5, G10, G11 and G12; and when things had to happen: G6."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from durably.testing.simulated import BEGINNING
from tests.simulation.check_rows import Ledger
from tests.simulation.history import Effect, History
from tests.simulation.trouble import LEASE, POLL, Interval, Profile, Trouble

CANCEL_SECONDS = 1.0
"""Within this the code of a cancelled run is interrupted."""
_HUNG = ("frozen",)
_ALL = ("dead", "frozen", "blocked", "outage", "slow", "visit")
_VISIT = 0.1
"""From so many seconds on a transaction of a client's own keeps others from their work."""


_ACTIVE = {"tick", "start", "start plain", "start thread", "done"}
"""What code does that can be interrupted; in a thread it is stopped at its next step."""
_STARTS = ("start", "start plain", "start thread")


class Excuses:
    """Who could not do what it should, and when."""

    def __init__(self, intervals: list[Interval]) -> None:
        self._intervals = intervals

    def any(self, process: str, begin: float, end: float, kinds: tuple[str, ...] = _ALL) -> bool:
        """Whether one of these kinds kept the process from something in this time."""
        whom = {"*", process, process.partition(".")[0]}
        return any(
            one.kind in kinds and one.process in whom and one.begin <= end and one.end >= begin
            for one in self._intervals
        )


class CodeChecker:
    """Compares what user code did with the rows."""

    def __init__(self, history: History, ledger: Ledger, profile: Profile, trouble: Trouble) -> None:
        self.findings: list[str] = []
        self._history = history
        self._ledger = ledger
        self._profile = profile
        self._clock = trouble.clock
        visits = [Interval("visit", "*", *one) for one in history.database.visits if one[1] - one[0] > _VISIT]
        self._excuses = Excuses([*trouble.intervals, *visits])
        self._by_execution: dict[tuple[str, int], list[Effect]] = defaultdict(list)
        for effect in history.effects:
            self._by_execution[effect.run, effect.generation].append(effect)
        self._slack = 4.0 if profile.is_lossy else 0.0
        self._check_steps()
        self._check_repeats()
        self._check_endings()
        self._check_cancels()
        self._check_takeovers()
        self._check_promptness()
        self._check_stops()

    def _at(self, txn: int) -> float:
        return self._history.transactions[txn].at

    # --- steps ----------------------------------------------------------------------------------------------

    def _check_steps(self) -> None:
        ledger = self._ledger
        for effect in self._history.effects:
            if ledger.holders.get((effect.run, effect.generation)) != effect.process:
                self._find("G3", f"{_place(effect)} is code of who has no such lease")
            stored = ledger.stored.get((effect.run, effect.step))
            if effect.kind in _STARTS and not self._is_excused(effect):
                if stored is not None and effect.txn >= stored[0]:
                    self._find("G5", f"{_place(effect)} began after it had been stored in #{stored[0]}")
                if effect.kind != "start plain":
                    self._check_belief(effect)
            if effect.kind == "got":
                self._check_value(effect, stored)

    def _check_repeats(self) -> None:
        """Within an execution a step is called once, and again only where the job has seen it fail."""
        starts: Counter[tuple[str, int, str]] = Counter()
        for effect in self._history.effects:
            starts[effect.run, effect.generation, effect.step] += effect.kind in _STARTS
            starts[effect.run, effect.generation, effect.step] -= effect.kind == "swallowed"
        for (run, generation, step), count in starts.items():
            if count > 1:
                self._find("G5", f"{step} of {run}@{generation} was called {count} times more than it failed")

    def _is_excused(self, effect: Effect) -> bool:
        """Whether it may begin though its lease is another's by now.

        A thread that was frozen before its first line begins wherever the world is by then. When the database's clock
        jumped ahead, a lease ran out earlier than its holder can know, which believes in it for a lease at most.
        """
        begin, at = effect.at - 9.0, effect.at
        if effect.kind != "start" and self._excuses.any(effect.process, begin, at, _HUNG):
            return True
        return self._excuses.any(effect.process, at - LEASE, at, ("clock",))

    def _check_belief(self, effect: Effect) -> None:
        status, generation = self._ledger.state_after(effect.run, effect.txn)
        if generation != effect.generation or status not in {"leased", "cancelled"}:
            self._find("G3", f"{_place(effect)} began when the run was {status}@{generation}")

    def _check_value(self, effect: Effect, stored: tuple[int, str] | None) -> None:
        if stored is None or stored[0] > effect.txn:
            self._find("G5", f"{_place(effect)} returned before it was stored")
        elif json.loads(stored[1]) != effect.value:
            self._find("G11", f"{_place(effect)} returned {effect.value}, stored is {stored[1]}")

    # --- ends -----------------------------------------------------------------------------------------------

    def _check_endings(self) -> None:
        for (run, generation), (txn, row) in self._ledger.endings.items():
            status, did = row["status"], {one.kind: one.value for one in self._by_execution[run, generation]}
            if status == "failed" and "raise" not in did:
                self._find("G12", f"{run}@{generation} failed in #{txn}, and its code raised nothing")
            elif status == "failed" and json.loads(row["error"])["type"] != did["raise"]:
                self._find("G12", f"{run}@{generation} raised {did['raise']}, and failed with {row['error']}")
            if status == "completed" and "end" not in did:
                self._find("G12", f"{run}@{generation} completed in #{txn}, and its code did not")
            elif status == "completed" and json.loads(row["output"] or "0") != did["end"]:
                self._find("G12", f"{run}@{generation} returned {did['end']}, stored is {row['output']}")
            if status == "pending" and "end" in did:
                self._find("G12", f"{run}@{generation} was handed back in #{txn} after its code had succeeded")

    def _check_cancels(self) -> None:
        """After a cancel: when its call had returned, or when the client's own transaction was committed."""
        calls = [one for one in self._history.calls if one.kind == "cancel" and one.error is None]
        cancels = [(one.run, one.ended, one.txn) for one in calls if one.run is not None]
        deeds = [deed for one in self._history.visits for deed in one.deeds if deed.kind == "cancel"]
        for deed in deeds:
            moments = [txn for txn, status, _ in self._ledger.moments[deed.run] if status == "cancelled"]
            cancels += [(deed.run, self._at(txn), txn) for txn in moments]
        for run, since, txn in cancels:
            late = since + CANCEL_SECONDS + 2 * self._profile.latency
            for effect in self._history.effects:
                is_late = effect.run == run and effect.at > late and effect.kind in _ACTIVE
                # what a resume or another life of it did is none of this
                if is_late and effect.generation <= self._generation_at(run, txn):
                    self._check_late(effect, since)

    def _generation_at(self, run: str, txn: int) -> int:
        status, generation = self._ledger.state_after(run, txn)
        return generation if status == "cancelled" else -1

    def _check_late(self, effect: Effect, since: float) -> None:
        is_lossy = self._profile.is_lossy and effect.at < since + CANCEL_SECONDS + self._slack
        if not is_lossy and not self._excuses.any(effect.process, since - LEASE, effect.at):
            self._find("G10", f"{_place(effect)} went on {effect.at - since:.2f} s after the cancel")

    # --- when -----------------------------------------------------------------------------------------------

    def _check_takeovers(self) -> None:
        """A lease that ran out has a reason, and somebody takes the run over in time."""
        profile = self._profile
        for txn, run, generation, expires_us in self._ledger.takeovers:
            holder = self._ledger.holders.get((run, generation), "")
            at = self._at(txn)
            expired = self._when(expires_us, at)
            has_begun = any(effect.at < expired for effect in self._by_execution[run, generation])
            # a blocked loop loses no lease, but one that it does not know of yet
            kinds = tuple(kind for kind in _ALL if kind != "blocked" or not has_begun)
            # a clock that is set back makes a lease longer
            since = min(expired - 2 * LEASE, self._at(self._ledger.renewals[run, generation]))
            is_excused = self._excuses.any(holder, since, at, (*kinds, "clock"))
            if not is_excused and profile.lost_before + profile.locked <= 0.2:
                self._find("G6", f"{run}@{generation} was lost by {holder}, which was well")
            if "fail_crashed" not in self._history.transactions[txn].names:
                self._check_prompt(f"{run}@{generation}, whose lease ran out,", expired, at)

    def _when(self, shown_us: int, before: float) -> float:
        """When the clock of the database came to show this for the last time before a moment."""
        shown = shown_us / 1e6 - BEGINNING.timestamp()
        for begin, skew in reversed([one for one in self._clock if one[0] <= before]):
            if begin + skew < shown:
                return min(shown - skew, before)
            before = begin
        return 0.0

    def _check_promptness(self) -> None:
        """What can be claimed is claimed soon, if there is somebody to do it."""
        for run, begin, end in self._ledger.claimable:
            if end is not None:
                self._check_prompt(f"{run}, which could be claimed,", self._at(begin), self._at(end))
        for run, start_us, begin, end in self._ledger.dues:
            start = max(self._at(begin), self._when(start_us, self._at(end)))
            self._check_prompt(f"{run}, which was to start,", start, self._at(end))
        for run, begin, end in self._ledger.chores:
            if end is not None:
                self._check_prompt(f"{run}, of a transaction of its own,", self._at(begin), self._at(end))

    def _check_prompt(self, what: str, begin: float, end: float) -> None:
        bound = POLL * 1.25 + 0.4 + self._slack
        if end - begin <= bound:
            return
        for name, since in self._workers():
            if since > begin or self._excuses.any(name, begin - 5.0, end, (*_ALL, "stopping")):
                continue
            if self._busy(name, begin, end) < self._profile.slots:
                self._find("G6", f"{what} waited {end - begin:.2f} s though {name} had room")
                return

    def _workers(self) -> list[tuple[str, float]]:
        return [(name, since) for name, since in self._history.started if name[0] == "w"]

    def _busy(self, process: str, begin: float, end: float) -> int:
        """How many runs a worker had at most in this time, with those whose code may not have ended yet."""
        count = 0
        for holder, run, generation, first, last in self._ledger.leases:
            code = self._by_execution[run, generation]
            over = end if last is None else max(self._at(last) + 1.5, code[-1].at + 0.5 if code else 0.0)
            count += holder == process and self._at(first) <= end and over >= begin
        return count

    def _check_stops(self) -> None:
        """Who stopped in good order holds nothing any more."""
        for name, at, txn in self._history.stopped:
            held = [(run, gen) for who, run, gen, first, last in self._ledger.leases if who == name
                    and first <= txn and (last is None or last > txn)]  # fmt: skip
            if held and not self._excuses.any(name, at - 3 * LEASE, at) and not self._profile.is_lossy:
                self._find("G6", f"{name} stopped in good order and kept {held}")

    def _find(self, guarantee: str, text: str) -> None:
        self.findings.append(f"{guarantee}: {text}")


def _place(effect: Effect) -> str:
    return f"{effect.step or 'code'} of {effect.run}@{effect.generation} in {effect.process} at {effect.at:.3f}"


__all__ = ["CodeChecker", "Excuses"]
