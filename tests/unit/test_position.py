"""A reader of the feed misses no event, whatever the order in which ids appear."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from durably.model import Event, EventType, FeedPage
from durably.runtime.position import MAX_GAP, MAX_OPEN, Position


def event(event_id: int) -> Event:
    return Event(type=EventType.RUN_TRIGGER, run_id="r", job="j", labels={}, id=event_id, seq=1)


def page(*ids: int, xmin: int = 1) -> FeedPage:
    return FeedPage(events=tuple(event(number) for number in ids), xmin=xmin)


def ids(events: list[Event]) -> list[int | None]:
    return [one.id for one in events]


def test_events_in_order_leave_no_gap() -> None:
    position = Position(0)
    assert ids(position.advance(page(1, 2, 3), is_last=True)) == [1, 2, 3]
    assert (position.last, position.gaps, position.cursor) == (3, {}, 3)


def test_what_was_seen_is_not_delivered_again() -> None:
    position = Position(2)
    assert ids(position.advance(page(1, 2, 3), is_last=True)) == [3]


def test_a_gap_does_not_hold_up_what_comes_after_it() -> None:
    position = Position(0)
    fresh = position.advance(page(1, 3, 4, xmin=7), is_last=True)
    assert ids(fresh) == [1, 3, 4]
    assert [one.cursor for one in fresh] == [1, 1, 1]
    assert list(position.gaps) == [2]


def test_a_filled_gap_is_delivered_and_the_cursor_moves_on() -> None:
    position = Position(0)
    position.advance(page(1, 3, xmin=7), is_last=True)
    fresh = position.advance(page(2, 4, xmin=7), is_last=True)
    assert [(one.id, one.cursor) for one in fresh] == [(2, 3), (4, 4)]


def test_a_gap_is_given_up_once_no_transaction_can_fill_it() -> None:
    position = Position(0)
    position.advance(page(1, 3, xmin=7), is_last=True)
    before = position.needs_barrier
    position.set_barrier(9)
    assert (before, position.needs_barrier) == (True, False)
    position.advance(page(xmin=8), is_last=True)
    assert list(position.gaps) == [2]
    position.advance(page(xmin=9), is_last=True)
    assert not position.gaps
    assert position.cursor == 3


def test_a_gap_is_kept_while_its_event_may_be_on_the_next_page() -> None:
    position = Position(0, gaps={1: 2})
    position.last = 3
    position.advance(page(4, 5, xmin=9), is_last=False)
    assert list(position.gaps) == [1]


def test_sqlite_has_no_gaps() -> None:
    position = Position(0)
    fresh = position.advance(page(5, 9, xmin=0), is_last=True)
    assert [one.cursor for one in fresh] == [5, 9]
    assert not position.gaps


def test_a_purged_past_is_no_endless_gap() -> None:
    position = Position(0)
    position.advance(page(10 * MAX_GAP), is_last=True)
    assert len(position.gaps) == MAX_GAP


def test_the_oldest_gaps_are_given_up_when_there_are_too_many() -> None:
    position = Position(0)
    for number in range(1, 4):
        position.advance(page(number * (MAX_GAP + 1)), is_last=True)
    assert len(position.gaps) == MAX_OPEN
    assert min(position.gaps) == MAX_GAP + 2


@dataclass
class Feed:
    """A table whose ids are handed out when a transaction begins, and appear when it ends."""

    visible: set[int] = field(default_factory=set[int])
    running: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    next_id: int = 1
    next_xid: int = 1

    def begin(self, events: int) -> None:
        self.running[self.next_xid] = list(range(self.next_id, self.next_id + events))
        self.next_xid += 1
        self.next_id += events

    def end(self, which: int, *, commits: bool) -> None:
        if not self.running:
            return
        xid = sorted(self.running)[which % len(self.running)]
        written = self.running.pop(xid)
        if commits:
            self.visible.update(written)

    def barrier(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def read(self, position: Position, limit: int, between: Step) -> tuple[FeedPage, bool]:
        """The horizon first; then something may happen; then the events."""
        xmin = min(self.running, default=self.next_xid)
        self.act(between)
        wanted = sorted(i for i in self.visible if i > position.last or i in position.gaps)
        return page(*wanted[:limit], xmin=xmin), len(wanted) < limit

    def act(self, step: Step) -> None:
        kind, number = step
        if kind == "begin":
            self.begin(number)
        else:
            self.end(number, commits=kind == "commit")


Step = tuple[str, int]
STEPS = st.one_of(
    st.tuples(st.just("begin"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["commit", "abort"]), st.integers(0, 5)),
)


@given(st.lists(st.tuples(STEPS, st.booleans(), STEPS), max_size=60), st.integers(1, 5))
def test_every_committed_event_is_delivered_exactly_once(script: list[tuple[Step, bool, Step]], limit: int) -> None:
    feed, position, got = Feed(), Position(0), list[int | None]()
    cursors: list[tuple[int | None, set[int | None]]] = []

    def read(between: Step) -> None:
        found, is_last = feed.read(position, limit, between)
        for one in position.advance(found, is_last=is_last):
            got.append(one.id)
            cursors.append((one.cursor, set(got)))
        if position.needs_barrier:
            position.set_barrier(feed.barrier())

    for step, reads, between in script:
        feed.act(step)
        if reads:
            read(between)
    while feed.running:
        feed.end(0, commits=True)
    for _ in range(len(feed.visible) + 4):
        read(("commit", 0))
    assert sorted(filter(None, got)) == sorted(feed.visible)
    assert not position.gaps
    for cursor, seen in cursors:
        assert all(number in seen for number in feed.visible if number <= (cursor or 0))
