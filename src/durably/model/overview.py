"""What watchers see at a glance: a run at one moment, counts of runs, the state of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from durably.model.seen import Run, RunStatus

OutputT = TypeVar("OutputT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Generic[OutputT]):
    """A run as it was at one moment."""

    run: Run[OutputT]
    seq: int
    """The number of its last event: `events(run=run, after=seq)` continues from this moment."""
    lease_owner: str | None
    lease_expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """How many runs there are, and how fast they end."""

    counts: Mapping[str, Mapping[RunStatus, int]]
    """By job, then by status; what is not there is 0."""
    oldest_pending: Run[object] | None
    """The run that has been pending for longest; None when none is."""
    ended: Mapping[RunStatus, int]
    """How many runs ended in the last minute, by the status in which they ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWorker:
    """A worker that holds leases, or leased a run lately. One that has had nothing to do leaves no trace."""

    owner: str
    runs: int
    """How many runs it holds."""
    seen_at: datetime
    """When it last leased a run; if it holds runs, when its last lease ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of the database, as an answer from it."""

    schema_version: int
    """The newest migration that was applied to it."""
    code_version: int
    """The newest migration that this code knows."""
    workers: tuple[SeenWorker, ...]
