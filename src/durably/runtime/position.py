"""How far a reader of the feed over all runs has come: pure bookkeeping, no I/O.

Postgres hands out the ids of rows before commit, so a row may appear after greater ones. A reader never waits for
it: it goes on, remembers the gap, and asks for it again until the transactions that could fill it have ended. A row
that is missing are two ids, since it may say two events; one that is there and says one leaves no gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from durably.model import Event, FeedPage
from durably.rules.event_ids import first_id

MAX_GAP = 20_000
"""How many ids before the one that follows are remembered of one gap: what is further back was purged long ago."""
MAX_OPEN = 40_000
"""How many missing ids are remembered in all; the oldest are given up."""


@dataclass(slots=True)
class Position:
    """A reader that has seen every id up to `last` but those in `gaps`."""

    last: int
    gaps: dict[int, int] = field(default_factory=dict[int, int])
    """Missing ids, lowest first, each with its barrier: a transaction later than those that may fill it; 0 while it is
    not known."""

    @property
    def cursor(self) -> int:
        """The id after which a new reader would miss nothing."""
        return next(iter(self.gaps)) - 1 if self.gaps else self.last

    @property
    def needs_barrier(self) -> bool:
        """Whether there are new gaps, which can be given up only beyond a barrier."""
        return 0 in self.gaps.values()

    def copy(self) -> Position:
        """Return an independent reader at the same place."""
        return Position(self.last, dict(self.gaps))

    def has_seen(self, event_id: int) -> bool:
        """Whether the event was read before."""
        return event_id <= self.last and event_id not in self.gaps

    def advance(self, page: FeedPage, *, is_last: bool) -> list[Event]:
        """Take the page that was read from here; return what is new in it, each event with its cursor.

        `is_last` says that nothing was left out of the page, so gaps that it does not fill may be given up.
        """
        asked = list(self.gaps)
        fresh: list[Event] = []
        for event in page.events:
            if event.id is None or self.has_seen(event.id):
                continue
            if event.id > self.last:
                if page.xmin:  # else it is SQLite, with one writer at a time: ids appear in order
                    self._open_gap(event.id)
                self.last = event.id
            else:
                self.fill(event.id)
            fresh.append(replace(event, cursor=self.cursor))
        if is_last:
            self._give_up(asked, page.xmin)
        return fresh

    def set_barrier(self, barrier: int) -> None:
        """Note for the new gaps that whatever can fill them began before this transaction."""
        self.gaps.update({gap: barrier for gap, known in self.gaps.items() if known == 0})

    def fill(self, event_id: int) -> None:
        """Note that the event was seen: its row is there, and what it leaves out before this never comes."""
        for seen in range(first_id(event_id), event_id + 1):
            self.gaps.pop(seen, None)

    def add_gaps(self, gaps: Mapping[int, int]) -> None:
        """Look for these, too."""
        self.gaps = dict(sorted({**self.gaps, **gaps}.items()))

    def _open_gap(self, event_id: int) -> None:
        end = first_id(event_id)
        for missing in range(max(self.last + 1, end - MAX_GAP), end):
            self.gaps[missing] = 0

    def _give_up(self, asked: list[int], xmin: int) -> None:
        """Forget gaps that were asked for, are still empty, and cannot be filled any more."""
        for event_id in asked:
            if 0 < self.gaps.get(event_id, 0) <= xmin:
                del self.gaps[event_id]
        if len(self.gaps) > MAX_OPEN:
            kept = first_id(list(self.gaps)[-MAX_OPEN])
            self.gaps = {event_id: barrier for event_id, barrier in self.gaps.items() if event_id >= kept}
