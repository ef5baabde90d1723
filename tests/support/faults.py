"""An engine that loses its connection when it is told to: before a transaction, or after its commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from durably.errors import DatabaseUnavailable
from durably.store.engine import Channel, Engine
from durably.store.migrate import Mode
from durably.store.operation import Batch, Rows, Statement, Wake


class FaultyEngine:
    """Wraps an engine; `before` and `after` say of a transaction, by number (from 1) and content, if it is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_shared = engine.is_shared
        self.is_parallel = engine.is_parallel
        self.count = 0
        self.is_away = False
        self.before: Callable[[int, Sequence[Statement]], bool] = lambda _number, _statements: False
        self.after: Callable[[int, Sequence[Statement]], bool] = lambda _number, _statements: False
        self.twins: list[FaultyEngine] = []

    async def open(self, mode: Mode) -> None:
        await self._engine.open(mode)

    async def close(self) -> None:
        await self._engine.close()

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        self.count += 1
        number = self.count
        if self.is_away or self.before(number, statements):
            raise DatabaseUnavailable("lost before")
        rows = await self._engine.transact(statements, channel, readonly=readonly)
        if self.after(number, statements):
            raise DatabaseUnavailable("lost after the commit")
        return rows

    def twin(self) -> Engine:
        twin = FaultyEngine(self._engine.twin())
        twin.is_away = self.is_away
        self.twins.append(twin)
        return twin

    def away(self, is_away: bool) -> None:  # noqa: FBT001 - it is what it says
        """Take the database away, or bring it back, also for the keeper."""
        for engine in (self, *self.twins):
            engine.is_away = is_away

    def listen(self, callback: Callable[[Wake], None]) -> None:
        self._engine.listen(callback)

    def notify(self, wake: Wake) -> None:
        self._engine.notify(wake)


def has_ends(statement: Statement) -> bool:
    """Whether this stores the end of a run."""
    batches = [statement.params.get(name) for name in ("completions", "other_endings")]
    return any(isinstance(batch, Batch) and bool(batch.rows) for batch in batches)
