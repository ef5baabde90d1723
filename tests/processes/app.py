"""What the worker processes of these tests load: `durably worker tests.processes.app:durably tests.processes.jobs`."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import datetime, timedelta
from typing import Any

from durably import Durably, Event, SystemEnvironment
from tests.processes.points import SETTINGS, reach

TIMES = ("lease", "renewal", "poll_interval")


class ShiftedEnvironment(SystemEnvironment):
    """A machine whose wall clock is wrong."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._shift = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._shift

    def now_us(self) -> int:
        return super().now_us() + self._shift // timedelta(microseconds=1)


def make_durably(settings: dict[str, Any]) -> Durably:
    """Return the Durably that the test asked for; times are in seconds."""
    if settings.pop("waits_when_loaded", False):
        reach("loaded", run="")
    shift = settings.pop("clock_shift", 0)
    settings |= {name: timedelta(seconds=settings[name]) for name in TIMES if name in settings}
    made = Durably(**settings, environment=ShiftedEnvironment(shift))
    made.on("worker:error", tell_error)
    return made


def tell_error(event: Event) -> None:
    logging.getLogger("tests").error("worker:error %s", event.payload_json)


def end_with_the_test() -> None:
    """End this process when its standard input closes: the test is gone, however it ended."""
    os.read(0, 1)
    os._exit(70)


threading.Thread(target=end_with_the_test, daemon=True).start()
durably = make_durably(json.loads(os.environ[SETTINGS]))
