"""A bench on each database."""

from __future__ import annotations

import pytest

from tests.support.bench import Bench
from tests.support.store import Store


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store.database)
