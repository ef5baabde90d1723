"""What all parts of `SyncDurably` share: the `Durably` behind it and the way to its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from durably.app import Durably
from durably.jobs import Target
from durably.model import Run
from durably.runtime.trigger import TriggerKeywords
from durably.sync.portal import Portal


class Inside(Durably):
    """A Durably whose talks over connections of users can be held by blocking code."""

    def loop_in_use(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which it is open; None when it is not, or not in this process."""
        return self._sessions.loop_in_use()

    async def close_here(self) -> None:
        """Close it, unless it is open in another event loop."""
        if self.loop_in_use() in {None, asyncio.get_running_loop()}:
            await self.close()

    def trigger_inside(
        self, connection: object, job: Target[Any, Any] | str, input: object, options: TriggerKeywords
    ) -> Run[Any]:
        """Trigger over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_trigger(job, input, options))

    def trigger_many_inside(
        self, connection: object, job: Target[Any, Any] | str, items: Iterable[object]
    ) -> list[Run[Any]]:
        """Trigger many over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_trigger_many(job, items))

    def retrigger_inside(
        self, connection: object, run: Run[Any] | str, job: Target[Any, Any] | None, from_step: str | None
    ) -> Run[Any]:
        """Retrigger over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_retrigger(run, job, from_step))

    def cancel_inside(self, connection: object, run: Run[Any] | str) -> Run[Any]:
        """Cancel over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_cancel(run))


class SyncCore:
    """The state of a `SyncDurably`."""

    def __init__(self, durably: Inside, portal: Portal) -> None:
        self._durably = durably
        self._portal = portal
