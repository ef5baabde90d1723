"""What can go wrong with one transaction, and who decides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from durably.store.engine import Channel
from durably.store.operation import Statement


class Loss(Enum):
    """What becomes of a transaction and of its answer."""

    NONE = "none"
    BEFORE = "lost before"
    """The connection breaks before it begins."""
    AFTER = "lost after"
    """It is committed, but the connection breaks before the answer: its author is in doubt."""
    LOCKED = "locked"
    """Somebody holds a row for longer than the lock timeout."""
    CRASH_BEFORE = "crash before"
    """The process that sent it dies, and it never begins."""
    CRASH_AFTER = "crash after"
    """It is committed, and the process that sent it dies before it hears of it."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one transaction."""

    there: float = 0.0
    """Seconds until it begins."""
    back: float = 0.0
    """Seconds from its commit to the answer."""
    loss: Loss = Loss.NONE


class Faults(Protocol):
    """Decides what happens to each transaction and each wake-up."""

    def transaction(self, process: str, statements: Sequence[Statement], channel: Channel) -> Fate:
        """What happens to this transaction."""
        ...

    def wake(self, process: str) -> float | None:
        """How many seconds a wake-up takes to this process; None when it gets lost."""
        ...


class NoFaults:
    """Everything works, at once."""

    def transaction(self, process: str, statements: Sequence[Statement], channel: Channel) -> Fate:  # noqa: ARG002  # see `Faults`
        """See `Faults`."""
        return Fate()

    def wake(self, process: str) -> float | None:  # noqa: ARG002  # see `Faults`
        """See `Faults`."""
        return 0.0
