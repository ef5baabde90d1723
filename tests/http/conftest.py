"""A Durably on each database that processes can share, and a server for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from durably import Durably
from tests.http.jobs import JOBS
from tests.support.http import Site, quick, site


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
