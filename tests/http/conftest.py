"""A Durably on each database that processes can share, and a server for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durably import Durably
from tests.http.jobs import JOBS
from tests.support.http import Site, quick, site


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def durably(url: str) -> AsyncIterator[Durably]:
    made = quick(url)
    yield made
    await made.close()


@pytest.fixture
async def served(durably: Durably) -> AsyncIterator[Site]:
    """Give a server without auth, and without a worker."""
    async with site(durably, jobs=JOBS) as opened:
        yield opened


@pytest.fixture
async def exact(durably: Durably) -> AsyncIterator[Site]:
    """Give a server that thins nothing out."""
    async with site(durably, jobs=JOBS, sse_throttle=0) as opened:
        yield opened
