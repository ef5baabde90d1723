"""Which database a URL means. No I/O; a password never leaves the URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

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
_SYNCHRONOUS = ("full", "normal", "extra")


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


def parse_url(url: str, *, listen_url: str | None = None) -> DatabaseUrl:
    """The database that a URL means. Raises ValidationError naming what is wrong, without the password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValidationError("url", f"{_masked(url)!r} is no URL: use sqlite:///path.db or postgresql://host/name")
    if scheme in _SQLITE:
        return _sqlite(rest)
    if scheme in _POSTGRES:
        return DatabaseUrl("postgres", f"postgresql://{rest}", _masked(f"postgresql://{rest}"), listen=listen_url)
    raise ValidationError("url", f"unknown scheme {scheme!r}: use sqlite:///path.db or postgresql://host/name")


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


def _masked(url: str) -> str:
    """The URL with `***` in place of what may be a password, also in the query."""
    if "@" in url and "://" not in url:
        return f"***@{url.rpartition('@')[2]}"
    parts = urlsplit(url)
    network = parts.netloc
    if "@" in network:
        user, _, host = network.rpartition("@")
        network = f"{user.partition(':')[0]}:***@{host}" if ":" in user else network
    secret = {"password", "sslpassword", "passfile"}
    query = [(name, "***" if name.lower() in secret else value) for name, value in parse_qsl(parts.query)]
    return urlunsplit((parts.scheme, network, parts.path, urlencode(query, safe="*/"), ""))
