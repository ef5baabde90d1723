"""Acting on runs, and looking after a database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar, overload

from durably.jobs import Target
from durably.model import Finding, KeyLimit, Run, TableSize
from durably.sync.core import SyncCore

OutputT = TypeVar("OutputT")


class SyncActs(SyncCore):
    """The part of `SyncDurably` that changes runs from outside, and that operators ask."""

    @overload
    def cancel(self, run: Run[OutputT], *, connection: object = None) -> Run[OutputT]: ...
    @overload
    def cancel(self, run: str, *, connection: object = None) -> Run[object]: ...
    def cancel(self, run: Run[Any] | str, *, connection: object = None) -> Run[Any]:
        """See `Durably.cancel`."""
        if connection is not None:
            return self._durably.cancel_inside(connection, run)
        return self._portal.call(lambda: self._durably.cancel(run))

    @overload
    def resume(self, run: Run[OutputT]) -> Run[OutputT]: ...
    @overload
    def resume(self, run: str) -> Run[object]: ...
    def resume(self, run: Run[Any] | str) -> Run[Any]:
        """See `Durably.resume`."""
        return self._portal.call(lambda: self._durably.resume(run))

    def delete_run(self, run: Run[Any] | str) -> None:
        """See `Durably.delete_run`."""
        self._portal.call(lambda: self._durably.delete_run(run))

    def purge_runs(
        self,
        *,
        older_than: timedelta,
        statuses: str | Iterable[str] = ("cancelled", "completed", "failed"),
        limit: int | None = None,
    ) -> int:
        """See `Durably.purge_runs`."""
        return self._portal.call(
            lambda: self._durably.purge_runs(older_than=older_than, statuses=statuses, limit=limit)
        )

    def set_limit(self, key: str, limit: int) -> None:
        """See `Durably.set_limit`."""
        self._portal.call(lambda: self._durably.set_limit(key, limit))

    def get_limits(self, *, after: str = "", limit: int = 100) -> list[KeyLimit]:
        """See `Durably.get_limits`."""
        return self._portal.call(lambda: self._durably.get_limits(after=after, limit=limit))

    def count_purgeable(
        self, *, older_than: timedelta, statuses: str | Iterable[str] = ("cancelled", "completed", "failed")
    ) -> int:
        """See `Durably.count_purgeable`."""
        return self._portal.call(lambda: self._durably.count_purgeable(older_than=older_than, statuses=statuses))

    def table_sizes(self) -> list[TableSize]:
        """See `Durably.table_sizes`."""
        return self._portal.call(self._durably.table_sizes)

    def diagnose(self, *, jobs: Iterable[Target[Any, Any] | str] | None = None) -> list[Finding]:
        """See `Durably.diagnose`."""
        return self._portal.call(lambda: self._durably.diagnose(jobs=jobs))

    def migrate(self) -> tuple[str, ...]:
        """See `Durably.migrate`."""
        return self._portal.call(self._durably.migrate)

    def migration_sql(self) -> str:
        """See `Durably.migration_sql`."""
        return self._portal.call(self._durably.migration_sql)
