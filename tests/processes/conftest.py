"""A database that worker processes share, the stage on which their jobs tell what they do, and the workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from durably import Durably
from tests.support.processes import Workers
from tests.support.stage import Stage
from tests.support.store import StoreKind

SHARED: tuple[StoreKind, ...] = ("sqlite-file", "postgres")


@pytest.fixture(params=SHARED)
def store_kind(request: pytest.FixtureRequest) -> StoreKind:
    """Say which database the test runs on: on every one that processes can share."""
    kind: StoreKind = request.param
    return kind


@pytest.fixture
def store_url(store_kind: StoreKind, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database of the test's own: a worker's last transaction cannot meet the next test."""
    if store_kind == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
async def durably(store_url: str) -> AsyncIterator[Durably]:
    """Give what the test itself triggers and looks with, in its own process; it connects when it is used."""
    made = Durably(store_url)
    yield made
    await made.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Give the place where jobs tell what they do."""
    async with Stage() as opened:
        yield opened


@pytest.fixture
async def workers(store_url: str, stage: Stage) -> AsyncIterator[Workers]:
    """Give worker processes, ended with the test."""
    started = Workers(store_url, stage)
    yield started
    await started.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the jobs and workers of a failed test told."""
    report = yield
    if report.when == "call" and report.failed:
        told: dict[str, object] = getattr(item, "funcargs", {})
        for name in ("stage", "workers"):
            witness = told.get(name)
            if isinstance(witness, (Stage, Workers)):
                report.sections.append((name, witness.story()))
    return report
