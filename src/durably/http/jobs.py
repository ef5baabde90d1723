"""The jobs that may be triggered through a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durably import Durably, Job
from durably.jobs import Registry, Target, listed


class KnownJobs:
    """The jobs that the application named, and those of the workers of its Durably."""

    def __init__(self, durably: Durably, jobs: Iterable[Target[Any, Any] | str]) -> None:
        """`jobs` are `Job` and `JobRef` objects, and names of modules whose jobs are meant: imported at once."""
        self._durably = durably
        self._named: dict[str, Target[Any, Any]] = {}
        for source in listed(jobs, field="jobs"):
            for job in self._jobs_of(source):
                self._named[job.name] = job

    def find(self, name: str) -> Target[Any, Any] | None:
        """Return the job of this name, None if nobody here knows it."""
        return self._named.get(name) or next((job for job in self._durably.get_jobs() if job.name == name), None)

    def all(self) -> list[Target[Any, Any]]:
        """Return all known jobs, by name."""
        known: dict[str, Target[Any, Any]] = {job.name: job for job in self._durably.get_jobs()}
        return [job for _, job in sorted((known | self._named).items())]

    @staticmethod
    def _jobs_of(source: Target[Any, Any] | str) -> list[Target[Any, Any]]:
        if isinstance(source, Target) and not isinstance(source, Job):
            return [source]
        registry = Registry([source])  # what is no job at all gets its error from there
        return [job for name in registry.names if (job := registry.get(name)) is not None]
