"""Every exception that durably raises, in one tree.

    DurablyError                     what a caller may catch
    ├── UsageError                   you: the call is wrong; nothing was written
    │   ├── ValidationError          an input, label, key, setting or URL is not acceptable
    │   ├── SerializationError       a value cannot be stored as JSON without changing
    │   ├── DuplicateStep            two steps of one name in one execution
    │   └── DuplicateJob             two jobs of one name in one worker
    ├── NotFound                     no such thing
    │   ├── RunNotFound
    │   └── JobNotFound
    ├── Conflict                     the state does not allow it
    │   ├── IdempotencyConflict      the key was used with another input
    │   ├── PendingRunExists         `if_pending="reject"` met a waiting run
    │   └── WrongStatus              the run is in a status that forbids the operation
    ├── RunFailed, RunCancelled      how a run ended, raised by `result`
    ├── SchemaError                  the database and this version of durably do not fit
    ├── DatabaseUnavailable          the environment: worth trying again
    └── DatabaseRefused              the database says no, and would again: rights, settings

    Interrupt (BaseException)        ends user code; `except Exception` does not catch it
    ├── Cancelled                    the run was cancelled
    ├── LeaseLost                    another worker holds the run, or nobody does
    └── Stopping                     the worker stops and hands the run back

Each class builds its own message from its data; `http_status` is what an HTTP layer answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durably.model import RunError


class DurablyError(Exception):
    """The root of everything that durably raises for a caller to catch."""

    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class UsageError(DurablyError):
    """The call is wrong and would be wrong again; nothing was written."""

    http_status = 400


class ValidationError(UsageError):
    """A value that the caller gave is not acceptable. `field` names it, `reason` says why and what to do."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class SerializationError(UsageError):
    """A value cannot be stored as JSON, or would come back changed. `where` names the value, `path` the place in it."""

    def __init__(self, where: str, path: str, reason: str) -> None:
        place = f" at {path}" if path else ""
        super().__init__(f"{where}{place}: {reason}")
        self.where = where
        self.path = path
        self.reason = reason


class DuplicateStep(UsageError):
    """Two steps of one execution have the same name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"step {name!r} was already used in this run: give each step its own name, or pass key= in a loop"
        )
        self.name = name


class DuplicateJob(UsageError):
    """Two jobs of one worker have the same name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"two jobs are named {name!r}: every job of a worker needs its own name")
        self.name = name


class NotFound(DurablyError):
    """There is no such thing."""

    http_status = 404


class RunNotFound(NotFound):
    """No run has this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run not found: {run_id}")
        self.run_id = run_id


class JobNotFound(NotFound):
    """No job of this name is known here."""

    def __init__(self, job: str, known: Sequence[str] = ()) -> None:
        hint = f" (known here: {', '.join(sorted(known))})" if known else ""
        super().__init__(f"job not found: {job}{hint}")
        self.job = job
        self.known = tuple(known)


class Conflict(DurablyError):
    """The state of a run does not allow the operation; nothing was written."""

    http_status = 409


def _item(index: int | None) -> str:
    """Say which item of a `trigger_many` it was."""
    return "" if index is None else f"items[{index}]: "


class IdempotencyConflict(Conflict):
    """The idempotency key belongs to a run of the same job with another input."""

    def __init__(self, job: str, key: str, run_id: str, *, index: int | None = None) -> None:
        super().__init__(
            f"{_item(index)}idempotency key {key!r} of job {job!r} belongs to run {run_id}, which has a different "
            "input: use another key, or the same input"
        )
        self.job = job
        self.key = key
        self.run_id = run_id
        self.index = index


class PendingRunExists(Conflict):
    """A run of the same job and concurrency key has not started yet, and `if_pending` is "reject"."""

    def __init__(self, job: str, key: str, run_id: str, *, index: int | None = None) -> None:
        super().__init__(
            f"{_item(index)}run {run_id} of job {job!r} already waits for concurrency key {key!r}: "
            'use if_pending="skip", "replace" or "queue" to accept that'
        )
        self.job = job
        self.key = key
        self.run_id = run_id
        self.index = index


class WrongStatus(Conflict):
    """The run is in a status in which the operation is not allowed."""

    def __init__(self, operation: str, run_id: str, status: str) -> None:
        already = "already " if operation == "cancel" and status == "cancelled" else ""
        super().__init__(f"cannot {operation} {already}{status} run: {run_id}")
        self.operation = operation
        self.run_id = run_id
        self.status = status


class RunFailed(DurablyError):
    """The run whose result was asked for has failed. `error` is what ended it."""

    def __init__(self, run_id: str, error: RunError | None) -> None:
        what = f"{error.type}: {error.message}" if error else "unknown error"
        step = f" in step {error.step!r}" if error and error.step else ""
        super().__init__(f"run {run_id} failed{step}: {what}")
        self.run_id = run_id
        self.error = error


class RunCancelled(DurablyError):
    """The run whose result was asked for was cancelled."""

    http_status = 409

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} was cancelled")
        self.run_id = run_id


class SchemaError(DurablyError):
    """The tables in the database do not fit this version of durably; the text says which side to change.

    `version` is the schema version that the database has, 0 without tables; None where that is not the point.
    `is_too_new` says that this durably is the one to be upgraded.
    """

    def __init__(self, message: str, *, version: int | None = None, is_too_new: bool = False) -> None:
        super().__init__(message)
        self.version = version
        self.is_too_new = is_too_new


class DatabaseUnavailable(DurablyError):
    """The database cannot be reached or does not answer; the same call may succeed later."""

    http_status = 503
    retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database is not available: {reason}")
        self.reason = reason


class DatabaseRefused(DurablyError):
    """The database can be reached and says no, and would again: rights are missing, a setting is unknown to it.

    `reason` is what it says. `__cause__` is the error of its driver.
    """

    def __init__(self, reason: str, *, is_constraint: bool = False) -> None:
        super().__init__(f"the database refuses: {reason}")
        self.reason = reason
        self.is_constraint = is_constraint
        """Whether a rule of the tables said no."""


class Interrupt(BaseException):
    """Ends user code from outside. Not an `Exception`, so that a job's own handlers cannot swallow it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"{self.reason}: {run_id}")
        self.run_id = run_id

    reason: ClassVar[str] = "run interrupted"


class Cancelled(Interrupt):
    """The run was cancelled, here or in another process."""

    reason = "run cancelled"


class LeaseLost(Interrupt):
    """The lease has ended: another worker holds the run, or the run is gone. Nothing more can be stored."""

    reason = "lease lost"


class Stopping(Interrupt):
    """The worker stops; the run goes back to pending and continues elsewhere after its last stored step."""

    reason = "worker stopping"
