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
    assert ids(position.advance(page(2, 4, 5, 6), is_last=True)) == [2, 4, 5, 6]
    assert (position.last, position.gaps, position.cursor) == (6, {}, 6)


def test_what_was_seen_is_not_delivered_again() -> None:
    position = Position(4)
    assert ids(position.advance(page(2, 4, 5, 6), is_last=True)) == [5, 6]


def test_who_has_seen_the_first_event_of_a_row_gets_the_second_one() -> None:
    position = Position(5)
    fresh = position.advance(page(5, 6, 8), is_last=True)
    assert [(one.id, one.cursor) for one in fresh] == [(6, 6), (8, 8)]


def test_a_reader_that_stops_within_a_row_resumes_there() -> None:
    fresh = Position(0).advance(page(1, 2, 3, 4), is_last=True)
    assert [one.cursor for one in fresh] == [1, 2, 3, 4]


def test_a_gap_does_not_hold_up_what_comes_after_it() -> None:
    position = Position(0)
    fresh = position.advance(page(2, 5, 6, 8, xmin=7), is_last=True)
    assert ids(fresh) == [2, 5, 6, 8]
    assert [one.cursor for one in fresh] == [2, 2, 2, 2]
    assert list(position.gaps) == [3, 4]


def test_a_filled_gap_is_delivered_and_the_cursor_moves_on() -> None:
    position = Position(0)
    position.advance(page(2, 6, xmin=7), is_last=True)
    fresh = position.advance(page(4, 8, xmin=7), is_last=True)
    assert [(one.id, one.cursor) for one in fresh] == [(4, 6), (8, 8)]


def test_a_gap_that_two_events_fill_is_filled_by_both() -> None:
    position = Position(0)
    position.advance(page(2, 10, xmin=7), is_last=True)
    fresh = position.advance(page(3, 4, 7, 8, xmin=7), is_last=True)
    assert [(one.id, one.cursor) for one in fresh] == [(3, 3), (4, 4), (7, 4), (8, 4)]
    assert list(position.gaps) == [5, 6]
    assert ids(position.advance(page(3, 4, 7, 8, xmin=7), is_last=True)) == []


def test_a_gap_of_which_the_first_event_was_seen_is_half_a_gap() -> None:
    position = Position(0)
    position.advance(page(2, 6, xmin=7), is_last=True)
    position.advance(page(3, xmin=7), is_last=True)
    assert list(position.gaps) == [4]
    assert ids(position.advance(page(3, 4, xmin=7), is_last=True)) == [4]


def test_a_gap_is_given_up_once_no_transaction_can_fill_it() -> None:
    position = Position(0)
    position.advance(page(2, 6, xmin=7), is_last=True)
    before = position.needs_barrier
    position.set_barrier(9)
    assert (before, position.needs_barrier) == (True, False)
    position.advance(page(xmin=8), is_last=True)
    assert list(position.gaps) == [3, 4]
    position.advance(page(xmin=9), is_last=True)
    assert not position.gaps
    assert position.cursor == 6


def test_a_gap_is_kept_while_its_event_may_be_on_the_next_page() -> None:
    position = Position(0, gaps={1: 2, 2: 2})
    position.last = 6
    position.advance(page(8, 10, xmin=9), is_last=False)
    assert list(position.gaps) == [1, 2]


def test_gaps_that_are_added_come_in_order() -> None:
    position = Position(10, gaps={7: 1, 8: 1})
    position.add_gaps({3: 5, 4: 5})
    assert list(position.gaps.items()) == [(3, 5), (4, 5), (7, 1), (8, 1)]
    assert position.cursor == 2


def test_sqlite_has_no_gaps() -> None:
    position = Position(0)
    fresh = position.advance(page(10, 17, 18, xmin=0), is_last=True)
    assert [one.cursor for one in fresh] == [10, 17, 18]
    assert not position.gaps


def test_a_purged_past_is_no_endless_gap() -> None:
    position = Position(0)
    position.advance(page(10 * MAX_GAP), is_last=True)
    assert len(position.gaps) == MAX_GAP


def test_the_oldest_gaps_are_given_up_when_there_are_too_many() -> None:
    position = Position(0)
    for number in range(1, 4):
        position.advance(page(number * (MAX_GAP + 2)), is_last=True)
    assert len(position.gaps) == MAX_OPEN
    assert min(position.gaps) == MAX_GAP + 3


def test_no_row_is_given_up_by_half() -> None:
    position = Position(0)
    position.advance(page(MAX_GAP), is_last=True)
    position.advance(page(MAX_GAP - 3, xmin=7), is_last=True)
    for number in range(2, 4):
        position.advance(page(number * MAX_GAP), is_last=True)
    assert min(position.gaps) % 2 == 1


@dataclass
class Feed:
    """A table whose rows get their numbers when a transaction begins, and appear when it ends; some say two events."""

    visible: set[int] = field(default_factory=set[int])
    """The ids of events."""
    running: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    next_row: int = 1
    next_xid: int = 1

    def begin(self, rows: int) -> None:
        """Every other transaction, and of the others the last row, stores steps that ran through."""
        written: list[int] = []
        for place in range(rows):
            end = 2 * (self.next_row + place)
            says_two = self.next_xid % 2 or place == rows - 1
            written += [end - 1, end] if says_two else [end]
        self.running[self.next_xid] = written
        self.next_xid += 1
        self.next_row += rows

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
        rows = {(i + 1) // 2 for i in self.visible if i > position.last or i in position.gaps}
        read = sorted(rows)[:limit]
        events = (i for row in read for i in (2 * row - 1, 2 * row) if i in self.visible)
        return page(*(i for i in events if i > position.last or i in position.gaps), xmin=xmin), len(read) < limit

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


@given(st.integers(0, 20), st.integers(1, 3))
def test_a_reader_may_stop_after_any_event(stop: int, limit: int) -> None:
    feed, got = Feed(), list[int | None]()
    for _ in range(4):
        feed.begin(2)
        feed.end(0, commits=True)
    position, is_last = Position(0), False
    while not is_last:
        found, is_last = feed.read(position, limit, ("commit", 0))
        for one in position.advance(found, is_last=is_last):
            if len(got) == stop:  # it was the last one that came before a restart
                break
            got.append(one.id)
        else:
            continue
        break
    position, is_last = Position(got[-1] or 0 if got else 0), False
    while not is_last:
        found, is_last = feed.read(position, limit, ("commit", 0))
        got += ids(position.advance(found, is_last=is_last))
    assert got == sorted(feed.visible)


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
