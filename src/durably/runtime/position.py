"""How far a reader of the feed over all runs has come: pure bookkeeping, no I/O.

Postgres hands out event ids before commit, so an id may appear after greater ones. A reader never waits for
it: it goes on, remembers the gap, and asks for it again until the transactions that could fill it have ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from durably.model import Event, FeedPage

MAX_GAP = 10_000
"""How many ids before the one that follows are remembered of one gap: what is further back was purged long ago."""
MAX_OPEN = 20_000
"""How many missing ids are remembered in all; the oldest are given up."""


@dataclass(slots=True)
class Position:
    """A reader that has seen every id up to `last` but those in `gaps`."""

    last: int
    gaps: dict[int, int] = field(default_factory=dict[int, int])
    """Missing ids, each with its barrier: a transaction later than those that may fill it; 0 while it is not known."""

    @property
    def cursor(self) -> int:
        """The id after which a new reader would miss nothing."""
        return min(self.gaps) - 1 if self.gaps else self.last

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
        cursor = self.cursor
        for event in page.events:
            if event.id is None or self.has_seen(event.id):
                continue
            if self.gaps.pop(event.id, None) is None:
                if page.xmin:  # else it is SQLite, with one writer at a time: ids appear in order
                    self._open_gap(event.id)
                self.last = event.id
            if event.id == cursor + 1 or not self.gaps:
                cursor = self.cursor
            fresh.append(replace(event, cursor=cursor))
        if is_last:
            self._give_up(asked, page.xmin)
        return fresh

    def set_barrier(self, barrier: int) -> None:
        """Note for the new gaps that whatever can fill them began before this transaction."""
        self.gaps.update({gap: barrier for gap, known in self.gaps.items() if known == 0})

    def _open_gap(self, event_id: int) -> None:
        for missing in range(max(self.last + 1, event_id - MAX_GAP), event_id):
            self.gaps[missing] = 0

    def _give_up(self, asked: list[int], xmin: int) -> None:
        """Forget gaps that were asked for, are still empty, and cannot be filled any more."""
        for event_id in asked:
            if 0 < self.gaps.get(event_id, 0) <= xmin:
                del self.gaps[event_id]
        if len(self.gaps) > MAX_OPEN:
            for event_id in sorted(self.gaps)[:-MAX_OPEN]:
                del self.gaps[event_id]
