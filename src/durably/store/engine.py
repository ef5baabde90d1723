"""What a database driver offers to `Database`: transactions made of named statements, and wake-ups.

An engine turns what its database answers into three kinds of errors: `DatabaseUnavailable` (try again), `LockTimeout`
(somebody holds a row: step aside), and `DatabaseRefused` (trying again will not help), or `SchemaError` where it can
say why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from durably.errors import DatabaseRefused
from durably.store.migrate import Mode
from durably.store.operation import Operation, Rows, Statement, T, Wake


class LockTimeout(Exception):  # not a fault: the lane's signal to step aside
    """A row that the transaction needs is locked by somebody else. Nothing was written."""


class Channel(Enum):
    """Which connection a transaction takes. Each is used by one transaction at a time."""

    FAST = "fast"
    KEYED = "keyed"
    CLAIM = "claim"
    READ = "read"
    ASIDE = "aside"
    """One of its own, that may wait for locks."""


class Engine(Protocol):
    """One database through one driver."""

    is_shared: bool
    """Whether other processes can see the data."""
    is_parallel: bool
    """Whether transactions of several channels can be under way at once; else fewer of them are better."""

    async def open(self, mode: Mode) -> None:
        """Connect, and bring the tables up to date or check them. Raises SchemaError, DatabaseUnavailable."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        """Run the statements in one transaction. Returns one sequence of rows a statement."""
        ...

    def twin(self) -> Engine:
        """Another engine on the same data, with connections of its own where the database allows it."""
        ...

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """Call back, in the running loop, when other processes committed something. Also after wake-ups may be lost."""
        ...

    def notify(self, wake: Wake) -> None:
        """Tell the other processes, soon and without waiting."""
        ...


async def run(engine: Engine, operation: Operation[T], channel: Channel) -> T:
    """Do one operation in one transaction; if a constraint refuses it, what is to be done `otherwise`."""
    try:
        rows = await engine.transact(operation.plan(), channel, readonly=operation.readonly)
    except DatabaseRefused as error:
        if operation.otherwise is None or not error.is_constraint:
            raise
        operation = operation.otherwise()
        rows = await engine.transact(operation.plan(), channel, readonly=operation.readonly)
    return operation.result(rows)
