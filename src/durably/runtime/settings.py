"""How a worker works: times, counts and limits, checked when they are made. Nothing here acts on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from durably.errors import ValidationError

MIN_LEASE = timedelta(milliseconds=100)
MAX_SCHEMA = 55
"""PostgreSQL allows 63, and the channel of the wake-ups begins with `durably_`."""
MAX_COUNT = 2**31 - 1
MAX_SPAN = timedelta(days=36_500)
_SPANS = ("lease", "poll_interval", "grace")
_OPTIONAL_SPANS = ("renewal", "retain_runs", "retain_events")


def check_span(value: object, *, field: str) -> None:
    """Raise ValidationError for what is no timedelta, or is over a hundred years."""
    if not isinstance(value, timedelta):
        remedy = f"timedelta(seconds={value})" if isinstance(value, int | float) else "timedelta(seconds=30)"
        raise ValidationError(field, f"{value!r} must be a timedelta: {remedy}")
    if value > MAX_SPAN:
        raise ValidationError(field, f"{value} is too long: at most {MAX_SPAN.days} days are allowed")


def check_lease(value: object) -> None:
    """Raise ValidationError for what can be no lease; None means that of the database."""
    if value is not None:
        check_span(value, field="lease")


def check_schema(value: object) -> None:
    """Raise ValidationError for what is no text, or too long to be a schema's name."""
    if not isinstance(value, str):
        raise ValidationError("schema", f"must be a str, not a {type(value).__name__}")
    if len(value) > MAX_SCHEMA:
        raise ValidationError("schema", f"has {len(value)} characters, at most {MAX_SCHEMA} are allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker is told. Raises ValidationError, naming the field and the remedy, for values that cannot work."""

    lease: timedelta = timedelta(seconds=30)
    """How long a run stays with a worker that gives no sign of life; at least 100 ms."""
    renewal: timedelta | None = None
    """How often leases are renewed; None means a third of `lease`, which is also the most."""
    poll_interval: timedelta = timedelta(seconds=1)
    """How long a wake-up that got lost can delay a run."""
    max_concurrent_runs: int = 10
    max_crashes: int = 3
    """A run whose lease expired this often without a new checkpoint in between is failed."""
    grace: timedelta = timedelta(seconds=10)
    """How long runs may go on after `stop` before they are interrupted."""
    max_value_bytes: int = 1024 * 1024
    """The most that one input, step result or output may take as JSON."""
    preserve_steps: bool = True
    """False drops the stored steps of every run that completed; a job can ask for that too."""
    retain_runs: timedelta | None = None
    """Runs that ended longer ago are deleted with their steps and logs; None keeps them."""
    retain_events: timedelta | None = timedelta(days=7)
    """Events older than that are deleted; None keeps them."""

    def __post_init__(self) -> None:
        given = [name for name in _OPTIONAL_SPANS if getattr(self, name) is not None]
        for name in (*_SPANS, *given):
            check_span(getattr(self, name), field=name)
        self._check_spans()
        for name in ("max_concurrent_runs", "max_crashes", "max_value_bytes"):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
                raise ValidationError(name, f"{value!r} must be a whole number, at least 1 and at most {MAX_COUNT}")
        if not _is_bool(self.preserve_steps):
            raise ValidationError("preserve_steps", f"{self.preserve_steps!r} must be True or False")

    def _check_spans(self) -> None:
        if self.lease < MIN_LEASE:
            raise ValidationError("lease", f"{self.lease} is too short: use at least 0.1 s (5 to 60 s are usual)")
        if self.renewal is not None and not timedelta(0) < self.renewal <= self.lease / 3:
            raise ValidationError(
                "renewal",
                f"{self.renewal} must be over 0 and at most a third of the lease ({self.lease / 3}), "
                "so that two renewals may fail: shorten it, lengthen the lease, or leave it out",
            )
        if self.poll_interval <= timedelta(0):
            raise ValidationError("poll_interval", f"{self.poll_interval} must be over 0; 1 s is usual")
        if self.grace < timedelta(0):
            raise ValidationError("grace", f"{self.grace} must not be negative; 0 interrupts runs at once")
        for name in ("retain_runs", "retain_events"):
            kept: timedelta | None = getattr(self, name)
            if kept is not None and kept <= timedelta(0):
                raise ValidationError(name, f"{kept} must be over 0; None keeps them for ever")

    @property
    def renewal_seconds(self) -> float:
        """Seconds between two renewals."""
        return (self.renewal or self.lease / 3).total_seconds()

    @property
    def lease_seconds(self) -> float:
        """The length of a lease in seconds."""
        return self.lease.total_seconds()


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)
