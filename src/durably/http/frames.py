"""Frames of event streams, and the thinning out of progress. Pure: the time is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from durably import Event, EventType
from durably.http import wire

ENDS = frozenset({EventType.RUN_COMPLETE, EventType.RUN_FAIL, EventType.RUN_CANCEL, EventType.RUN_DELETE})
"""What ends the stream of a run."""
OF_ONE_RUN = ENDS | {
    EventType.RUN_LEASED,
    EventType.RUN_RELEASE,
    EventType.RUN_RESUME,
    EventType.RUN_PROGRESS,
    EventType.STEP_START,
    EventType.STEP_COMPLETE,
    EventType.STEP_FAIL,
    EventType.LOG_WRITE,
}
"""What the stream of a run tells; that of many runs tells everything."""
_LINE_ENDS = {ord(one): f"\\u{ord(one):04x}" for one in "\x85\u2028\u2029"}
"""What ends no line of a stream, but does in the eyes of clients that split text as Python does (httpx). Within JSON
they can only be in strings, where an escape is the same."""
KEEP_ALIVE = b": keep-alive\n\n"
MAX_RUNS = 1000


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, ready to be sent; shared by all who get it."""

    type: EventType
    run_id: str
    number: int
    """Its place in the stream: a run's `seq`, or the event's id in the stream of many runs."""
    cursor: int
    """Where a reader resumes after it."""
    data: bytes


def make_frame(type: EventType, run_id: str, json: str, *, number: int, cursor: int) -> Frame:  # noqa: A002 - the word of the events
    """Return the frame of an event, given as JSON on one line. `cursor` is where a reader resumes after it."""
    if not json.isascii():
        json = json.translate(_LINE_ENDS)
    return Frame(type, run_id, number, cursor, f"id: {cursor}\ndata: {json}\n\n".encode("utf-8", "replace"))


def thin_frame(event: Event) -> Frame:
    """Return the frame of an event for the stream of many runs."""
    number = event.id or 0
    cursor = number if event.cursor is None else event.cursor
    return make_frame(event.type, event.run_id, wire.thin_event(event), number=number, cursor=cursor)


class Throttle:
    """Lets through at most one progress of a run an interval, the latest, and everything else at once.

    What was held back comes late with the id of what went before it: who resumes after it meets nothing twice.
    """

    def __init__(self, interval: float) -> None:
        """`interval` is in seconds; 0 or less switches it off."""
        self._interval = interval
        self._sent: dict[str, float] = {}
        self._held: dict[str, Frame] = {}
        self._cursor = 0

    def take(self, frame: Frame, now: float) -> list[bytes]:
        """Return what is to be sent for this frame, in order."""
        if self._interval <= 0:
            return [frame.data]
        if frame.type is EventType.RUN_PROGRESS and not self._is_due(frame.run_id, now):
            self._held[frame.run_id] = frame
            return []
        held = self._held.pop(frame.run_id, None) if frame.type in ENDS else None
        if frame.type is EventType.RUN_PROGRESS:
            self._held.pop(frame.run_id, None)
            self._note(frame.run_id, now)
        elif frame.type in ENDS:
            self._sent.pop(frame.run_id, None)
        late = [] if held is None else [self._late(held)]
        self._cursor = frame.cursor
        return [*late, frame.data]

    def take_all(self, frames: Iterable[Frame], now: float) -> list[bytes]:
        """Return what is to be sent for these frames, in order."""
        return [data for frame in frames for data in self.take(frame, now)]

    def due(self, now: float) -> list[bytes]:
        """Return the progress whose time has come."""
        runs = [run_id for run_id in self._held if self._is_due(run_id, now)]
        for run_id in runs:
            self._sent[run_id] = now
        return [self._late(self._held.pop(run_id)) for run_id in runs]

    @property
    def next_due(self) -> float | None:
        """When `due` has something to say; None when nothing is held back."""
        return min((self._sent[run_id] + self._interval for run_id in self._held), default=None)

    def _is_due(self, run_id: str, now: float) -> bool:
        last = self._sent.get(run_id)
        return last is None or now >= last + self._interval

    def _note(self, run_id: str, now: float) -> None:
        """Note a progress that is sent now, and drop what makes no difference any more."""
        if len(self._sent) >= MAX_RUNS:
            self._sent = {run: at for run, at in self._sent.items() if run in self._held or not self._is_due(run, now)}
        self._sent[run_id] = now

    def _late(self, held: Frame) -> bytes:
        cursor = max(held.cursor, self._cursor)
        return b"id: %d\n" % cursor + held.data.partition(b"\n")[2]
