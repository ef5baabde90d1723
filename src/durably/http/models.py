"""The shapes of bodies and answers. What a client sends is checked by them; the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Text = Annotated[str, Field(max_length=512)]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", examples=["2026-11-22T15:29:16.510Z"])]
Status = Literal["pending", "leased", "completed", "failed", "cancelled"]
Number = Annotated[int, Field(ge=0)]
COALESCE = ("skip", "replace", "reject")


class Shape(BaseModel):
    """JSON in the words of the wire."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class TriggerBody(Shape):
    """What to trigger."""

    model_config = ConfigDict(extra="ignore")

    job_name: Annotated[str, Field(min_length=1)]
    input: Any = None
    idempotency_key: Text | None = None
    """The same key with the same input gives the same run; with another input it is a conflict."""
    concurrency_key: Text | None = None
    """Runs of one key do not overlap."""
    labels: dict[str, Text] | None = None
    coalesce: Annotated[Literal["skip", "replace", "reject"], Field(default_factory=lambda: "skip")]
    """What to do about a run of the same job and concurrency key that has not started; without it, queue behind it."""


class Failure(Shape):
    """Why not."""

    error: Annotated[str, Field(min_length=1)]


class Triggered(Shape):
    """Which run, and whether it is a new one."""

    run_id: str
    disposition: Literal["created", "idempotent", "coalesced", "replaced"]


class Done(Shape):
    """It is done."""

    success: Literal[True]


class Again(Done):
    """It is done, with this run."""

    run_id: str


class ProgressView(Shape):
    """How far a run says it is. What it did not say is left out."""

    current: float
    total: Annotated[float, Field(default_factory=float)]
    message: Annotated[str, Field(default_factory=str)]


class RunView(Shape):
    """A run."""

    id: str
    job_name: str
    input: Any
    status: Status
    current_step_index: Number
    completed_step_count: Number
    progress: ProgressView | None
    output: Any
    error: str | None
    labels: dict[str, str]
    started_at: Time | None
    completed_at: Time | None
    created_at: Time
    is_terminal: bool
    is_active: bool
    attempt: Number
    """Executions so far."""
    priority: int
    available_at: Time | None
    """The start time that was asked for; null means at once."""
    waiting_for: Literal["key", "time"] | None
    """Why a pending run does not start: others of its concurrency key, or its start time."""


class StepView(Shape):
    """A finished step."""

    id: str
    run_id: str
    name: str
    index: Number
    status: Literal["completed", "failed", "cancelled"]
    output: Any
    error: str | None
    started_at: Time
    completed_at: Time


class LogView(Shape):
    """A line of a run's log."""

    seq: Number
    """The next page is the one `after` the last one of this page."""
    run_id: str
    step_name: str | None
    level: Literal["info", "warn", "error"]
    message: str
    data: Any
    created_at: Time


class JobView(Shape):
    """A job that can be triggered here, with the JSON schemas of its values; null where there is none."""

    name: str
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None


class CountsView(Shape):
    """How many runs are in each status."""

    pending: Number
    leased: Number
    completed: Number
    failed: Number
    cancelled: Number


class JobCountsView(CountsView):
    """The same for one job."""

    job_name: str


class ThroughputView(Shape):
    """How many runs ended within the last minute."""

    completed: Number
    failed: Number
    cancelled: Number


class StatsView(Shape):
    """Counts of runs. They may be a few seconds old."""

    total: CountsView
    jobs: list[JobCountsView]
    oldest_pending: RunView | None
    per_minute: ThroughputView


class WorkerView(Shape):
    """A worker that holds leases or leased a run lately."""

    owner: str
    runs: Number
    seen_at: Time


class HealthView(Shape):
    """The database answers."""

    status: Literal["ok"]
    schema_version: Number
    code_version: Number
    workers: list[WorkerView]


class Document(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str
