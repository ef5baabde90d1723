"""Grounds that the scenarios of one test process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.run import Grounds, grounds


@pytest.fixture(scope="session")
def where() -> Iterator[Grounds]:
    """Give places to play on, with a PostgreSQL of their own."""
    with grounds() as made:
        yield made
