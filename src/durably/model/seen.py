"""What users see: runs, steps, events, logs, filters, and the words for their states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from durably.model.lean import lean

IfPending: TypeAlias = Literal["queue", "skip", "replace", "reject"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Labels: TypeAlias = Mapping[str, str]

OutputT = TypeVar("OutputT")
OutputT_co = TypeVar("OutputT_co", covariant=True)


class RunStatus(StrEnum):
    """Where a run is in its life; `completed`, `failed` and `cancelled` are terminal."""

    PENDING = "pending"
    LEASED = "leased"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing but an explicit `resume` (of a failed run) changes it any more."""
        return self in TERMINAL


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class Hold(StrEnum):
    """Why a pending run cannot be claimed yet."""

    KEY = "key"
    """It waits for a slot of its concurrency key."""
    TIME = "time"
    """It waits for its start time."""
    ADMIT = "admit"
    """It was triggered in a transaction of its caller's: a worker has yet to put it in line for its key."""


class StepStatus(StrEnum):
    """How a step ended; a step in progress is not stored."""

    COMPLETED = "completed"
    FAILED = "failed"


class Disposition(StrEnum):
    """What a trigger did."""

    CREATED = "created"
    IDEMPOTENT = "idempotent"
    """The idempotency key belongs to an older run with the same input, which is returned."""
    COALESCED = "coalesced"
    """`if_pending="skip"` found a waiting run, which is returned unchanged."""
    REPLACED = "replaced"
    """`if_pending="replace"` found a waiting run, which now has this input."""


class EventType(StrEnum):
    """The kinds of events; `worker:error` stays in the process that made it, all others are stored."""

    RUN_TRIGGER = "run:trigger"
    RUN_COALESCED = "run:coalesced"
    RUN_REPLACE = "run:replace"
    RUN_LEASED = "run:leased"
    RUN_RELEASE = "run:release"
    RUN_PROGRESS = "run:progress"
    RUN_COMPLETE = "run:complete"
    RUN_FAIL = "run:fail"
    RUN_CANCEL = "run:cancel"
    RUN_RESUME = "run:resume"
    RUN_DELETE = "run:delete"
    STEP_START = "step:start"
    STEP_COMPLETE = "step:complete"
    STEP_FAIL = "step:fail"
    STEP_CANCEL = "step:cancel"
    LOG_WRITE = "log:write"
    WORKER_ERROR = "worker:error"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunError:
    """What ended a run or a step: the exception's class name and text, its traceback, and the step it left."""

    type: str
    message: str
    traceback: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run says it is. `total` is None when the job did not say."""

    current: float
    total: float | None = None
    message: str | None = None


def no_labels() -> Labels:
    """None at all: `dict[str, str]()` would take three times as long."""
    return {}


@lean
class NewRun:
    """A run to be stored. `id` is the caller's, so that repeating the write is safe."""

    id: str
    job: str
    input_json: str
    input_digest: str | None = None
    """SHA-256 of the canonical input; set exactly when there is an idempotency key."""
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    if_pending: IfPending = "queue"
    labels: Labels = field(default_factory=no_labels)
    priority: int = 0
    delay: timedelta | None = None
    run_at: datetime | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it has neither key, so that storing it needs no look at other runs."""
        return self.idempotency_key is None and self.concurrency_key is None


@lean
class StoredRun:
    """A run as its row says it, values still JSON text."""

    id: str
    job: str
    input_json: str
    status: RunStatus
    hold: Hold | None
    priority: int
    idempotency_key: str | None
    concurrency_key: str | None
    labels: Labels
    generation: int
    attempt: int
    """Executions so far, counting the current one; a run handed back in good order is not counted."""
    crashes: int
    """Leases that expired since the last new checkpoint."""
    output_json: str | None
    error: RunError | None
    progress: Progress | None
    next_step: int
    completed_steps: int
    lease_owner: str | None
    lease_expires_at: datetime | None
    available_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class RunTypes(Protocol[OutputT_co]):
    """What the stored values of a run are decoded to: the job's types, or plain JSON where no job was given."""

    def decode_input(self, run_id: str, text: str) -> object:
        """Return the input. Raises SerializationError when it does not fit the type."""
        ...

    def decode_output(self, run_id: str, text: str) -> OutputT_co:
        """Return the output. Raises SerializationError when it does not fit the type."""
        ...


@lean
class Run(Generic[OutputT]):
    """A run as its caller sees it: a snapshot, not a live object.

    `input` and `output` are decoded when they are read, so a run is readable even if today's types are not those
    under which it was stored.
    """

    id: str
    job: str
    input_json: str
    status: RunStatus
    hold: Hold | None
    """Why a pending run cannot be claimed yet; None when it can, or is not pending."""
    priority: int
    idempotency_key: str | None
    concurrency_key: str | None
    labels: Labels
    generation: int
    attempt: int
    crashes: int
    """Leases that expired since the last new checkpoint."""
    output_json: str | None
    """None until it completed."""
    error: RunError | None
    progress: Progress | None
    next_step: int
    """Index after the last completed step."""
    completed_steps: int
    lease_owner: str | None
    """Which worker has it leased; None while nobody does."""
    lease_expires_at: datetime | None
    """Until when, unless the worker renews it before."""
    available_at: datetime | None
    """The start time that was asked for; None means at once."""
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    types: RunTypes[OutputT] = field(repr=False, compare=False)
    disposition: Disposition | None = None
    """What the trigger did; None on runs that were looked up."""
    is_committed: bool = True
    """False: it was made or changed in a transaction of the caller's (`connection=`), which had not ended then."""

    @property
    def input(self) -> object:
        """What the run was triggered with, as the job's input type where the job was given, else as plain JSON.

        Raises SerializationError when the stored value does not fit the type.
        """
        return self.types.decode_input(self.id, self.input_json)

    @property
    def output(self) -> OutputT | None:
        """What the job returned, as its return type where the job was given, else as plain JSON; None until then.

        Raises SerializationError when the stored value does not fit the type.
        """
        return None if self.output_json is None else self.types.decode_output(self.id, self.output_json)

    @property
    def is_terminal(self) -> bool:
        """Whether it completed, failed or was cancelled."""
        return self.status.is_terminal


@lean
class StepRecord:
    """A finished step. `name` includes the key: `insert[3]`."""

    run_id: str
    name: str
    position: int
    """Order in which the steps of the execution started, from 0."""
    status: StepStatus
    output_json: str | None
    error: RunError | None
    generation: int
    """The generation of the lease under which it was stored."""
    started_at: datetime
    completed_at: datetime
    replaces: bool = field(default=False, compare=False, repr=False)
    """For the store: whether a row of this name may be there, for the step failed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One state change. `id` grows over all runs, with holes; `seq` counts a run's events from 1 without gaps.

    `id`, `seq` are None for events of this process that are not read back from the store.
    """

    type: EventType
    run_id: str
    job: str
    labels: Labels
    step: str | None = None
    position: int | None = None
    """Index of the step, for events of steps."""
    payload_json: str | None = None
    """What the type adds: an object as JSON text, or None."""
    created_at: datetime | None = None
    id: int | None = None
    seq: int | None = None
    cursor: int | None = None
    """Where a subscriber continues after this event: it may meet some again, it misses none. Set by `events()`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a run's log. `step` is None for lines written between steps."""

    run_id: str
    seq: int
    step: str | None
    level: LogLevel
    message: str
    data_json: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list. Conditions are ANDed, the values of one condition ORed; empty means any."""

    jobs: tuple[str, ...] = ()
    statuses: tuple[RunStatus, ...] = ()
    labels: Labels = field(default_factory=dict[str, str])
    concurrency_key: str | None = None
    before: str | None = None
    """Only runs older than the one with this id: the last id of the page before."""
    limit: int = 100
