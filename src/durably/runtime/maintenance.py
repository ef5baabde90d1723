"""What has to be done beside executing runs, on timers of its own that busy slots cannot starve.

Every worker does all of it; each piece is safe to do at the same time elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from durably.environment import Environment
from durably.model import TERMINAL, Ending, Lease, RunError, RunStatus
from durably.rules.schedule import backoff_seconds
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.store.actions import purge_runs
from durably.store.database import Database
from durably.store.due import admit_due, release_due
from durably.store.events import purge_events
from durably.store.keys import audit_keys, find_drift, purge_keys
from durably.store.leases import crashed, fail_crashed

BATCH = 500
CRASHED_BATCH = 100
MIN_PAUSE_SECONDS = 0.1
"""Between two looks for due runs, however many wake-ups there are."""
RETENTION_SECONDS = 60.0
AUDIT_SECONDS = 60.0
KEYS_SECONDS = 600.0
MAX_BACKOFF_SECONDS = 30.0

_logger = logging.getLogger("durably.maintenance")


class Maintenance:
    """The chores of one worker. `wake` is called when runs became claimable; `held` tells the leases in its hands."""

    def __init__(
        self,
        database: Database,
        jobs: Sequence[str],
        *,
        settings: Settings,
        environment: Environment,
        reporter: Reporter,
        wake: Callable[[], None],
        held: Callable[[], Sequence[Lease]],
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._settings = settings
        self._environment = environment
        self._reporter = reporter
        self._wake = wake
        self._held = held
        self._woken = asyncio.Event()
        self._suspected: frozenset[str] = frozenset()

    def look(self) -> None:
        """Look for due runs soon: one may have been triggered that is due earlier."""
        self._woken.set()

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start the timers in this group; cancel the tasks to end them."""
        poll = self._settings.poll_interval.total_seconds()
        chores = [
            self._every("due", poll, self.release_due, woken=self._woken),
            self._every("expired", poll, self.fail_crashed),
            self._every("audit", AUDIT_SECONDS, self.audit),
            self._every("keys", KEYS_SECONDS, self.purge_keys),
        ]
        if self._settings.retain_runs is not None or self._settings.retain_events is not None:
            chores.append(self._every("retention", RETENTION_SECONDS, self.purge))
        return [group.create_task(chore) for chore in chores]

    async def _every(
        self,
        name: str,
        seconds: float,
        chore: Callable[[], Awaitable[float | None]],
        *,
        woken: asyncio.Event | None = None,
    ) -> None:
        """Do a chore about every so many seconds; it may ask to be done again sooner, and so may an event."""
        failures = 0
        while True:
            try:
                wanted = await chore()
            except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
                failures += 1
                self._reporter.error(name, error)
                await asyncio.sleep(backoff_seconds(failures, self._environment.random(), cap=MAX_BACKOFF_SECONDS))
                continue
            failures = 0
            usual = seconds * (0.75 + self._environment.random() / 2)
            await asyncio.sleep(MIN_PAUSE_SECONDS)
            await _rest((usual if wanted is None else min(usual, wanted)) - MIN_PAUSE_SECONDS, woken)

    # --- the chores -----------------------------------------------------------------------------------------

    async def release_due(self) -> float | None:
        """Make due runs claimable. Returns the seconds until the next one is due."""
        self._woken.clear()
        due = await self._database.run(release_due(BATCH))
        if due.keys:
            await self._database.run(admit_due(due.keys))
        if due.released or due.keys:
            self._wake()
        if due.released >= BATCH:
            return 0.0
        return None if due.next_in is None else max(due.next_in / timedelta(seconds=1), 0.0)

    async def fail_crashed(self) -> float | None:
        """Fail the runs that keep killing their process."""
        settings = self._settings
        found = await self._database.read(crashed(self._jobs, max_crashes=settings.max_crashes, limit=CRASHED_BATCH))
        mine = set(self._held())  # after an outage they are only late: whoever looks here is alive
        dead = [run for run in found if Lease(run.id, run.generation) not in mine]
        if not dead:
            return None
        for run in await self._database.run(fail_crashed(dead, max_crashes=settings.max_crashes)):
            error = run.error or RunError(type="WorkerCrashed", message="the lease ran out too often")
            _logger.error("run %s of job %r failed: %s", run.id, run.job, error.message)
            self._reporter.ended(run, Ending(status=RunStatus.FAILED, error=error))
        return 0.0 if len(dead) >= CRASHED_BATCH else None

    async def purge(self) -> float | None:
        """Delete what is older than it is to be kept, in small batches."""
        deleted = 0
        if self._settings.retain_runs is not None:
            for status in sorted(TERMINAL):
                operation = purge_runs(older_than=self._settings.retain_runs, status=status, limit=BATCH)
                deleted = max(deleted, await self._database.run(operation))
        if self._settings.retain_events is not None:
            operation = purge_events(older_than=self._settings.retain_events, limit=BATCH)
            deleted = max(deleted, await self._database.run(operation))
        return 0.0 if deleted >= BATCH else None

    async def audit(self) -> float | None:
        """Mend the counters of concurrency keys that were wrong twice in a row: the first look takes no locks."""
        found = frozenset(await self._database.read(find_drift()))
        suspected, self._suspected = self._suspected, found
        if confirmed := sorted(found & suspected):
            mended = await self._database.run(audit_keys(confirmed))
            self._reporter.error("audit", RuntimeError(f"slots of concurrency keys were miscounted: {mended}"))
            self._wake()
        return None

    async def purge_keys(self) -> float | None:
        """Forget concurrency keys that nobody uses any more."""
        return 0.0 if await self._database.run(purge_keys(BATCH)) >= BATCH else None


async def _rest(seconds: float, woken: asyncio.Event | None) -> None:
    """Wait so long, or until the event is set."""
    if woken is None:
        await asyncio.sleep(max(seconds, 0))
        return
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await woken.wait()
    except TimeoutError:
        return
