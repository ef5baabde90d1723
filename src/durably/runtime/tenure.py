"""What this process believes about one lease, and who is told when it ends.

Belief ends at (monotonic time before the request) + lease, so it is never longer than what the database thinks.
After that no new step starts until a renewal succeeds; what runs goes on, for a late renewal that nobody beat is
as good as a timely one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from durably.environment import Environment
from durably.model import Lease, LeaseState


class Tenure:
    """One lease in the hands of this process. Lives in the worker's loop; the keeper calls it there."""

    _waiting: Sequence[asyncio.Future[None]] = ()

    def __init__(
        self,
        lease: Lease,
        *,
        until: float,
        environment: Environment,
        ended: Callable[[LeaseState], None],
    ) -> None:
        self.lease = lease
        self._until = until
        self._environment = environment
        self._ended = ended

    @property
    def is_certain(self) -> bool:
        """Whether nobody else can have the run."""
        return self._environment.monotonic() < self._until

    async def certain(self) -> None:
        """Return as soon as nobody else can have the run. Waits for a renewal, or until it is cancelled."""
        while not self.is_certain:
            renewed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting = [*self._waiting, renewed]
            await renewed

    def extend(self, until: float) -> None:
        """A renewal that was asked for `lease` before `until` succeeded."""
        self._until = max(self._until, until)
        waiting, self._waiting = self._waiting, ()
        for renewed in waiting:
            if not renewed.done():
                renewed.set_result(None)

    def end(self, state: LeaseState) -> None:
        """The lease is void: cancelled, or lost."""
        self._ended(state)

    def release(self) -> None:
        """Nobody is interested any more. Lets go of whom it told: as a cycle they would wait for the collector."""
        self._ended = _nothing


def _nothing(_state: LeaseState) -> None: ...
