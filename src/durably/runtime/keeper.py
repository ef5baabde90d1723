"""The keeper: the leases of a process in a thread of its own, with a connection of its own.

So a blocked event loop loses no lease. Where no thread can be had (a browser), the renewer runs in the worker's loop.
The thread is a daemon: it never keeps the process alive.
"""

from __future__ import annotations

import asyncio
import logging
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from durably.environment import Environment, Thread
from durably.runtime.renewer import Renewer
from durably.runtime.settings import Settings
from durably.runtime.tenure import Tenure
from durably.runtime.watch import Watch
from durably.store.database import Database
from durably.store.operation import Wake

STOP_SECONDS = 5.0

_logger = logging.getLogger("durably.keeper")


class Keeper:
    """Holds leases for the executions of one worker. All methods are called in the worker's loop."""

    def __init__(self, database: Database, *, settings: Settings, environment: Environment) -> None:
        self._database = database
        self._settings = settings
        self._environment = environment
        self._main = asyncio.get_running_loop()
        self._loop = self._main
        self._thread: Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._ended: asyncio.Future[None] = self._main.create_future()
        self._unsubscribe: Callable[[], None] | None = None
        self._renewer = Renewer(database.twin(), settings=settings, environment=environment, tell=self._tell)

    def start(self) -> None:
        """Start the thread."""
        watch = Watch(self._renewer, settings=self._settings, tell=self._tell, thread=get_ident())
        ended = partial(self._tell, self._has_ended)
        try:
            self._loop, self._thread = self._environment.start_loop("durably-keeper", partial(self._work, watch), ended)
        except RuntimeError:  # there are no threads here; nothing is watched then, for nobody could watch
            self._task = self._main.create_task(self._renewer.run(), name="durably-keeper")
            self._task.add_done_callback(lambda _: self._has_ended())
        self._unsubscribe = self._database.on_wake(self._woken)

    def hold(self, tenure: Tenure) -> None:
        """Renew this lease until it is dropped or void. The thread is signalled only when it sleeps: see `Renewer`.

        It is signalled just before what this loop does next: it would compute while the run waits to begin.
        """
        if self._renewer.hold(tenure):
            self._main.call_soon(self._send, self._renewer.wake)

    def drop(self, tenure: Tenure) -> None:
        """Renew it no more: its run has ended here."""
        self._renewer.drop(tenure)

    async def stop(self) -> None:
        """End the thread; leases that are still held run out."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._send(self._cancel)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(self._ended)
        except TimeoutError:
            _logger.warning("the keeper's connection does not close; its thread is left behind")
            return
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _woken(self, wake: Wake) -> None:
        if Wake.CANCEL in wake:
            self._send(self._renewer.look)

    def _send(self, fn: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # its loop is closed: it has ended
            self._loop.call_soon_threadsafe(fn, *args)

    def _tell(self, fn: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed: nobody is left to be told
            self._main.call_soon_threadsafe(fn, *args)

    def _has_ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # --- in the thread --------------------------------------------------------------------------------------

    async def _work(self, watch: Watch) -> None:
        self._task = asyncio.current_task()
        if self._is_stopping:  # told so before the thread came here
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renewer.run())
            group.create_task(watch.run())

    def _cancel(self) -> None:
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
