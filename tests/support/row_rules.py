"""What may become of a run's row and of its steps: the rules by which every checker of rows goes.

The simulation and the real faults note changes in ways of their own, and each knows things that the other one does not
(who wrote, what a transaction did, what a subscriber heard). What a change of a row may be is the same for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""The columns of a run: at least status, generation, hold, crashes, attempt and lease_expires_at (microseconds)."""
Finding: TypeAlias = tuple[str, str]
"""The guarantee that does not hold, and what was seen."""

ENDED = frozenset({"completed", "failed", "cancelled"})
TOLD: Mapping[tuple[str, str], str] = {
    ("pending", "leased"): "run:leased",
    ("leased", "leased"): "run:leased",
    ("leased", "completed"): "run:complete",
    ("leased", "failed"): "run:fail",
    ("leased", "pending"): "run:release",
    ("leased", "cancelled"): "run:cancel",
    ("pending", "cancelled"): "run:cancel",
    ("failed", "pending"): "run:resume",
}
"""The event of each change of status; what is missing here is no change that may happen."""


def is_move(old: Row, new: Row) -> bool:
    """Whether the status changed, or began anew in another generation."""
    return bool(old["status"] != new["status"] or old["generation"] != new["generation"])


class RowRules:
    """Judges changes, one after the other, as they were committed."""

    def __init__(self) -> None:
        self.crashes: Counter[str] = Counter()
        """How often each run crashed since its last checkpoint, or since it was resumed: what its row should say."""

    def change(self, run: str, old: Row, new: Row, *, now_us: float) -> list[Finding]:
        """What is wrong with the change of a run's row at that time. Counts its crashes."""
        return list(self._change(run, old, new, now_us))

    def step(self, run: str, old: Row | None, new: Row) -> list[Finding]:
        """What is wrong with the row of a step that was stored. A completed one ends the count of crashes."""
        if new["status"] == "completed":
            self.crashes[run] = 0
        if old is None or old["status"] != "completed":
            return []
        return [("G5", f"step {new['name']} of {run}@{new['generation']} was stored again: {old} -> {new}")]

    def _change(self, run: str, old: Row, new: Row, now_us: float) -> Iterator[Finding]:
        if not is_move(old, new):
            if old["status"] in ENDED:
                changed = [name for name in new if old[name] != new[name]]
                yield "G8", f"{run} is {old['status']} and changed in {changed}"
            return
        pair = (old["status"], new["status"])
        if pair not in TOLD:
            yield "G8", f"{run} went from {pair[0]} to {pair[1]}"
            return
        if new["generation"] - old["generation"] != (new["status"] == "leased"):
            yield "G3", f"{run} went from generation {old['generation']} to {new['generation']}, {' to '.join(pair)}"
        if new["status"] == "leased":
            yield from self._lease(run, old, new, now_us)
        if pair == ("leased", "pending") and new["attempt"] != old["attempt"] - 1:
            yield "G13", f"{run} was handed back, and its attempt counts"
        if pair == ("failed", "pending"):
            self.crashes[run] = 0

    def _lease(self, run: str, old: Row, new: Row, now_us: float) -> Iterator[Finding]:
        if old["hold"] is not None:
            yield "G7", f"{run} was leased while it was held ({old['hold']})"
        if old["status"] == "leased":
            self.crashes[run] += 1
            if now_us < old["lease_expires_at"]:
                yield "G3", f"{run}@{old['generation']} was taken away before its lease ran out"
        if new["crashes"] != self.crashes[run]:
            yield "G13", f"{run} was leased after {self.crashes[run]} crashes, its row says {new['crashes']}"
        if new["attempt"] != old["attempt"] + 1:
            yield "G13", f"{run} was leased as attempt {new['attempt']} after {old['attempt']}"
