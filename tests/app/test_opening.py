"""Making a Durably does nothing; it opens at its first use, in one event loop of one process."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durably.app import Durably
from durably.errors import DurablyError, UsageError, ValidationError


def test_making_one_touches_nothing(tmp_path: Path) -> None:
    threads = threading.active_count()
    Durably(f"sqlite:///{tmp_path}/new/jobs.db")
    Durably("postgresql://user@host.invalid/db")
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Durably("postgresql://user:secret@host/db"))


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("lease", {"lease": timedelta(0)}),
        ("renewal", {"lease": timedelta(seconds=9), "renewal": timedelta(seconds=4)}),
        ("poll_interval", {"poll_interval": timedelta(0)}),
        ("max_concurrent_runs", {"max_concurrent_runs": 0}),
        ("max_crashes", {"max_crashes": -1}),
        ("max_value_bytes", {"max_value_bytes": 0}),
        ("retain_runs", {"retain_runs": timedelta(0)}),
        ("migrate", {"migrate": "maybe"}),
        ("url", {"url": "mysql://host/db"}),
        ("url", {"url": "jobs.db"}),
    ],
)
def test_wrong_settings_are_named_at_once(field: str, settings: dict[str, Any]) -> None:
    chosen: dict[str, Any] = {"url": "sqlite:///:memory:", **settings}
    with pytest.raises(ValidationError) as caught:
        Durably(**chosen)
    assert caught.value.field == field


async def test_concurrent_first_uses_open_once(url: str) -> None:
    durably = Durably(url)
    runs = await asyncio.gather(*(durably.trigger("job", number) for number in range(20)))
    assert len({run.id for run in runs}) == 20
    assert len(await durably.get_runs()) == 20
    await durably.close()


async def test_it_opens_again_after_close(url: str) -> None:
    durably = Durably(url)
    await durably.close()
    run = await durably.trigger("job")
    await durably.close()
    await durably.close()
    assert await durably.get_run(run.id)
    await durably.close()


async def test_everybody_who_waits_for_opening_learns_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").mkdir()
    durably = Durably(f"sqlite:///{tmp_path}/jobs.db")
    results = await asyncio.gather(*(durably.trigger("job") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, DurablyError) for result in results), results
    (tmp_path / "jobs.db").rmdir()
    await durably.trigger("job")
    await durably.close()


def test_another_event_loop_is_refused_until_it_is_closed(url: str) -> None:
    durably = Durably(url)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        run = first.run(durably.trigger("job"))
        with pytest.raises(UsageError, match="another event loop"):
            second.run(durably.get_run(run.id))
        with pytest.raises(UsageError, match="another event loop"):
            second.run(durably.close())
        first.run(durably.close())
        assert second.run(durably.get_run(run.id))
        second.run(durably.close())


def test_what_was_left_open_in_a_loop_that_has_ended_is_opened_anew(url: str) -> None:
    durably = Durably(url)

    async def again(run_id: str) -> list[object]:
        found = await asyncio.gather(*(durably.get_run(run_id) for _ in range(3)))
        return [run.id for run in found if run is not None]

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # of connections whose loop has ended
        run = asyncio.run(durably.trigger("job"))
        for _ in range(2):
            assert asyncio.run(again(run.id)) == [run.id] * 3
        asyncio.run(durably.close())
        gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_the_database_anew(url: str) -> None:
    durably = Durably(url)
    with asyncio.Runner() as runner:
        run = runner.run(durably.trigger("job"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _find_and_leave(durably, run.id)
        assert os.waitpid(child, 0)[1] == 0
        assert runner.run(durably.get_run(run.id))
        runner.run(durably.close())


def _find_and_leave(durably: Durably, run_id: str) -> None:
    async def find() -> bool:
        found = await durably.get_run(run_id)
        await durably.close()
        return found is not None

    code = 4
    try:
        code = 0 if asyncio.run(find()) else 3
    finally:
        os._exit(code)
