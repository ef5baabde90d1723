"""Renews all leases of a process in one statement, and learns which of them are void.

It lives in one event loop, by default that of the keeper's own thread, and talks to the worker's loop only through
`tell`. Nothing here knows threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from durably.environment import Environment
from durably.errors import DatabaseUnavailable
from durably.model import LeaseState
from durably.rules.schedule import backoff_seconds
from durably.runtime.settings import Settings
from durably.runtime.tenure import Tenure
from durably.store.database import Database
from durably.store.leases import renew

LOOK_SECONDS = 0.5
"""How soon a cancel by another process is noticed when its wake-up got lost."""
BUSY_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0

_logger = logging.getLogger("durably.keeper")


class Tell(Protocol):
    """Calls a function in the worker's loop, soon and in order."""

    def __call__(self, fn: Callable[..., object], *args: object) -> object:
        """Call `fn(*args)` there."""
        ...


class Renewer:
    """The leases that are held, and the loop that renews them. All methods are called in its own event loop."""

    def __init__(self, database: Database, *, settings: Settings, environment: Environment, tell: Tell) -> None:
        self._database = database
        self._settings = settings
        self._environment = environment
        self._tell = tell
        self._held: dict[Tenure, None] = {}
        self._woken = asyncio.Event()
        self._due = 0.0
        self._failures = 0

    @property
    def held(self) -> Iterable[Tenure]:
        """The leases that are renewed."""
        return tuple(self._held)

    def hold(self, tenure: Tenure) -> None:
        """Renew this lease from now on; it was renewed, or claimed, just now."""
        if not self._held:
            self._due = asyncio.get_running_loop().time() + self._pause
        self._held[tenure] = None
        self._woken.set()

    def drop(self, tenure: Tenure) -> None:
        """Renew it no more."""
        self._held.pop(tenure, None)

    def look(self) -> None:
        """Renew at once: somebody may have cancelled one of the runs."""
        self._due = 0.0
        self._woken.set()

    def let_go(self) -> None:
        """Give up all leases, so that others take the runs when they have run out."""
        for tenure in self.held:
            self._end(tenure, LeaseState.LOST)

    async def run(self) -> None:
        """Renew until it is cancelled."""
        try:
            await self._open()
            while True:
                await self._wait()
                if self._held:
                    await self._renew()
        finally:
            await self._database.close()

    async def _open(self) -> None:
        while True:
            try:
                return await self._database.open()
            except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
                await asyncio.sleep(self._failed(error))

    async def _wait(self) -> None:
        """Until a renewal is due. Without leases that is never."""
        while True:
            self._woken.clear()
            wait = self._due - asyncio.get_running_loop().time() if self._held else None
            if wait is not None and wait <= 0:
                return
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                return

    @property
    def _pause(self) -> float:
        return min(self._settings.renewal_seconds, LOOK_SECONDS)

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        tenures = self.held
        self._due = loop.time() + self._pause
        before = self._environment.monotonic()
        operation = renew([tenure.lease for tenure in tenures], lease=self._settings.lease)
        try:
            states = await self._database.run(operation, timeout=self._settings.renewal_seconds)
        except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
            self._due = loop.time() + self._failed(error)
            return
        if self._failures:
            _logger.info("renewing leases works again")
        self._failures = 0
        for tenure, state in zip(tenures, states, strict=True):
            self._learn(tenure, state, until=before + self._settings.lease_seconds)

    def _learn(self, tenure: Tenure, state: LeaseState, *, until: float) -> None:
        match state:
            case LeaseState.RENEWED:
                self._tell(tenure.extend, until)
            case LeaseState.BUSY:
                self._due = min(self._due, asyncio.get_running_loop().time() + BUSY_SECONDS)
            case LeaseState.CANCELLED | LeaseState.LOST:
                self._end(tenure, state)

    def _end(self, tenure: Tenure, state: LeaseState) -> None:
        if tenure in self._held:
            self.drop(tenure)
            self._tell(tenure.end, state)

    def _failed(self, error: Exception) -> float:
        """Seconds until the next attempt. An outage is logged once; what the leases are worth, belief says."""
        self._failures += 1
        if self._failures == 1:
            known = isinstance(error, DatabaseUnavailable)
            _logger.warning("leases cannot be renewed: %s", error, exc_info=None if known else error)
        return backoff_seconds(self._failures, self._environment.random(), cap=MAX_BACKOFF_SECONDS)
