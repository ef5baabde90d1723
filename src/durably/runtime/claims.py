"""Claiming runs. A claim whose commit is in doubt is read back before the next one: no run is leased unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from durably.environment import Environment
from durably.errors import DatabaseUnavailable
from durably.model import StoredRun
from durably.model.lean import lean
from durably.rules.schedule import backoff_seconds
from durably.runtime.settings import Settings
from durably.store.database import Database
from durably.store.leases import claim, claim_expired, claimed
from durably.store.operation import Lane, Operation

CLAIM_SECONDS = 5.0


@lean
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
        self._found: list[Claimed] = []

    @property
    def is_in_doubt(self) -> bool:
        """Whether a claim may have leased runs that nobody has seen: the next `take` reads them back."""
        return bool(self._doubtful)

    async def take(self, limit: int, *, held: Sequence[str] | None = None) -> list[Claimed]:
        """Lease up to `limit` runs. Raises DatabaseUnavailable; what was leased all the same comes with the next call.

        With `held`, the ids of the runs under way here, other runs whose lease expired go first: they have waited
        longest. One under way here is not taken: its lease is only late, or its code has not ended yet.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + CLAIM_SECONDS
        failures = 0
        while True:
            try:
                return await self._take(limit, held)
            except DatabaseUnavailable:
                if self._found:  # their leases run already: they do not wait for what may come after them
                    found, self._found = self._found, []
                    return found
                failures += 1
                wait = backoff_seconds(failures, self._environment.random())
                if loop.time() + wait >= give_up:
                    raise
                await asyncio.sleep(wait)
                held = None  # what expired during an outage may still be renewed by those who hold it

    async def recall(self) -> list[Claimed]:
        """What doubtful claims have leased. Claims nothing. Raises DatabaseUnavailable after some seconds."""
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                await self._resolve_doubts()
        except TimeoutError as error:
            raise DatabaseUnavailable(f"no answer within {CLAIM_SECONDS:g} seconds") from error
        found, self._found = self._found, []
        return found

    async def _take(self, limit: int, held: Sequence[str] | None) -> list[Claimed]:
        """A failed attempt leaves its runs to the next one, which reads them back."""
        found = self._found
        await self._resolve_doubts()
        if held is not None and len(found) < limit:
            await self._send(self._expired(limit - len(found), held))
        if len(found) < limit:
            await self._send(self._pending(limit - len(found)))
        self._found = []
        return found

    def _expired(self, limit: int, held: Sequence[str]) -> tuple[_Attempt, Operation[list[StoredRun]]]:
        attempt = self._attempt()
        return attempt, claim_expired(
            self._jobs,
            limit=limit,
            owner=self._owner,
            token=attempt.token,
            lease=self._settings.lease,
            max_crashes=self._settings.max_crashes,
            held=(*held, *(one.run.id for one in self._found)),
        )

    def _pending(self, limit: int) -> tuple[_Attempt, Operation[list[StoredRun]]]:
        attempt = self._attempt()
        return attempt, claim(
            self._jobs, limit=limit, owner=self._owner, token=attempt.token, lease=self._settings.lease
        )

    def _attempt(self) -> _Attempt:
        until = self._environment.monotonic() + self._settings.lease_seconds
        attempt = _Attempt(self._environment.new_id(), until)
        self._doubtful.append(attempt)
        return attempt

    async def _resolve_doubts(self) -> None:
        for attempt in tuple(self._doubtful):
            await self._send((attempt, claimed(self._jobs, token=attempt.token)))

    async def _send(self, request: tuple[_Attempt, Operation[list[StoredRun]]]) -> None:
        attempt, operation = request
        runs = await self._database.run(operation, lane=Lane.CLAIM, timeout=CLAIM_SECONDS)
        self._doubtful.remove(attempt)
        self._found += [Claimed(run=run, until=attempt.until) for run in runs]
