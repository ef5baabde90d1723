"""How a database is reached: whether a pooler sits before it, whether LISTEN hears, how large SQLite's log is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from durably.environment import Environment
from durably.errors import DatabaseUnavailable
from durably.model import Connections
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    import asyncpg

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

HEARD_WITHIN = 2.0


async def probe(url: DatabaseUrl, environment: Environment) -> Connections:
    """Try it out. Raises DatabaseUnavailable."""
    if url.dialect == "sqlite":
        return Connections(wal_bytes=_wal_bytes(url.location))
    import asyncpg  # noqa: PLC0415  # an extra

    from durably.store.postgres import is_pooled  # noqa: PLC0415  # needs asyncpg
    from durably.store.postgres_connect import connect  # noqa: PLC0415  # needs asyncpg

    try:
        sender = await connect(url, statement_cache_size=0)
        try:
            pooled = await is_pooled(sender)
            listener = await connect(url, listening=True, statement_cache_size=0)
            try:
                hears = await _hears(listener, sender, f"durably_probe_{environment.new_id()}")
            finally:
                listener.terminate()
        finally:
            sender.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(type(error).__name__) from error
    return Connections(is_pooled=pooled, hears=hears)


async def _hears(listener: Connection, sender: Connection, channel: str) -> bool:
    """Whether one hears the other: behind a pooler a connection hears itself, for it then has the one that listens."""
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await listener.add_listener(channel, hear)
    async with sender.transaction():  # behind a pooler what is prepared outside of one is somewhere else
        await sender.execute("SELECT pg_notify($1, $2)", channel, "probe")
    try:
        await asyncio.wait_for(heard.wait(), HEARD_WITHIN)
    except TimeoutError:
        return False
    return True


def _wal_bytes(path: str) -> int | None:
    if path == ":memory:":
        return None
    wal = Path(f"{path}-wal")
    return wal.stat().st_size if wal.exists() else 0
