"""Where the demo works: an empty database, and the tables on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from demo.sqlite import SqliteTables
from demo.tables import Tables

SQLITE = "sqlite:///"


def open_tables(url: str) -> Tables:
    """Return the tables on the database that durably is given. No I/O."""
    if url.startswith(SQLITE):
        return SqliteTables(url.removeprefix(SQLITE))
    from demo.postgres import PostgresTables  # noqa: PLC0415  # asyncpg is an extra

    return PostgresTables(url)


@contextmanager
def workplace(*, keep: bool) -> Generator[Path]:
    """Give a folder of our own, gone at the end unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="durably-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def empty_database(kind: str, folder: Path) -> Generator[str]:
    """Give the URL of an empty database: a file in the folder, or a database of a throw-away PostgreSQL."""
    if kind == "sqlite":
        yield f"{SQLITE}{folder / 'demo.db'}"
        return
    from tools.postgres_server import start_server  # noqa: PLC0415  # only where it is needed

    with start_server() as server:
        url = server.create_database()
        try:
            yield url
        finally:
            server.drop_database(url)
