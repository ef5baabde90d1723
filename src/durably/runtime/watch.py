"""Watches the worker's event loop from the keeper's thread: what blocks it is named, with its run, step and line."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import FrameType

from durably.runtime.execution import Execution
from durably.runtime.renewer import Renewer, Tell
from durably.runtime.settings import Settings
from durably.runtime.steps import Steps, StepUnderWay

ASK_SECONDS = 0.25
BLOCKED_SECONDS = 1.0
LEASES = 10
"""After so many leases without an answer the runs are let go."""

_logger = logging.getLogger("durably.keeper")


class Watch:
    """Asks the worker's loop for an answer, again and again while there are leases."""

    def __init__(self, renewer: Renewer, *, settings: Settings, tell: Tell, thread: int) -> None:
        """`thread` is the identity of the thread in which the watched loop runs."""
        self._renewer = renewer
        self._settings = settings
        self._tell = tell
        self._thread = thread
        self._asked = 0
        self._answered = 0
        self._blocked = 0.0
        self._has_warned = False
        self._has_let_go = False

    async def run(self) -> None:
        """Watch until it is cancelled. While nothing is held it sleeps."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(ASK_SECONDS)
            now = loop.time()
            try:
                # a process that was stopped as a whole blocked nothing: a long pause of this loop counts little
                self._look(min(now - last, 2 * ASK_SECONDS))
            except Exception:  # the border of a background loop: it must go on
                _logger.exception("watching the event loop failed")
            last = now
            if self._answered == self._asked:  # nothing was held, or it was let go
                await self._renewer.holding()

    def _look(self, passed: float) -> None:
        if self._answered == self._asked:
            self._is_free()
            if self._renewer.held:
                self._asked += 1
                self._tell(self._answer, self._asked)
        else:
            self._blocked += passed
            self._is_blocked()

    def _answer(self, number: int) -> None:
        """Runs in the watched loop; a single assignment needs no lock."""
        self._answered = number

    def _is_free(self) -> None:
        if self._has_warned:
            _logger.warning("the event loop works again; it was blocked for about %.1f s", self._blocked)
        self._has_warned = self._has_let_go = False
        self._blocked = 0.0

    def _is_blocked(self) -> None:
        if self._blocked >= BLOCKED_SECONDS and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "the event loop has been blocked for %.1f s by %s: call blocking code from a plain function "
                "(step.run then uses a thread)",
                self._blocked,
                self._culprit(),
            )
        if self._blocked >= LEASES * self._settings.lease_seconds and not self._has_let_go:
            self._has_let_go = True
            _logger.error("the event loop has been blocked for %.0f s: its runs are let go", self._blocked)
            self._renewer.let_go()

    def _culprit(self) -> str:
        frames: dict[int, FrameType] = getattr(sys, "_current_frames", dict)()  # CPython and PyPy have it
        frame = frames.get(self._thread)
        if frame is None:
            return "nothing that can be seen"
        line = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        return f"{_place(frame)}, at {line}"


def _place(frame: FrameType | None) -> str:
    """The run and the step that the code on this stack belongs to."""
    while frame is not None:
        if frame.f_code is Steps.perform.__code__:
            step = frame.f_locals.get("step")
            if isinstance(step, StepUnderWay):
                return f"step {step.name!r} of run {step.run_id}"
        if frame.f_code is Execution.call_user.__code__:
            execution = frame.f_locals.get("self")
            if isinstance(execution, Execution):
                return f"run {execution.stored.id} of job {execution.stored.job!r}"
        frame = frame.f_back
    return "code outside of jobs"
