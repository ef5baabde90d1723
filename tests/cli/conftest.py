"""A database for commands, and a way to call them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from durably.cli.commands import app
from tests.cli.calls import Call


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: SQLite, where a test does not ask for both."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def call(url: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command; the database comes from DURABLY_URL."""
    monkeypatch.setenv("DURABLY_URL", url)

    def call(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return call
