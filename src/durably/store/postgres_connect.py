"""New connections to PostgreSQL: by asyncpg, or by a function of the user's that knows today's password."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import asyncpg

from durably.errors import DatabaseUnavailable, UsageError, ValidationError
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

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
    if url.connect is None:
        return await asyncpg.connect(
            dsn, timeout=url.connect_seconds, command_timeout=timeout, statement_cache_size=statement_cache_size
        )
    try:
        made = url.connect(
            dsn, timeout=url.connect_seconds, command_timeout=timeout, statement_cache_size=statement_cache_size
        )
        return _checked(await made if isawaitable(made) else made)
    except _ITS_OWN:
        raise
    except Exception as error:  # what it says may quote a secret; the traceback has it
        raise DatabaseUnavailable(f"connect= raised {type(error).__name__}") from error


def _checked(made: object) -> Connection:
    if not _is_connection(made):
        given = f"must be an async function that returns an asyncpg connection, not a {type(made).__name__}"
        raise ValidationError("connect", given)
    return made


def _is_connection(made: object) -> TypeGuard[Connection]:
    return isinstance(made, asyncpg.Connection)
