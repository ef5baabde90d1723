"""Fixtures for tests of jobs. pytest loads this in every project that has durably installed, so it imports nothing.

What it offers is `durably.testing`, which is imported by the first test that asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from durably.testing import Harness, ManualClock

MakeHarness: TypeAlias = "Callable[..., AbstractAsyncContextManager[Harness]]"

_MADE = pytest.StashKey["list[Harness]"]()


@pytest.fixture
def durably_clock() -> ManualClock:
    """Give the clock of this test's harnesses, for fakes that need the time."""
    from durably.testing import ManualClock  # noqa: PLC0415 - no cost for those who do not use it

    return ManualClock()


@pytest.fixture
def durably_harness(request: pytest.FixtureRequest, durably_clock: ManualClock) -> MakeHarness:
    """Give `durably.testing.harness`, on the test's `durably_clock`.

    When the test fails, the report says what the runs did. It is a plain fixture: it works with pytest-asyncio, anyio
    or a loop of the test's own.
    """
    from durably.testing import harness  # noqa: PLC0415 - no cost for those who do not use it

    item: pytest.Item = request.node
    all_made: list[Harness] = []
    item.stash[_MADE] = all_made

    @asynccontextmanager
    async def make(jobs: Any, **options: Any) -> AsyncGenerator[Harness]:  # noqa: ANN401 - as typed by `harness`
        options.setdefault("clock", durably_clock)
        async with harness(jobs, **options) as made:
            all_made.append(made)
            yield made

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the runs did to the report of a test that failed."""
    report = yield
    if report.failed and _MADE in item.stash:
        for made in item.stash[_MADE]:
            report.sections.append(("durably runs", made.story()))
    return report
