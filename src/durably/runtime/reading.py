"""Rows as their callers see them: runs with the types of their job, run ids and filters from outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, Generic, TypeGuard, TypeVar

from durably.codec import PLAIN_JSON, Codec, codec_for
from durably.errors import RunNotFound, ValidationError
from durably.jobs import Target
from durably.model import Disposition, Enqueued, Run, RunStatus, RunTypes, StoredRun
from durably.rules.naming import check_job_name
from durably.store.runs import NewlyStored

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

MAX_PAGE = 1000
MAX_CURSOR = 2**62
"""More than there can be events, and still a whole number for both databases."""
MAX_SEQ = 2**31 - 1
"""More than a run can have events or lines of its log."""
MAX_LIMIT = 2**31 - 1
"""The most slots that a concurrency key can have."""
MAX_TIMEOUT = 36_500 * 86_400

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class JobTypes(Generic[InputT, OutputT]):
    """Decodes the values of a job's runs. Copies of a run share it; a pickled run comes back with plain JSON."""

    def __init__(self, input_codec: Codec[InputT], output_codec: Codec[OutputT]) -> None:
        self._input_codec = input_codec
        self._output_codec = output_codec

    def decode_input(self, run_id: str, text: str) -> InputT:
        """Return the input. Raises SerializationError when it does not fit the type."""
        return self._input_codec.decode(text, where=f"input of run {run_id}")

    def decode_output(self, run_id: str, text: str) -> OutputT:
        """Return the output. Raises SerializationError when it does not fit the type."""
        return self._output_codec.decode(text, where=f"output of run {run_id}")

    def __deepcopy__(self, _memo: object) -> JobTypes[InputT, OutputT]:
        return self

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return _plain_types, ()


PLAIN_TYPES: Final[JobTypes[object, object]] = JobTypes(codec_for(PLAIN_JSON), codec_for(PLAIN_JSON))


def _plain_types() -> object:
    return PLAIN_TYPES


def types_of(target: Target[Any, OutputT]) -> JobTypes[Any, OutputT]:
    """Return the types of a job's values."""
    return JobTypes(target.input_codec, target.output_codec)


def types_in(target: Target[Any, OutputT], run: StoredRun) -> JobTypes[Any, OutputT]:
    """Return the types of a job's values for one of its runs. Raises ValidationError for a run of another job."""
    if target.name != run.job:
        raise ValidationError("job", f"run {run.id} is of job {run.job!r}, not of {target.name!r}")
    return types_of(target)


_values = attrgetter(*(one.name for one in fields(StoredRun)))
_make: Callable[..., Run[Any]] = Run
"""A run begins with the fields of its row. They go by position: by name they would take three times as long."""


def to_run(
    stored: StoredRun,
    types: RunTypes[OutputT],
    disposition: Disposition | None = None,
    *,
    is_committed: bool = True,
) -> Run[OutputT]:
    """Return the row as a run whose values are decoded by `types`."""
    return _make(*_values(stored), types, disposition, is_committed)


def to_runs(stored: Sequence[Enqueued], types: RunTypes[OutputT], *, is_committed: bool = True) -> list[Run[OutputT]]:
    """Return what triggers came to as runs whose values are decoded by `types`."""
    if isinstance(stored, NewlyStored):
        return [_make(*values, types, Disposition.CREATED, is_committed) for values in stored.rows()]
    return [to_run(one.run, types, one.disposition, is_committed=is_committed) for one in stored]


def find_run_id(run: object, *, field: str = "run") -> str | None:
    """Return the id of a run as the database writes it; None when no run can have such an id."""
    given = run.id if isinstance(run, Run) else run
    if not isinstance(given, str):
        raise ValidationError(field, f"must be a Run or its id, not a {type(given).__name__}")
    return given.lower() if _RUN_ID.fullmatch(given) else None


def check_run_id(run: object, *, field: str = "run") -> str:
    """Return the id of a run as the database writes it. Raises RunNotFound when no run can have such an id."""
    run_id = find_run_id(run, field=field)
    if run_id is None:
        raise RunNotFound(str(run))
    return run_id


def check_page(limit: object, *, maximum: int = MAX_PAGE) -> int:
    """Return how many items a page has. Raises ValidationError."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= maximum:
        raise ValidationError("limit", f"{limit!r} must be a whole number from 1 to {maximum}")
    return limit


def check_count(count: object, *, field: str, maximum: int | None = None) -> int:
    """Return a whole number from 0 on. Raises ValidationError."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0 or (maximum is not None and count > maximum):
        rule = "at least 0" if maximum is None else f"from 0 to {maximum}"
        raise ValidationError(field, f"{count!r} must be a whole number, {rule}")
    return count


def check_cursor(after: object, *, field: str = "after", of_run: bool = False) -> int:
    """Return where to read on; what is beyond everything stays so, as a number that databases take.

    Raises ValidationError.
    """
    return min(check_count(after, field=field), MAX_SEQ if of_run else MAX_CURSOR)


def check_timeout(timeout: object) -> float | None:
    """Return for how many seconds to wait; None means without end. Raises ValidationError."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ValidationError("timeout", f"{timeout!r} must be a number of seconds")
    if not timeout <= MAX_TIMEOUT:
        raise ValidationError("timeout", "must be at most a hundred years; None waits without end")
    return timeout


def check_statuses(statuses: str | Iterable[str] | None, *, field: str = "status") -> tuple[RunStatus, ...]:
    """Return statuses given as one or several words. Raises ValidationError."""
    if statuses is None:
        return ()
    several: Iterable[object] = (statuses,) if isinstance(statuses, str) else _several(statuses)
    try:
        return tuple(dict.fromkeys(RunStatus(str(status)) for status in several))
    except ValueError as error:
        known = ", ".join(RunStatus)
        raise ValidationError(field, f"{error}: must be one of {known}") from error


def names_of(jobs: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None) -> tuple[str, ...]:
    """Return the names of one or several jobs. Raises ValidationError."""
    if jobs is None:
        return ()
    several: Iterable[Target[Any, Any] | object] = (jobs,) if isinstance(jobs, Target | str) else _several(jobs)
    return tuple(dict.fromkeys(job.name if isinstance(job, Target) else check_job_name(job) for job in several))


def _several(given: object) -> Iterable[object]:
    """What is no collection counts as one value, which its check refuses."""
    return given if _is_iterable(given) else (given,)


def _is_iterable(given: object) -> TypeGuard[Iterable[object]]:
    return isinstance(given, Iterable)
