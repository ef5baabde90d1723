"""What is known of a database's condition: facts as they were read, and what they mean for who looks after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may cost time or space."""
    PROBLEM = "problem"
    """Something does not work, or will stop working."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check of `Durably.diagnose` came to."""

    check: str
    """Which check: `schema`, `clock`, `wake-ups`, `slots`, `leases`, `jobs`, `bloat`, `autovacuum`, `wal`, ..."""
    level: Level
    message: str
    remedy: str | None = None
    """What to do about it; None when nothing is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimit:
    """A concurrency key: how many of its runs may be leased at once, how many hold a slot, how many wait for one."""

    key: str
    limit: int
    active: int
    waiting: int
    """Counted up to 1000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedMigration:
    """A migration that a database has."""

    version: int
    name: str
    serves: int
    """The oldest code, by schema version, that works with it."""
    applied_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job with runs that could be executed now."""

    job: str
    runs: int
    """Counted up to 1000."""
    since: datetime
    """When the first of them became claimable."""
    is_served: bool
    """Whether a run of the job is being executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredLeases:
    """Runs of a job whose lease ran out and that nobody continued yet."""

    job: str
    runs: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """A table of ours, or the file of an SQLite database: live and dead rows (pages of the file), and bytes."""

    name: str
    entries: int
    dead: int
    bytes: int
    is_vacuumed: bool
    """Whether autovacuum looks after it."""
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSize:
    """An index, and about how many bytes it would take if it were made anew."""

    name: str
    bytes: int
    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What the server says of itself."""

    is_vacuuming: bool
    oldest_transaction: timedelta | None
    """The age of the oldest open transaction in this database; None when there is none, or no server."""
    slot_bytes: int | None
    """How much log idle replication slots keep; None when there are none, or no server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How the database is reached."""

    is_pooled: bool = False
    """Whether a pooler sits before it."""
    hears: bool | None = None
    """Whether LISTEN hears a NOTIFY; None where there is no such thing."""
    wal_bytes: int | None = None
    """The size of SQLite's write-ahead log; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Everything that was read for a diagnosis."""

    is_server: bool
    """PostgreSQL, as opposed to SQLite."""
    now: datetime
    """The database's clock."""
    skew: timedelta
    """How far this machine's clock is ahead of it."""
    uncertainty: timedelta
    """How wrong `skew` may be: the time that asking took."""
    migrations: tuple[AppliedMigration, ...]
    newest: int
    """The schema version that this code knows."""
    connections: Connections
    drifted_keys: tuple[str, ...] = ()
    expired: tuple[ExpiredLeases, ...] = ()
    waiting: tuple[WaitingJob, ...] = ()
    served: frozenset[str] | None = None
    """The jobs that there are workers for, as the one who asked says; None when he does not."""
    tables: tuple[TableSize, ...] = ()
    indexes: tuple[IndexSize, ...] = ()
    server: ServerState = field(
        default_factory=lambda: ServerState(is_vacuuming=True, oldest_transaction=None, slot_bytes=None)
    )
