"""What people see: live views, timelines and progress bars in a real terminal, drawn by a terminal emulator."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from durably import Durably, Run, Step, job
from tests.support.terminal import COLUMNS, Terminal

T = TypeVar("T")


@job("import")
async def imports(step: Step, n: int) -> int:
    step.log.warning("careful")
    for number in range(3):
        await step.run("row", lambda: None, key=number)
        step.progress(number + 1, 3)
    if n < 0:
        await step.run("bad", lambda: 1 / 0)
    return n


on_both = pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)


def do(url: str, work: Callable[[Durably], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Durably(url) as durably:
            return await work(durably)

    return asyncio.run(main())


async def process(durably: Durably) -> int:
    return await durably.worker([imports]).process_until_idle()


def executed(url: str, *inputs: int) -> list[Run[Any]]:
    async def work(durably: Durably) -> list[Run[Any]]:
        runs = await durably.trigger_many(imports, inputs)
        await process(durably)
        return [*runs]

    return do(url, work)


def terminal(url: str, tmp_path: Path, *arguments: str, columns: int = COLUMNS) -> Terminal:
    return Terminal(*arguments, cwd=tmp_path, env={"DURABLY_URL": url}, columns=columns)


@on_both
def test_watched_runs_change_on_the_screen_until_ctrl_c(url: str, tmp_path: Path) -> None:
    run = do(url, lambda durably: durably.trigger(imports, 1))
    with terminal(url, tmp_path, "runs", "--watch", "--interval", "0.05") as view:
        first = view.shows(run.id, "pending", "1 runs, 1 active", "Ctrl-C")
        assert first.splitlines()[0].split() == ["run", "job", "status", "progress", "created", "took", "what"]
        do(url, process)
        view.shows("completed", "3/3", "1 runs, 0 active")
        second = do(url, lambda durably: durably.trigger(imports, -1))
        do(url, process)
        screen = view.shows(second.id, "failed", "ZeroDivisionError: division by zero")
        assert screen.count(run.id) == 1  # drawn in place, not below
        assert screen.index(second.id) < screen.index(run.id)
        view.interrupt()
        assert view.ended() == 0
    assert "Traceback" not in view.text


def test_followed_events_appear_as_they_happen(url: str, tmp_path: Path) -> None:
    do(url, lambda durably: durably.get_runs())
    with terminal(url, tmp_path, "events", "--follow", "--after", "0") as view:
        run = do(url, lambda durably: durably.trigger(imports, 1))
        view.shows("run:trigger", run.id)
        assert "run:complete" not in view.text
        do(url, process)
        screen = view.shows("run:complete", "row[2]", "careful")
        order = [screen.index(text) for text in ("run:trigger", "run:leased", "row[0]", "row[2]", "run:complete")]
        assert order == sorted(order)
        view.interrupt()
        assert view.ended() == 0
    assert "Traceback" not in view.text


def test_following_one_run_ends_with_it(url: str, tmp_path: Path) -> None:
    run = do(url, lambda durably: durably.trigger(imports, 1))
    with terminal(url, tmp_path, "events", "--follow", "--run", run.id) as view:
        view.shows("run:trigger")
        do(url, process)
        assert view.ended() == 0
        assert "run:complete" in view.text


def test_show_draws_steps_as_a_timeline_and_the_error_with_its_traceback(url: str, tmp_path: Path) -> None:
    [run] = executed(url, -1)
    with terminal(url, tmp_path, "show", run.id) as view:
        assert view.ended() == 0
        screen = view.text
    text = view.raw.decode()
    assert [line.split()[0] for line in screen.splitlines() if "━" in line] == ["row[0]", "row[1]", "row[2]", "bad"]
    starts = [line.index("━") for line in screen.splitlines() if "━" in line]
    assert starts == sorted(starts)
    for part in ("status", "failed", "steps", "leases", "log", "careful", "error in step bad"):
        assert part in text
    assert re.search(r"ZeroDivisionError.*: .*division by zero", text)
    assert "Traceback (most recent call last)" in text
    assert "\x1b[31m" in text  # red


def test_purge_asks_and_shows_how_far_it_is(url: str, tmp_path: Path) -> None:
    async def many(durably: Durably) -> None:
        for run in await durably.trigger_many(imports, range(30)):
            await durably.cancel(run)

    do(url, many)
    with terminal(url, tmp_path, "purge", "--older-than", "0s") as view:
        view.shows("Delete 30 runs with their steps and logs? [y/N]:")
        view.type("n\n")
        assert view.ended() == 1
    assert len(do(url, lambda durably: durably.get_runs())) == 30
    with terminal(url, tmp_path, "purge", "--older-than", "0s") as view:
        view.shows("[y/N]:")
        view.type("y\n")
        assert view.ended() == 0
        assert "purging" in view.text
        assert "30/30" in view.text
        assert view.text.splitlines()[-1].strip() == "30"
    assert do(url, lambda durably: durably.get_runs()) == []


def test_doctor_marks_what_is_wrong_and_points_to_the_remedy(url: str, tmp_path: Path) -> None:
    (tmp_path / "jobs_here.py").write_text(
        "from durably import Step, job\n@job('a')\nasync def a(step: Step) -> None: ...\n"
    )
    do(url, lambda durably: durably.trigger("unknown"))
    with terminal(url, tmp_path, "doctor", "--jobs", "jobs_here") as view:
        assert view.ended() == 7
        assert view.text.count("✓") == 8
        assert "✗ jobs        1 run of 'unknown' waiting for" in view.text
        assert "→ start a worker that has it" in view.text


def test_migrate_says_what_it_did_and_an_empty_list_that_it_is_empty(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with terminal(url, tmp_path, "migrate") as view:
        assert view.ended() == 0
        assert "0001 initial" in view.text
    with terminal(url, tmp_path, "migrate", "--check") as view:
        assert view.ended() == 0
        assert "the tables are up to date" in view.text
    with terminal(url, tmp_path, "runs") as view:
        assert view.ended() == 0
        assert "no runs" in view.text


def test_a_table_keeps_ids_whole_in_a_narrow_terminal(url: str, tmp_path: Path) -> None:
    run = do(url, lambda durably: durably.trigger("a-job-with-a-long-name-" * 3, delay=timedelta(hours=1)))
    with terminal(url, tmp_path, "runs", columns=80) as view:
        assert view.ended() == 0
        assert run.id in view.text
        assert "pending" in view.text
