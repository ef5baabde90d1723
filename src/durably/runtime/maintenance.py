"""What has to be done beside executing runs, on timers of its own that busy slots cannot starve.

One look per poll interval, which writes nothing, tells what there is to do, and only that is done. What is claimable or
expired is the claimer's business and told to it; the rest is done here. Every worker does all of it; each piece is
safe to do at the same time elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

from durably.environment import Environment
from durably.model import TERMINAL, Ending, Outlook, RunError, RunStatus, StoredRun
from durably.rules.schedule import backoff_seconds
from durably.runtime.renewer import longest_backoff
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.store.actions import purge_runs
from durably.store.care import shrink_wal
from durably.store.database import Database
from durably.store.due import admit_due, look, release_due
from durably.store.events import purge_events
from durably.store.keys import audit_keys, find_drift, purge_keys
from durably.store.leases import crashed, fail_crashed

BATCH = 500
CRASHED_BATCH = 100
LOOK_SECONDS = 5.0
"""How long a look may take, before it is reported that the database is away."""
MIN_PAUSE_SECONDS = 0.1
"""Between two looks, however many wake-ups there are, and between a wake-up and the look for what it made due."""
RETENTION_SECONDS = 60.0
AUDIT_SECONDS = 60.0
KEYS_SECONDS = 600.0
WAL_SECONDS = 30.0
MAX_BACKOFF_SECONDS = 30.0

_logger = logging.getLogger("durably.maintenance")

_Suspect: TypeAlias = tuple[str, int, datetime | None]
"""A run that may be dead: its id, its generation, and when its lease ran out."""


class Maintenance:
    """The looks and the chores of one worker.

    `found` is told what a look found, `wake` is called when runs became claimable here; `held` tells the ids of the
    runs under way in this worker.
    """

    def __init__(
        self,
        database: Database,
        jobs: Sequence[str],
        *,
        settings: Settings,
        environment: Environment,
        reporter: Reporter,
        found: Callable[[Outlook], None],
        wake: Callable[[], None],
        held: Callable[[], Collection[str]],
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._settings = settings
        self._environment = environment
        self._reporter = reporter
        self._found = found
        self._wake = wake
        self._held = held
        self._woken = asyncio.Event()
        self._is_due = asyncio.Event()
        self._has_crashed = asyncio.Event()
        self._had_outage = False
        self._spared_until = 0.0
        self._suspects: dict[_Suspect, float] = {}
        self._suspected_at = 0.0
        self._adrift: frozenset[str] = frozenset()

    @property
    def has_suspects(self) -> bool:
        """Whether there are runs that will be failed for their crashes, unless they are renewed soon."""
        return bool(self._suspects)

    def look_soon(self) -> None:
        """Look before the next poll: a run may have been triggered that is due earlier."""
        self._woken.set()

    def outage(self) -> None:
        """The database was away: those who hold leases get time to renew them, before what ran out is given away."""
        self._had_outage = True
        self._suspects = {}

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start the timers in this group; cancel the tasks to end them."""
        turns = [
            self._again("look", self._look_and_tell, cap=longest_backoff(self._settings)),
            self._again("due", partial(self._when, self._is_due, self.release_due)),
            self._again("crashed", partial(self._when, self._has_crashed, self.fail_crashed)),
            self._again("audit", partial(self._every, AUDIT_SECONDS, self.audit)),
            self._again("keys", partial(self._every, KEYS_SECONDS, self.purge_keys)),
        ]
        if self._settings.retain_runs is not None or self._settings.retain_events is not None:
            turns.append(self._again("retention", partial(self._every, RETENTION_SECONDS, self.purge)))
        if self._database.is_shared and not self._database.is_parallel:
            turns.append(self._again("wal", partial(self._later, WAL_SECONDS, self.shrink_wal)))
        return [group.create_task(turn) for turn in turns]

    async def _again(self, name: str, turn: Callable[[], Awaitable[None]], *, cap: float = MAX_BACKOFF_SECONDS) -> None:
        """Take one turn after the other; a turn includes its waiting."""
        failures = 0
        while True:
            try:
                await turn()
            except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
                failures += 1
                self._reporter.error(name, error)
                await asyncio.sleep(backoff_seconds(failures, self._environment.random(), cap=cap))
            else:
                failures = 0

    async def _every(self, seconds: float, chore: Callable[[], Awaitable[bool]]) -> None:
        """Do a chore, and wait until it is due again: about so many seconds, or not long if there is more to do."""
        has_more = await chore()
        await asyncio.sleep(MIN_PAUSE_SECONDS if has_more else seconds * (0.75 + self._environment.random() / 2))

    async def _later(self, seconds: float, chore: Callable[[], Awaitable[bool]]) -> None:
        """Wait, then do a chore that is not worth doing at the start."""
        await asyncio.sleep(seconds * (0.75 + self._environment.random() / 2))
        await chore()

    async def _when(self, event: asyncio.Event, chore: Callable[[], Awaitable[None]]) -> None:
        """Do a chore when a look has found something for it."""
        await event.wait()
        event.clear()
        await chore()

    # --- the look -------------------------------------------------------------------------------------------

    async def look_and_act(self) -> Outlook:
        """Look once and do what is to be done here. Returns what is left to be claimed."""
        outlook = await self._look()
        if outlook.due:
            await self.release_due()
        if outlook.crashed:
            await self.fail_crashed()
        return outlook

    async def _look_and_tell(self) -> None:
        outlook = await self._look()
        self._found(outlook)
        if outlook.due:
            self._is_due.set()
        if outlook.crashed:
            self._has_crashed.set()
        await self._rest(outlook.next_due)

    async def _look(self) -> Outlook:
        self._woken.clear()
        try:
            outlook = await self._database.read(
                look(self._jobs, max_crashes=self._settings.max_crashes), timeout=LOOK_SECONDS
            )
        except Exception:
            self.outage()
            raise
        now = asyncio.get_running_loop().time()
        if self._had_outage:
            self._had_outage = False
            self._spared_until = now + self._settings.renewal_seconds
        if not outlook.crashed:
            self._suspects = {}
        return replace(outlook, expired=outlook.expired and now >= self._spared_until)

    async def _rest(self, next_due: timedelta | None) -> None:
        """Until the next look: when the poll interval is over, a run is due, or shortly after a wake-up.

        Not at once after a wake-up: the claim that it is for goes first, and one look serves a burst of them.
        """
        poll = self._settings.poll_interval.total_seconds()
        wait = poll * (0.75 + self._environment.random() / 2)
        if next_due is not None:
            wait = min(wait, next_due / timedelta(seconds=1))
        pause = min(MIN_PAUSE_SECONDS, poll)
        try:
            async with asyncio.timeout(max(wait, pause)):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(pause)

    # --- the chores -----------------------------------------------------------------------------------------

    async def release_due(self) -> None:
        """Make due runs claimable."""
        while True:
            due = await self._database.run(release_due(BATCH))
            if due.keys:
                await self._database.run(admit_due(due.keys))
            if due.released or due.keys:
                self._wake()
            if due.released < BATCH:
                return

    async def fail_crashed(self) -> None:
        """Fail the runs that keep killing their process.

        Not at first sight: after an outage that was longer than the lease their holder may be alive and about to renew
        it. It comes back to that after at most one renewal that hangs and one backoff: whoever was seen unchanged for
        that long has none. Only time in which this process looked counts: all of them may have been stopped together.
        """
        settings = self._settings
        found = await self._database.read(crashed(self._jobs, max_crashes=settings.max_crashes, limit=CRASHED_BATCH))
        now = self._environment.monotonic()
        passed = min(now - self._suspected_at, max(2 * settings.poll_interval.total_seconds(), 1.0))
        held = self._held()  # those are only late: whoever looks here is alive
        before, self._suspects, self._suspected_at = self._suspects, {}, now
        dead: list[StoredRun] = []
        for run in found:
            if run.id not in held:
                suspect = run.id, run.generation, run.lease_expires_at
                seen = before[suspect] + passed if suspect in before else 0.0
                if seen >= settings.renewal_seconds + longest_backoff(settings):
                    dead.append(run)
                else:
                    self._suspects[suspect] = seen
        if dead:
            await _to_the_end(self._fail(dead))

    async def _fail(self, dead: Sequence[StoredRun]) -> None:
        for run in await self._database.run(fail_crashed(dead, max_crashes=self._settings.max_crashes)):
            error = run.error or RunError(type="WorkerCrashed", message="the lease ran out too often")
            _logger.error("run %s of job %r failed: %s", run.id, run.job, error.message)
            self._reporter.ended(run, Ending(status=RunStatus.FAILED, error=error))

    async def purge(self) -> bool:
        """Delete what is older than it is to be kept, in small batches. Returns whether there may be more."""
        deleted = 0
        if self._settings.retain_runs is not None:
            for status in sorted(TERMINAL):
                operation = purge_runs(older_than=self._settings.retain_runs, status=status, limit=BATCH)
                deleted = max(deleted, await self._database.run(operation))
        if self._settings.retain_events is not None:
            operation = purge_events(older_than=self._settings.retain_events, limit=BATCH)
            deleted = max(deleted, await self._database.run(operation))
        return deleted >= BATCH

    async def audit(self) -> bool:
        """Mend the counters of concurrency keys that were wrong twice in a row: the first look takes no locks."""
        found = frozenset(await self._database.read(find_drift()))
        before, self._adrift = self._adrift, found
        if confirmed := sorted(found & before):
            mended = await self._database.run(audit_keys(confirmed))
            self._reporter.error("audit", RuntimeError(f"slots of concurrency keys were miscounted: {mended}"))
            self._wake()
        return False

    async def shrink_wal(self) -> bool:
        """Empty SQLite's write-ahead log while no run is executed here. Returns whether it is empty.

        SQLite itself only reuses it, so it stays as large as it ever was; a burst, or a purge, leaves it large.
        """
        return not self._held() and await self._database.read(shrink_wal())

    async def purge_keys(self) -> bool:
        """Forget concurrency keys that nobody uses any more. Returns whether there may be more."""
        return await self._database.run(purge_keys(BATCH)) >= BATCH


async def _to_the_end(chore: Coroutine[Any, Any, None]) -> None:
    """Await a chore that a stop does not interrupt: what it commits it also tells to the listeners here.

    If it fails then, it is left to other workers.
    """
    task = asyncio.create_task(chore)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
