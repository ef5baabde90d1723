"""Fixtures for tests of jobs. pytest loads this in every project that has durably installed, so it imports nothing.

What it offers is `durably.testing`, which is imported by the first test that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from durably.testing import Harness, ManualClock

_STORIES = pytest.StashKey[list["Harness"]]()


@pytest.fixture
def durably_clock() -> ManualClock:
    """Give the clock of this test's harnesses, for fakes that need the time."""
    from durably.testing import ManualClock  # noqa: PLC0415 - no cost for those who do not use it

    return ManualClock()


@pytest.fixture
def durably_harness(
    request: pytest.FixtureRequest, durably_clock: ManualClock
) -> Callable[..., AbstractAsyncContextManager[Harness]]:
    """Give `durably.testing.harness`, on the test's `durably_clock`.

    When the test fails, the report says what the runs did. It is a plain fixture: it works with pytest-asyncio, anyio
    or a loop of the test's own.
    """
    from contextlib import asynccontextmanager  # noqa: PLC0415 - no cost for those who do not use it

    from durably.testing import harness  # noqa: PLC0415 - as above

    stories = request.node.stash.setdefault(_STORIES, [])

    @asynccontextmanager
    async def told(jobs: Any, **options: Any) -> Any:  # noqa: ANN401 - as typed by `harness`
        async with harness(jobs, **{"clock": durably_clock} | options) as made:
            stories.append(made)
            yield made

    return told


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the runs did to the report of a test that failed."""
    report = yield
    if report.when == "call" and report.failed:
        for made in item.stash.get(_STORIES, []):
            report.sections.append(("durably runs", made.story()))
    return report
