"""Looking at many runs at a glance, and at one run at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from durably.app.core import Core
from durably.jobs import Job, Target
from durably.model import Disposition, Health, Labels, Run, RunFilter, SeenWorker, Snapshot, Stats
from durably.rules.naming import check_labels
from durably.runtime.reading import PLAIN_TYPES, find_run_id, names_of
from durably.runtime.reading import to_run as as_run
from durably.store import overview

LATELY = timedelta(minutes=1)


class Overview(Core):
    """The part of `Durably` that dashboards and servers ask."""

    def get_jobs(self) -> tuple[Job[Any, Any], ...]:
        """Return the jobs that workers of this Durably have, by name; of two of one name the newest worker's."""
        registries = [registry for made in self._registries if (registry := made()) is not None]
        found = {name: job for registry in registries for name in registry.names if (job := registry.get(name))}
        return tuple(found[name] for name in sorted(found))

    async def get_snapshot(self, run: Run[Any] | str) -> Snapshot[object] | None:
        """Return a run as it is now with the number of its last event; None when there is no such run.

        `events(run=run, after=snapshot.seq)` continues from there: nothing is missed and nothing comes twice.
        """
        run_id = find_run_id(run)
        stored = None if run_id is None else await (await self._database()).read(overview.snapshot(run_id))
        if stored is None:
            return None
        return Snapshot(
            run=as_run(stored.run, PLAIN_TYPES),
            seq=stored.seq,
            lease_owner=stored.run.lease_owner,
            lease_expires_at=stored.run.lease_expires_at,
        )

    async def _find_by_key(self, job: str, key: str) -> Run[object] | None:
        """Return what a trigger with this idempotency key finds; None when it finds nothing. For the server."""
        stored = await (await self._database()).read(overview.run_by_key(job, key))
        return None if stored is None else as_run(stored, PLAIN_TYPES, Disposition.IDEMPOTENT)

    async def get_stats(
        self,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        *,
        labels: Labels | None = None,
    ) -> Stats:
        """Return how many runs of some jobs with some labels there are in each status, and how fast they end.

        It counts all of them: a million takes a second or two, many times that on a busy machine; a fifth of it for
        one job of ten on SQLite. Writers do not wait for it. Raises DatabaseUnavailable after 30 seconds.
        """
        which = RunFilter(jobs=names_of(job), labels={} if labels is None else check_labels(labels))
        counts = await (await self._database()).read_aside(overview.count_runs(which, within=LATELY), timeout=30.0)
        oldest = counts.oldest_pending
        return Stats(
            counts=counts.by_job,
            oldest_pending=None if oldest is None else as_run(oldest, PLAIN_TYPES),
            ended=counts.ended,
        )

    async def get_health(self, *, timeout: float = 5.0) -> Health:
        """Return what the database says of its tables and of workers. Raises DatabaseUnavailable after `timeout` s."""
        database = await self._database()
        found = await database.read(overview.activity(), timeout=timeout)
        seen = {
            holder.owner: SeenWorker(owner=holder.owner, runs=holder.runs, seen_at=holder.expires_at)
            for holder in found.holders
        }
        for owner, at in found.recent.items():
            seen.setdefault(owner, SeenWorker(owner=owner, runs=0, seen_at=at))
        return Health(
            schema_version=found.schema_version,
            code_version=overview.code_version("postgres" if database.is_parallel else "sqlite"),
            workers=tuple(sorted(seen.values(), key=lambda worker: worker.owner)),
        )
