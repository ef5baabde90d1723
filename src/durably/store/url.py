"""Which database a URL means. No I/O; a password never leaves the URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl

from durably.errors import ValidationError

_POSTGRES = {
    "postgres",
    "postgresql",
    "postgresql+asyncpg",
    "postgresql+psycopg",
    "postgresql+psycopg2",
    "postgres+asyncpg",
}
_SQLITE = {"sqlite", "sqlite3", "sqlite+aiosqlite", "sqlite+pysqlite"}
_SECRET = re.compile(r"(password|sslpassword|passfile)=[^&]*", re.IGNORECASE)
_SYNCHRONOUS = ("full", "normal", "extra")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_NOT_OURS = {
    "channel_binding", "connect_timeout", "fallback_application_name", "gssencmode", "hostaddr", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "require_auth", "requirepeer",
    "sslcompression", "sslnegotiation", "sslsni", "tcp_user_timeout",
    "connection_limit", "pgbouncer", "pool_timeout", "schema", "socket_timeout", "sslaccept",
}  # fmt: skip
"""Options of libpq, and of an ORM that hosts of databases show urls for, which asyncpg would take for settings of the
server. None is dropped in silence: some are there for security."""
_MAX_PORT = 65_535


Connect: TypeAlias = Callable[..., Any]
"""Called as `asyncpg.connect` would be: with a DSN and keyword options; returns an awaitable connection."""


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A database to open. `location` is a file path, `:memory:`, or the DSN for the Postgres driver."""

    dialect: Literal["sqlite", "postgres"]
    location: str = field(repr=False)
    shown: str
    """The URL without its password, for people."""
    synchronous: str = "full"
    """SQLite: `full` survives a power cut, `normal` may lose the last commits to one."""
    listen: str | None = field(default=None, repr=False)
    """Postgres: a direct connection for LISTEN, where `location` is a pooler."""
    connect: Connect | None = field(default=None, repr=False)
    """Postgres: what makes connections in place of `asyncpg.connect`."""
    connect_seconds: float = 10.0
    """Postgres: how long making a connection may take. One that was begun while the network swallowed everything never
    ends by itself, and until it is given up its process does nothing."""


def parse_url(url: str, *, listen_url: str | None = None, connect: Connect | None = None) -> DatabaseUrl:
    """The database that a URL means. Raises ValidationError naming what is wrong, without the password."""
    _check_text(url, "url", "sqlite:///path.db")
    if "\0" in url:
        raise ValidationError("url", "must not contain the NUL character")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValidationError("url", f"{_masked(url)!r} is no URL: use sqlite:///path.db or postgresql://host/name")
    if scheme in _SQLITE:
        _refuse_for_sqlite(listen_url=listen_url, connect=connect)
        return _sqlite(rest)
    if scheme in _POSTGRES:
        _check_ports(rest)
        _check_options(rest)
        listen = None if listen_url is None else _listen_location(listen_url)
        if connect is not None and not callable(connect):
            raise ValidationError("connect", f"must be an async function, not a {type(connect).__name__}")
        shown = _masked(f"postgresql://{rest}")
        return DatabaseUrl("postgres", f"postgresql://{rest}", shown, listen=listen, connect=connect)
    raise ValidationError("url", f"unknown scheme {scheme!r}: use sqlite:///path.db or postgresql://host/name")


def _check_text(given: object, field: str, example: str) -> None:
    if not isinstance(given, str):
        raise ValidationError(field, f"must be a str, not a {type(given).__name__}: {example}")


def _refuse_for_sqlite(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValidationError(name, "is for PostgreSQL alone: leave it out with an SQLite url")


def _listen_location(url: str) -> str:
    _check_text(url, "listen_url", "postgresql://host/name")
    parsed = parse_url(url)
    if parsed.dialect != "postgres":
        raise ValidationError("listen_url", f"{parsed.shown!r} is not PostgreSQL: use postgresql://host/name")
    return parsed.location


def _sqlite(rest: str) -> DatabaseUrl:
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "full").lower()
    if synchronous not in _SYNCHRONOUS:
        raise ValidationError("url", f"synchronous={synchronous!r} is unknown: use one of {', '.join(_SYNCHRONOUS)}")
    if options:
        raise ValidationError("url", f"unknown option {min(options)!r}: SQLite takes synchronous=full|normal|extra")
    if path in {"", "/", "/:memory:", ":memory:"}:
        return DatabaseUrl("sqlite", ":memory:", "sqlite:///:memory:", synchronous)
    if not path.startswith("/"):
        raise ValidationError(
            "url", f"sqlite://{path} has two slashes: use sqlite:///relative.db or sqlite:////absolute.db"
        )
    return DatabaseUrl("sqlite", path[1:], f"sqlite://{path}", synchronous)


def _check_ports(rest: str) -> None:
    """Raise ValidationError for what the driver could only complain of by quoting it, and that may be a password."""
    network = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    for host in network.split(","):
        if host.startswith("[") != ("]" in host):
            raise ValidationError("url", "an IPv6 address stands in brackets: postgresql://[::1]:5432/name")
        port = "" if host.endswith("]") else host.partition(":")[2] if host[:1] != "[" else host.rpartition(":")[2]
        if port.isdecimal() and not 0 < int(port[:9]) <= _MAX_PORT:
            raise ValidationError("url", f"port {port[:9]} must be from 1 to {_MAX_PORT}")
        if port and not port.isdecimal():
            reason = "the port is no number; in a password, write / as %2F, ? as %3F, # as %23 and @ as %40"
            raise ValidationError("url", reason)


def _check_options(rest: str) -> None:
    """Raise ValidationError for what the driver refuses, or hands to a server that refuses it."""
    if not (query := re.search(r"\?([^#?@]*)$", rest)):
        return
    for name, value in parse_qsl(query[1], keep_blank_values=True):
        if name in _NOT_OURS:
            raise ValidationError("url", f"the option {name} does not exist here: leave it out")
        if name == "sslmode" and value not in _SSL_MODES:
            raise ValidationError("url", f"sslmode must be one of {', '.join(_SSL_MODES)}")


def _masked(url: str) -> str:
    """The URL with `***` in place of what may be a password, also in the query."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    network, question, query = rest.partition("?")
    if "@" in query and "@" not in network:
        network, question, query = rest, "", ""
    user, at, host = network.rpartition("@")
    user = f"{user.partition(':')[0]}:***" if ":" in user else user
    return _SECRET.sub(r"\1=***", f"{scheme}{separator}{user}{at}{host}{question}{query}")
