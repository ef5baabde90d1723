"""New connections to PostgreSQL: by asyncpg, or by a function of the user's that knows today's password."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from durably.errors import DatabaseUnavailable, UsageError, ValidationError
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

_CONNECT_WITHIN = 10.0
_ANSWER_WITHIN = 60.0
_LISTENER_ANSWERS_WITHIN = 10.0
_ITS_OWN = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, UsageError)
"""What connecting may raise, and what is understood where it is called."""


async def connect(url: DatabaseUrl, *, listening: bool = False, statement_cache_size: int = 200) -> Connection:
    """A new connection; for `listening` to the direct address where there is one.

    Raises what asyncpg raises, DatabaseUnavailable when the user's function fails in another way, and ValidationError
    when it returns something else than a connection.
    """
    dsn = url.listen or url.location if listening else url.location
    timeout = _LISTENER_ANSWERS_WITHIN if listening else _ANSWER_WITHIN
    options = {"timeout": _CONNECT_WITHIN, "command_timeout": timeout, "statement_cache_size": statement_cache_size}
    if url.connect is None:
        made: Connection = await asyncpg.connect(dsn, **options)
        return made
    try:
        given = await _awaited(url.connect(dsn, **options))
    except _ITS_OWN:
        raise
    except Exception as error:  # what it says may quote a secret; the traceback has it
        raise DatabaseUnavailable(f"connect= raised {type(error).__name__}") from error
    if not isinstance(given, asyncpg.Connection):
        raise ValidationError("connect", f"must return an asyncpg connection, not a {type(given).__name__}")
    return given


async def _awaited(result: object) -> Any:  # noqa: ANN401  # whatever the user's function made
    if not isinstance(result, Awaitable):
        raise ValidationError("connect", "must be an async function, like asyncpg.connect")
    return await result
