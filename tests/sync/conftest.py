"""The blocking facade on each database that processes can share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durably import SyncDurably
from tests.sync.jobs import QUICK


@pytest.fixture
def durably(url: str) -> Iterator[SyncDurably]:
    with SyncDurably(url, poll_interval=QUICK) as opened:
        yield opened
