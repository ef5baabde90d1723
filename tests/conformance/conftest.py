"""A Durably on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from durably import Durably
from tests.support.app import App, MakeApp, Wrap, make_durably
from tests.support.store import StoreKind


@pytest.fixture
async def make_app(store_kind: StoreKind, store_url: str) -> AsyncIterator[MakeApp]:
    """Give the function that opens a Durably on an empty database, with settings of the test's."""
    async with AsyncExitStack() as stack:

        async def make(*, wrap: Wrap | None = None, **settings: Any) -> App:
            durably = await stack.enter_async_context(make_durably(store_url, wrap=wrap, **settings))
            app = App(store_kind, store_url, durably, stack)
            await app.look()
            if app.is_postgres:
                await app.empty()
            return app

        yield make


@pytest.fixture
async def app(make_app: MakeApp) -> App:
    """Give a Durably on an empty database, with the words of `tests/support/app.py`."""
    return await make_app()


@pytest.fixture
def durably(app: App) -> Durably:
    """Give an open Durably on an empty database."""
    return app.durably
