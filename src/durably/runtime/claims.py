"""Claiming runs. A claim whose commit is in doubt is read back before the next one: no run is leased unseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durably.environment import Environment
from durably.model import StoredRun
from durably.runtime.settings import Settings
from durably.store.database import Database
from durably.store.leases import claim, claim_expired, claimed
from durably.store.operation import Lane, Operation

CLAIM_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that was leased, and until when the lease can be relied on, in monotonic seconds."""

    run: StoredRun
    until: float


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A claim that was sent; `until` is counted from before it was."""

    token: str
    until: float


class Claims:
    """Claims runs of these jobs for one worker."""

    def __init__(
        self, database: Database, jobs: Sequence[str], *, owner: str, settings: Settings, environment: Environment
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._owner = owner
        self._settings = settings
        self._environment = environment
        self._doubtful: list[_Attempt] = []

    async def take(self, limit: int, *, also_expired: bool) -> list[Claimed]:
        """Lease up to `limit` runs. Raises DatabaseUnavailable; what was leased all the same comes with the next call.

        Runs whose lease expired go first if they are asked for: they have waited longest.
        """
        found = await self._resolve_doubts()
        if also_expired and len(found) < limit:
            attempt = self._attempt()
            operation = claim_expired(
                self._jobs,
                limit=limit - len(found),
                owner=self._owner,
                token=attempt.token,
                lease=self._settings.lease,
                max_crashes=self._settings.max_crashes,
            )
            found += await self._send(operation, attempt)
        if len(found) < limit:
            attempt = self._attempt()
            operation = claim(
                self._jobs,
                limit=limit - len(found),
                owner=self._owner,
                token=attempt.token,
                lease=self._settings.lease,
            )
            found += await self._send(operation, attempt)
        return found

    def _attempt(self) -> _Attempt:
        until = self._environment.monotonic() + self._settings.lease_seconds
        attempt = _Attempt(self._environment.new_id(), until)
        self._doubtful.append(attempt)
        return attempt

    async def _send(self, operation: Operation[list[StoredRun]], attempt: _Attempt) -> list[Claimed]:
        runs = await self._database.run(operation, lane=Lane.FAST, timeout=CLAIM_SECONDS)
        self._doubtful.remove(attempt)
        return [Claimed(run, attempt.until) for run in runs]

    async def _resolve_doubts(self) -> list[Claimed]:
        found: list[Claimed] = []
        for attempt in tuple(self._doubtful):
            found += await self._send(claimed(self._jobs, token=attempt.token), attempt)
        return found
