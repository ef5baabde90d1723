"""Which keys an event has on the wire, and a stream as a list of lines."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.support.http import Frame

ADA = {"name": "ada"}
COMMON = {"type", "runId", "jobName", "labels"}
FULL = COMMON | {"timestamp", "sequence"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OF_THE_RUN: dict[str, set[str]] = {
    "run:leased": {"input", "leaseOwner", "leaseExpiresAt"},
    "run:progress": {"progress"},
    "step:start": {"stepName", "stepIndex"},
    "step:complete": {"stepName", "stepIndex", "output", "duration"},
    "step:fail": {"stepName", "stepIndex", "error"},
    "log:write": {"stepName", "level", "message", "data"},
    "run:complete": {"output", "duration"},
    "run:fail": {"error", "failedStepName"},
    "run:cancel": set(),
}
OF_THE_FEED: dict[str, set[str]] = OF_THE_RUN | {
    "run:trigger": set(),
    "run:leased": set(),
    "run:complete": set(),
    "run:fail": set(),
    "run:delete": set(),
    "run:coalesced": {"skippedInput", "skippedLabels"},
    "step:complete": {"stepName", "stepIndex"},
    "step:cancel": {"stepName", "stepIndex"},
}
GREETED = [
    "run:leased",
    "step:start hello",
    "log:write hello",
    "step:complete hello",
    "run:progress",
    "step:start bye",
    "log:write bye",
    "step:complete bye",
    "run:progress",
    "run:complete",
]


def story(got: list[Frame]) -> list[str]:
    return [str(frame) for frame in got]


def timeless(frame: Frame) -> dict[str, Any]:
    """Return the event without its duration: who resumes after the lease knows its time less exactly."""
    return {name: value for name, value in frame.data.items() if name != "duration"}


def tasks(name: str) -> int:
    return sum(task.get_name() == name for task in asyncio.all_tasks())


def check_keys(got: list[Frame], common: set[str], further: dict[str, set[str]]) -> None:
    for frame in got:
        expected = common | further[frame.type]
        if frame.type == "log:write" and "data" not in frame.data:
            expected -= {"data"}
        assert set(frame.data) == expected, frame
        assert frame.id is not None
