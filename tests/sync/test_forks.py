"""Forks beside threads that use the database: what a child gets is its own, and its parent goes on."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from durably import SyncDurably
from durably.sync import SyncWorker
from tests.sync.jobs import SECONDS, double

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
FORKS = 20


@pytest.fixture(autouse=True)
def forks_in_silence() -> Iterator[None]:
    """Ignore that Python warns, since 3.12, of what is tested here."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        yield


def in_a_child(work: Callable[[], object]) -> bool:
    """Do it in a forked child. Returns whether it raised nothing."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
    return child.exitcode == 0


def test_a_forked_child_has_its_own(durably: SyncDurably) -> None:
    worker = durably.worker([double])
    worker.start()
    assert durably.trigger_and_wait(double, 1, timeout=SECONDS) == 2
    assert in_a_child(lambda: _work(durably, worker))
    assert worker.is_running
    assert durably.trigger_and_wait(double, 3, timeout=SECONDS) == 6


def _work(durably: SyncDurably, worker: SyncWorker) -> None:
    assert not worker.is_running
    run = durably.trigger(double, 5)
    worker.start()
    assert durably.result(run, timeout=SECONDS) == 10
    worker.stop()
    with durably:
        assert durably.get_run(run)
    durably.__exit__(None, None, None)


def test_children_of_a_parent_that_is_busy_are_not(durably: SyncDurably) -> None:
    over = threading.Event()

    def use() -> int:
        count = 0
        while not over.is_set():
            durably.trigger(double, 1)
            count += 1
        return count

    with durably.worker([double]), ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(use) for _ in range(3)]
        try:
            assert all(in_a_child(lambda: durably.trigger("from-a-child")) for _ in range(FORKS))
        finally:
            over.set()
    counts = {name: sum(found.values()) for name, found in durably.get_stats().counts.items()}
    assert counts == {"double": sum(one.result() for one in busy), "from-a-child": FORKS}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_child_inherits_no_open_file(tmp_path: Path) -> None:
    with SyncDurably(f"sqlite:///{tmp_path}/jobs.db") as durably:
        durably.get_runs()
        assert {path.name for path in open_files(tmp_path)} >= {"jobs.db", "jobs.db-wal", "jobs.db-shm"}

        def look() -> None:
            assert open_files(tmp_path) == []

        assert in_a_child(look)


def open_files(folder: Path) -> list[Path]:
    """What this process has open in a folder."""
    opened: list[Path] = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this look itself
            opened.append(number.readlink())
    return [path for path in opened if path.is_relative_to(folder)]


def test_what_is_in_memory_stays_in_the_parent() -> None:
    with SyncDurably("sqlite://") as durably:
        run = durably.trigger(double, 1)

        def look() -> None:
            assert durably.get_runs() == []

        assert in_a_child(look)
        assert durably.get_run(run)
