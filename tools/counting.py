"""An engine that counts: transactions, statements and rows, by the names of the SQL. For tests and the benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from unittest.mock import patch

from durably.environment import Environment
from durably.store import database as databases
from durably.store.database import Database
from durably.store.engine import Channel, Engine
from durably.store.migrate import Mode
from durably.store.operation import Rows, Statement, Wake


@dataclass(slots=True)
class Counts:
    """What an engine and its twins did."""

    transactions: Counter[str] = field(default_factory=Counter[str])
    """By the names of their statements, joined by `+`."""
    statements: Counter[str] = field(default_factory=Counter[str])
    rows: Counter[str] = field(default_factory=Counter[str])
    """Rows that came back, by statement."""
    wakes: int = 0
    """Wake-ups that were to be sent to other processes."""

    def clear(self) -> None:
        """Begin anew."""
        self.transactions.clear()
        self.statements.clear()
        self.rows.clear()
        self.wakes = 0

    @property
    def round_trips(self) -> int:
        """Messages to a server and back: a transaction of several statements has a BEGIN and a COMMIT around it."""
        return sum(
            times * (1 if (size := name.count("+") + 1) == 1 else size + 2) for name, times in self.transactions.items()
        )

    def of(self, name: str) -> int:
        """How often a statement was run."""
        return self.statements[name]


class CountingEngine:
    """An `Engine` that hands everything to another one."""

    def __init__(self, inner: Engine, counts: Counts) -> None:
        self._inner = inner
        self.counts = counts
        self.is_shared = inner.is_shared
        self.is_parallel = inner.is_parallel

    async def open(self, mode: Mode) -> None:
        """See `Engine`."""
        await self._inner.open(mode)

    async def close(self) -> None:
        """See `Engine`."""
        await self._inner.close()

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        """See `Engine`."""
        results = await self._inner.transact(statements, channel, readonly=readonly)
        self.counts.transactions["+".join(statement.name for statement in statements)] += 1
        for statement, rows in zip(statements, results, strict=True):
            self.counts.statements[statement.name] += 1
            self.counts.rows[statement.name] += len(rows)
        return results

    def twin(self) -> CountingEngine:
        """See `Engine`. Counts go to the same place."""
        return CountingEngine(self._inner.twin(), self.counts)

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """See `Engine`."""
        self._inner.listen(callback)

    def notify(self, wake: Wake) -> None:
        """See `Engine`."""
        self.counts.wakes += 1
        self._inner.notify(wake)


@contextmanager
def counting() -> Generator[Counts]:
    """Inside, every database that is made counts into the same place; those of `Durably` too."""
    counts = Counts()

    class Counting(Database):
        def __init__(
            self, engine: Engine, environment: Environment, migrate: Mode, shown: str, default_lease: timedelta
        ) -> None:
            counted = engine if isinstance(engine, CountingEngine) else CountingEngine(engine, counts)
            super().__init__(counted, environment, migrate, shown, default_lease)

    with patch.object(databases, "Database", Counting):
        yield counts
