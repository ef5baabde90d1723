"""An engine that counts transactions and fails where a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from durably.errors import DatabaseUnavailable
from durably.store.engine import Channel, Engine
from durably.store.migrate import Mode
from durably.store.operation import Rows, Statement, Wake
from tests.support.store import Store


@dataclass
class Wrapped:
    """An engine that counts transactions, and fails before or after those that a test picks."""

    inner: Engine
    counted: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    fail_before: Callable[[tuple[str, ...]], bool] = lambda _: False
    fail_after: Callable[[tuple[str, ...]], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.is_shared = self.inner.is_shared
        self.is_parallel = self.inner.is_parallel

    async def open(self, mode: Mode) -> None:
        await self.inner.open(mode)

    async def close(self) -> None:
        await self.inner.close()

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        names = tuple(statement.name for statement in statements)
        self.counted.append(names)
        if self.fail_before(names):
            raise DatabaseUnavailable("lost before")
        rows = await self.inner.transact(statements, channel, readonly=readonly)
        if self.fail_after(names):
            raise DatabaseUnavailable("lost after the commit")
        return rows

    def twin(self) -> Engine:
        return self.inner.twin()

    def listen(self, callback: Callable[[Wake], None]) -> None:
        self.inner.listen(callback)

    def notify(self, wake: Wake) -> None:
        self.inner.notify(wake)


def once(name: str) -> Callable[[tuple[str, ...]], bool]:
    """True for the first transaction that holds a statement of this name."""
    left = [name]

    def pick(names: tuple[str, ...]) -> bool:
        return bool(left) and left[0] in names and bool(left.pop())

    return pick


async def wrapped(store: Store) -> Wrapped:
    """Put a wrapped engine under the store's database."""
    engines: list[Wrapped] = []

    def wrap(engine: Engine) -> Engine:
        engines.append(Wrapped(engine))
        return engines[0]

    store.database = await store.through(wrap)
    return engines[0]
