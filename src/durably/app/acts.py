"""Acting on runs: cancel, resume, delete, limits."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar, overload

from durably.app.core import Core
from durably.model import TERMINAL, EventType, Run
from durably.rules.naming import check_delay, check_key
from durably.runtime.acting import change_run, purge
from durably.runtime.inside import cancel_inside
from durably.runtime.reading import (
    MAX_LIMIT,
    PLAIN_TYPES,
    check_count,
    check_page,
    check_run_id,
    check_statuses,
    to_run,
)
from durably.store import actions
from durably.store import keys as store_keys
from durably.store.guest import Talk

OutputT = TypeVar("OutputT")

_ENDED = tuple(sorted(TERMINAL))


class Acts(Core):
    """The part of `Durably` that changes runs from outside."""

    @overload
    async def cancel(self, run: Run[OutputT], *, connection: object = None) -> Run[OutputT]: ...
    @overload
    async def cancel(self, run: str, *, connection: object = None) -> Run[object]: ...
    async def cancel(self, run: Run[Any] | str, *, connection: object = None) -> Run[Any]:
        """Cancel a run that has not ended, and return it.

        No further step of it is stored from now on, and its code is interrupted within a second, in whatever process
        it runs. Raises RunNotFound, WrongStatus when it has ended. With `connection` it is cancelled when the caller's
        transaction is committed: see `trigger`.
        """
        if connection is not None:
            return await self._guest.run_async(connection, self._talk_of_cancel(run))
        cancelled = await change_run(await self._database(), self._environment, actions.cancel, check_run_id(run))
        self._announce(EventType.RUN_CANCEL, cancelled)
        return to_run(cancelled, run.types if isinstance(run, Run) else PLAIN_TYPES)

    def _talk_of_cancel(self, run: Run[Any] | str) -> Talk[Run[Any]]:
        cancelled = yield from cancel_inside(check_run_id(run), token=self._environment.new_id())
        return to_run(cancelled, run.types if isinstance(run, Run) else PLAIN_TYPES, is_committed=False)

    @overload
    async def resume(self, run: Run[OutputT]) -> Run[OutputT]: ...
    @overload
    async def resume(self, run: str) -> Run[object]: ...
    async def resume(self, run: Run[Any] | str) -> Run[Any]:
        """Let a failed run continue after its last stored step, and return it.

        Raises RunNotFound, WrongStatus when it has not failed.
        """
        resumed = await change_run(await self._database(), self._environment, actions.resume, check_run_id(run))
        self._announce(EventType.RUN_RESUME, resumed)
        return to_run(resumed, run.types if isinstance(run, Run) else PLAIN_TYPES)

    async def delete_run(self, run: Run[Any] | str) -> None:
        """Delete a run that has ended, with its steps and logs. Its idempotency key is free again.

        Raises RunNotFound, WrongStatus when it has not ended.
        """
        deleted = await change_run(await self._database(), self._environment, actions.delete, check_run_id(run))
        self._announce(EventType.RUN_DELETE, deleted)

    async def purge_runs(
        self, *, older_than: timedelta, statuses: str | Iterable[str] = _ENDED, limit: int | None = None
    ) -> int:
        """Delete the runs that ended longer ago than that, in any of these statuses. Returns how many went.

        At most `limit`, the oldest first within a status. They go in small batches with pauses, so that workers and
        triggers are not held up.
        """
        checked = check_statuses(statuses, field="statuses")
        age = check_delay(older_than, field="older_than")
        most = None if limit is None else check_page(limit, maximum=10**12)
        return await purge(await self._database(), self._environment, older_than=age, statuses=checked, limit=most)

    async def set_limit(self, key: str, limit: int) -> None:
        """Let up to `limit` runs of a concurrency key run at once, from now on; 0 lets none start. The default is 1."""
        checked, most = check_key(key, field="key"), check_count(limit, field="limit", maximum=MAX_LIMIT)
        await (await self._database()).run(store_keys.set_limit(checked, most))
