"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from durably.environment import SystemEnvironment
from durably.errors import ValidationError

START = datetime(2030, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_7, _VARIANT = 0x7 << 76, 0x2 << 62
_LOW_BITS = 42


class ManualClock(SystemEnvironment):
    """An `Environment` whose time is set by hand: for `harness(...)`, or for `Durably(url, environment=...)` on SQLite.

    `random()` is always 0.5, so that pauses of a random length have the same length in every test. Ids sort in the
    order in which they were made. Threads are real.
    """

    def __init__(self, start: datetime = START) -> None:
        """`start` needs a time zone. Raises ValidationError."""
        super().__init__()
        if start.utcoffset() is None:
            raise ValidationError("start", "must have a time zone: datetime(..., tzinfo=UTC)")
        self._now = start.astimezone(UTC)
        self._elapsed = timedelta(0)
        self._made = 0
        self._own = UUID(super().new_id()).int & ((1 << _LOW_BITS) - 1)

    def advance(self, by: timedelta) -> None:
        """Let time pass. Raises ValidationError for a negative time: a clock that goes back tests something else."""
        if by < timedelta(0):
            raise ValidationError("by", f"{by} must not be negative")
        self._now += by
        self._elapsed += by

    def now(self) -> datetime:
        """See `Environment`."""
        return self._now

    def now_us(self) -> int:
        """See `Environment`."""
        return (self._now - _EPOCH) // _MICROSECOND

    def monotonic(self) -> float:
        """See `Environment`. Counts from the clock's start."""
        return self._elapsed.total_seconds()

    def random(self) -> float:
        """See `Environment`."""
        return 0.5

    def new_id(self) -> str:
        """See `Environment`. After the millisecond comes a count, then bits of this clock's own."""
        self._made += 1
        tail = self._made << _LOW_BITS | self._own
        value = (self.now_us() // 1000) << 80 | _VERSION_7 | (tail >> 62) << 64 | _VARIANT | tail & ((1 << 62) - 1)
        return str(UUID(int=value))

    def new_ids(self, count: int) -> list[str]:
        """See `Environment`."""
        return [self.new_id() for _ in range(count)]
