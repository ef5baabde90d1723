"""The jobs of a worker, by name."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeGuard, TypeVar, overload

from durably.errors import DuplicateJob, UsageError, ValidationError
from durably.jobs.job import Job, JobRef

T = TypeVar("T")


class Registry:
    """The jobs of a worker, by name. Modules are imported when a job is first asked for."""

    def __init__(
        self, jobs: Iterable[Job[Any, Any] | str], *, only: Iterable[str] = (), exclude: Iterable[str] = ()
    ) -> None:
        """Take `Job` objects, and names of modules whose module-level jobs are meant.

        Of these, the ones whose names match a pattern of `only` (none means all) and none of `exclude`. Raises
        ValidationError for a single one where a list belongs.
        """
        self._sources = listed(jobs, field="jobs")
        self._only = listed(only, field="only")
        self._exclude = listed(exclude, field="exclude")

    @cached_property
    def _jobs(self) -> dict[str, Job[Any, Any]]:
        found: dict[str, Job[Any, Any]] = {}
        for source in self._sources:
            for job in jobs_of_module(source) if isinstance(source, str) else (_check_job(source),):
                if found.setdefault(job.name, job) is not job:
                    raise DuplicateJob(job.name)
        return self._chosen(found)

    def _chosen(self, found: dict[str, Job[Any, Any]]) -> dict[str, Job[Any, Any]]:
        for pattern in (*self._only, *self._exclude):
            if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
                raise UsageError(f"no job matches {pattern!r}: there are {', '.join(sorted(found)) or 'none'}")
        chosen = {
            name: job
            for name, job in found.items()
            if (not self._only or _matches(name, self._only)) and not _matches(name, self._exclude)
        }
        if found and not chosen:
            raise UsageError("no job is left to work on: `only` and `exclude` leave out all of them")
        return chosen

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted(self._jobs))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all jobs, sorted. Raises UsageError for a module without jobs, DuplicateJob."""
        return self._names

    @property
    def live_names(self) -> Sequence[str]:
        """The same, but what is registered later is in it too. Raises like `names`, at once."""
        _ = self.names
        return _LiveNames(self)

    def add(self, source: Job[Any, Any] | str, *, replace: bool = False) -> None:
        """Add a job, or all those of a module. With `replace` a job takes the place of one of the same name.

        Raises DuplicateJob where a name is taken; nothing is added then. UsageError for what is no job.
        """
        added = jobs_of_module(source) if isinstance(source, str) else [_check_job(source)]
        for job in added:
            if not replace and self._jobs.get(job.name, job) is not job:
                raise DuplicateJob(job.name)
        self._jobs.update({job.name: job for job in added})
        self.__dict__.pop("_names", None)

    def get(self, name: str) -> Job[Any, Any] | None:
        """The job of this name, None if there is none. Raises like `names`."""
        return self._jobs.get(name)


class _LiveNames(Sequence[str]):
    """The names of a registry as they are whenever they are looked at."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        return self._registry.names[place]

    def __len__(self) -> int:
        return len(self._registry.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names)


def listed(given: Iterable[T], *, field: str) -> tuple[T, ...]:
    """Return what a list holds. Raises ValidationError for a single thing; a text would be taken letter by letter."""
    if not _is_list(given):
        shown = repr(given) if isinstance(given, str) else f"a {type(given).__name__}"
        raise ValidationError(field, f"must be a list, not {shown}: put it into brackets, {field}=[...]")
    return tuple(given)


def _is_list(given: object) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, str | bytes)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def jobs_of_module(name: str) -> list[Job[Any, Any]]:
    """Import a module and return its module-level jobs, each once."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {name!r} to take jobs from") from error
        raise
    members: list[object] = list(vars(module).values())
    found = {id(member): member for member in members if _is_job(member)}
    if not found:
        raise UsageError(f"module {name!r} has no jobs: a job is a function under @job at its top level")
    return list(found.values())


def _is_job(value: object) -> TypeGuard[Job[Any, Any]]:
    return isinstance(value, Job)


def _check_job(source: object) -> Job[Any, Any]:
    if _is_job(source):
        return source
    if isinstance(source, JobRef):
        raise UsageError(f"{source!r} only refers to a job: a worker needs the function under @job")
    name = getattr(source, "__name__", type(source).__name__)
    raise UsageError(f"{name} is not a job: put @job onto the function, or give the name of its module")
