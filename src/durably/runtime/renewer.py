"""Renews all leases of a process in one statement, and learns which of them are void.

It lives in one event loop, by default that of the keeper's own thread, and talks to the worker's loop only through
`tell`. What is held is shared with the worker's thread, and needs no lock:

- One dict holds the leases. `hold` and `drop` put a key in and take it out, the renewer copies it as a whole: each is
  one operation of the dict, which threads cannot interleave. Its keys are compared by identity, which runs no Python.
  A lease that is dropped while a statement with it is under way is renewed once more, which harms nobody.
- Whoever takes a void lease out of the dict tells its end, so it is told at most once, and not after a `drop`.
- The renewer sleeps without a deadline only while nothing is held. It says so first (`_is_asleep`) and looks at the
  dict after that; `hold` changes the dict first and looks at `_is_asleep` after that. One of the two sees the other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from durably.environment import Environment
from durably.errors import DatabaseUnavailable
from durably.model import Lease, LeaseState
from durably.rules.schedule import backoff_seconds
from durably.runtime.settings import Settings
from durably.runtime.tenure import Tenure
from durably.store.database import Database
from durably.store.leases import lapsed, renew

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


def longest_backoff(settings: Settings) -> float:
    """The most seconds between two attempts to renew while they fail; short leases have no time for long pauses."""
    return min(MAX_BACKOFF_SECONDS, settings.renewal_seconds)


class Renewer:
    """The leases that are held, and the loop that renews them.

    `hold`, `drop` and `held` may be used in any thread, all else in the renewer's own event loop.
    """

    def __init__(self, database: Database, *, settings: Settings, environment: Environment, tell: Tell) -> None:
        self._database = database
        self._settings = settings
        self._environment = environment
        self._tell = tell
        self._held: dict[Tenure, bool] = {}
        self._is_asleep = False
        self._woken = asyncio.Event()
        self._holding = asyncio.Event()
        self._holding.set()
        self._renewal_due = 0.0
        self._look_due = 0.0
        self._failures = 0

    @property
    def held(self) -> Iterable[Tenure]:
        """The leases that are renewed."""
        return tuple(self._held.copy())

    def hold(self, tenure: Tenure) -> bool:
        """Renew this lease from now on; it was renewed, or claimed, just now. Returns whether to call `wake`."""
        self._held[tenure] = True
        if not self._is_asleep:
            return False
        self._is_asleep = False
        return True

    def drop(self, tenure: Tenure) -> None:
        """Renew it no more."""
        self._held.pop(tenure, False)

    def wake(self) -> None:
        """Go on: something is held again."""
        self._woken.set()

    def look(self) -> None:
        """Look at once: somebody may have cancelled one of the runs."""
        self._look_due = 0.0
        self._woken.set()

    def let_go(self) -> None:
        """Give up all leases, so that others take the runs when they have run out."""
        for tenure in self.held:
            self._end(tenure, LeaseState.LOST)

    async def holding(self) -> None:
        """Return when something is held, or was a moment ago."""
        await self._holding.wait()

    async def run(self) -> None:
        """Renew until it is cancelled."""
        try:
            await self._open()
            while True:
                await self._wait()
                if not self._held:
                    await self._sleep()
                elif asyncio.get_running_loop().time() >= self._renewal_due:
                    await self._renew()
                else:
                    await self._look()
        finally:
            await self._database.close()

    async def _open(self) -> None:
        while True:
            try:
                return await self._database.open()
            except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
                await asyncio.sleep(self._failed(error))

    async def _wait(self) -> None:
        """Until a renewal or a look is due."""
        while True:
            self._woken.clear()
            wait = min(self._renewal_due, self._look_due) - asyncio.get_running_loop().time()
            if wait <= 0:
                return
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                return

    async def _sleep(self) -> None:
        """Until something is held. What is held by then was leased just now: its renewal is due an interval later.

        So is a look, unless somebody asked for one after that: a look that nothing was held for is forgotten.
        """
        self._holding.clear()
        while True:
            self._woken.clear()
            self._is_asleep = True
            if self._held:
                break
            self._look_due = math.inf
            await self._woken.wait()
        self._is_asleep = False
        self._holding.set()
        now = asyncio.get_running_loop().time()
        self._renewal_due, self._look_due = now + self._settings.renewal_seconds, min(self._look_due, now + self._pause)

    @property
    def _pause(self) -> float:
        return min(self._settings.renewal_seconds, LOOK_SECONDS)

    async def _renew(self) -> None:
        """Extend all leases. That tells of cancels too, so the next look has time."""
        now = asyncio.get_running_loop().time()
        self._renewal_due, self._look_due = now + self._settings.renewal_seconds, now + self._pause
        tenures = tuple(self.held)
        until = self._environment.monotonic() + self._settings.lease_seconds
        operation = renew([tenure.lease for tenure in tenures], lease=self._settings.lease)
        try:
            states = await self._database.run(operation, timeout=self._settings.renewal_seconds)
        except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
            self._try_again(error)
            return
        self._has_succeeded()
        for tenure, state in zip(tenures, states, strict=True):
            self._learn(tenure, state, until=until)

    def _learn(self, tenure: Tenure, state: LeaseState, *, until: float) -> None:
        match state:
            case LeaseState.RENEWED:
                self._tell(tenure.extend, until)
            case LeaseState.BUSY:
                self._renewal_due = min(self._renewal_due, asyncio.get_running_loop().time() + BUSY_SECONDS)
            case LeaseState.CANCELLED | LeaseState.LOST:
                self._end(tenure, state)

    async def _look(self) -> None:
        """Learn of cancels without writing anything. What ran out, for a clock was set, is renewed at once."""
        now = asyncio.get_running_loop().time()
        self._look_due = now + self._pause
        tenures = tuple(self.held)
        within = max(self._renewal_due - now, self._pause)
        try:
            found = await self._database.read(lapsed([tenure.lease for tenure in tenures]), timeout=within)
        except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
            self._try_again(error)
            return
        self._has_succeeded()
        self._learn_of(tenures, found)

    def _learn_of(self, tenures: Sequence[Tenure], found: Mapping[Lease, LeaseState]) -> None:
        for tenure in tenures if found else ():
            state = found.get(tenure.lease)
            if state is LeaseState.BUSY:
                self._renewal_due = 0.0
            elif state is not None:
                self._end(tenure, state)

    def _end(self, tenure: Tenure, state: LeaseState) -> None:
        if self._held.pop(tenure, False):
            self._tell(tenure.end, state)

    def _has_succeeded(self) -> None:
        if self._failures:
            _logger.info("renewing leases works again")
        self._failures = 0

    def _try_again(self, error: Exception) -> None:
        """Renew next, not look: nobody knows how late it is for the leases."""
        self._renewal_due = self._look_due = asyncio.get_running_loop().time() + self._failed(error)

    def _failed(self, error: Exception) -> float:
        """Seconds until the next attempt. An outage is logged once; what the leases are worth, belief says."""
        self._failures += 1
        if self._failures == 1:
            known = isinstance(error, DatabaseUnavailable)
            _logger.warning("leases cannot be renewed: %s", error, exc_info=None if known else error)
        return backoff_seconds(self._failures, self._environment.random(), cap=longest_backoff(self._settings))
