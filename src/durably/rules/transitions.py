"""Which operation is allowed in which status, and where it leads: the one table that says so.

Everything that affects statuses is here; SQL repeats it as conditions, and a test drives every pair against
every database and compares. Conditions beyond the status (the lease's generation, its expiry) are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from durably.model import TERMINAL, RunStatus


class OperationName(StrEnum):
    """What can be done to a run that exists."""

    CLAIM = "claim"
    CLAIM_EXPIRED = "claim expired"
    """Another worker takes the run over, after the lease ended unrenewed."""
    FAIL_CRASHED = "fail crashed"
    """Maintenance gives up a run that killed too many processes."""
    RENEW = "renew"
    WRITE = "write"
    """The lease holder stores steps, logs, events or progress."""
    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    """The lease holder hands the run back."""
    REPLACE = "replace"
    """A trigger with `if_pending="replace"` gives it another input."""
    CANCEL = "cancel"
    RESUME = "resume"
    RETRIGGER = "retrigger"
    """Makes a new run; the old one stays as it is."""
    DELETE = "delete"


_PENDING = RunStatus.PENDING
_LEASED = RunStatus.LEASED

TRANSITIONS: Mapping[tuple[RunStatus, OperationName], RunStatus | None] = MappingProxyType(
    {
        (_PENDING, OperationName.CLAIM): _LEASED,
        (_PENDING, OperationName.REPLACE): _PENDING,
        (_PENDING, OperationName.CANCEL): RunStatus.CANCELLED,
        (_LEASED, OperationName.CLAIM_EXPIRED): _LEASED,
        (_LEASED, OperationName.FAIL_CRASHED): RunStatus.FAILED,
        (_LEASED, OperationName.RENEW): _LEASED,
        (_LEASED, OperationName.WRITE): _LEASED,
        (_LEASED, OperationName.COMPLETE): RunStatus.COMPLETED,
        (_LEASED, OperationName.FAIL): RunStatus.FAILED,
        (_LEASED, OperationName.RELEASE): _PENDING,
        (_LEASED, OperationName.CANCEL): RunStatus.CANCELLED,
        (RunStatus.FAILED, OperationName.RESUME): _PENDING,
        **{(status, OperationName.RETRIGGER): status for status in RunStatus if status in TERMINAL},
        **{(status, OperationName.DELETE): None for status in RunStatus if status in TERMINAL},
    }
)
"""The status after an allowed operation, None when the run is gone. A pair that is missing is not allowed."""


def may(status: RunStatus, operation: OperationName) -> bool:
    """Whether the operation is allowed in this status."""
    return (status, operation) in TRANSITIONS


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the docs. Operations that keep the status are left out."""
    edges: dict[tuple[str, str], list[str]] = {("[*]", _PENDING.value): ["trigger"]}
    for (status, operation), target in TRANSITIONS.items():
        if target is not status:
            edge = (status.value, "[*]" if target is None else target.value)
            edges.setdefault(edge, []).append(operation.value)
    lines = (f"    {start} --> {end}: {', '.join(names)}" for (start, end), names in edges.items())
    return "\n".join(("stateDiagram-v2", *lines, ""))
