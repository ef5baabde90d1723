"""Two sessions of PostgreSQL that meet."""

from __future__ import annotations

from typing import Any

from durably.store.operation import Operation
from tests.support.store import Store, T


async def run_on(connection: Any, store: Store, operation: Operation[T]) -> T:
    """The operation on a raw connection, in whatever transaction is open there."""
    engine: Any = store.engine()
    rows: list[Any] = []
    for statement in operation.plan():
        for sql, arguments in engine._bind(statement):  # noqa: SLF001 - the engine's own binding
            rows.append(await connection.fetch(sql, *arguments))
    return operation.result(rows)


async def wait_until_blocked(store: Store, holder: Any) -> None:
    """Return when a session waits, without the lanes' time limit, for a lock that `holder` has."""
    sql = (
        f"SELECT 1 FROM pg_stat_activity WHERE {holder.get_server_pid()} = ANY (pg_blocking_pids(pid))"
        " AND clock_timestamp() - query_start > interval '120 ms'"
    )
    while not await store.sql(sql):  # bounded by the test's timeout
        pass
