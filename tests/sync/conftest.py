"""The blocking facade on each database that processes can share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durably import SyncDurably
from tests.sync.jobs import QUICK


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def durably(url: str) -> Iterator[SyncDurably]:
    with SyncDurably(url, poll_interval=QUICK) as opened:
        yield opened
