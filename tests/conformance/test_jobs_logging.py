"""What jobs log: `step.log`, any other logger, and the run in every line."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from durably import Run, Step, SyncStep, job
from durably.logging import RunContextFilter, RunLogHandler
from tests.support.app import App

library = logging.getLogger("some.library")


class Records(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)

    def told(self, *names: str) -> list[tuple[object, ...]]:
        return [(record.getMessage(), *(getattr(record, name) for name in names)) for record in self.found]


@contextmanager
def on_root(handler: logging.Handler) -> Generator[None]:
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


@pytest.fixture
def captured() -> Iterator[None]:
    with on_root(RunLogHandler()):
        yield


@pytest.fixture
def records() -> Iterator[Records]:
    """What standard logging got of `durably.job` and of the library, each with its run."""
    handler = Records()
    handler.addFilter(RunContextFilter())
    handler.addFilter(lambda record: record.name in {"durably.job", library.name})
    with on_root(handler):
        yield handler


async def lines(app: App, run: Run[Any]) -> list[tuple[str | None, str, str]]:
    return [(line.step, line.level, line.message) for line in await app.durably.get_logs(run)]


def in_a_thread() -> None:
    library.warning("in a thread")


async def talks(step_name: str) -> None:
    library.info("hello from %s", step_name)
    await asyncio.to_thread(in_a_thread)
    await asyncio.create_task(in_a_task())


async def in_a_task() -> None:
    library.error("in a task")


@job("talkative")
async def talkative(step: Step) -> None:
    library.info("before")
    await step.run("a", talks, "a")
    await asyncio.gather(step.run("b", talks, "b"), step.run("c", in_a_thread))
    library.info("after")


@pytest.mark.usefixtures("captured")
async def test_the_lines_of_any_logger_go_to_the_run_and_the_step_they_belong_to(app: App) -> None:
    run = await app.execute(talkative)
    found = await lines(app, run)
    assert found[:4] == [
        (None, "info", "before"),
        ("a", "info", "hello from a"),
        ("a", "warning", "in a thread"),
        ("a", "error", "in a task"),
    ]
    assert sorted(line for line in found[4:-1] if line[0] == "b") == [
        ("b", "error", "in a task"),
        ("b", "info", "hello from b"),
        ("b", "warning", "in a thread"),
    ]
    assert ("c", "warning", "in a thread") in found
    assert found[-1] == (None, "info", "after")
    [first, *_] = await app.durably.get_logs(run)
    assert json.loads(first.data_json or "") == {"logger": "some.library"}


@pytest.mark.usefixtures("captured")
async def test_the_lines_of_a_blocking_job_are_captured_too(app: App) -> None:
    @job("blocks")
    def blocks(step: SyncStep) -> None:
        library.info("between")
        step.run("a", in_a_thread)

    run = await app.execute(blocks)
    assert await lines(app, run) == [(None, "info", "between"), ("a", "warning", "in a thread")]


@pytest.mark.usefixtures("captured")
async def test_runs_side_by_side_keep_their_lines_apart(app: App) -> None:
    @job("says")
    async def says(step: Step, name: str) -> None:
        for _ in range(5):
            library.info("%s", name)
            await asyncio.sleep(0)

    runs = await app.durably.trigger_many(says, ["a", "b", "c"])
    await app.process(says, max_concurrent_runs=3)
    for run, name in zip(runs, "abc", strict=True):
        assert {line[2] for line in await lines(app, run)} == {name}


@pytest.mark.usefixtures("captured")
async def test_a_line_of_step_log_is_stored_once_and_ours_not_at_all(app: App) -> None:
    @job("both")
    async def both(step: Step) -> None:
        step.log.info("mine")
        logging.getLogger("durably.worker").error("not the run's")

    assert await lines(app, await app.execute(both)) == [(None, "info", "mine")]


@pytest.mark.usefixtures("captured")
async def test_the_traceback_of_an_exception_is_data_of_its_line(app: App) -> None:
    @job("catches")
    async def catches(step: Step) -> None:
        try:
            raise ValueError("inner")  # noqa: TRY301 - this is what it is about
        except ValueError:
            library.exception("it broke")

    [line] = await app.durably.get_logs(await app.execute(catches))
    assert (line.level, line.message) == ("error", "it broke")
    assert "ValueError: inner" in json.loads(line.data_json or "")["exception"]


@pytest.mark.usefixtures("captured")
async def test_what_is_logged_outside_runs_goes_to_none(app: App) -> None:
    library.error("outside")
    assert await lines(app, await app.execute(talkative)) != []
    library.error("outside")
    assert all("outside" not in line.message for line in await app.durably.get_logs((await app.durably.get_runs())[0]))


@pytest.mark.usefixtures("captured")
async def test_a_task_that_outlives_its_run_writes_no_line_into_it(app: App) -> None:
    left: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        library.error("too late")

    @job("leaves")
    async def leaves(step: Step) -> None:
        left.append(asyncio.create_task(late()))
        library.info("in time")

    run = await app.execute(leaves)
    go.set()
    await left[0]
    assert await lines(app, run) == [(None, "info", "in time")]


async def test_a_handler_takes_what_its_level_allows(app: App) -> None:
    with on_root(RunLogHandler(logging.ERROR)):
        run = await app.execute(talkative)
    assert {level for _, level, _ in await lines(app, run)} == {"error"}


@pytest.mark.usefixtures("captured")
async def test_a_line_that_cannot_be_formatted_harms_no_job(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    @job("wrong")
    async def wrong(step: Step) -> str:
        library.info("%d", "no number")
        step.log.info("%d", "no number")
        return "done"

    assert (await app.execute(wrong)).output == "done"


# --- the context of a line --------------------------------------------------------------------------


async def test_every_record_of_a_run_carries_its_run_job_and_step(app: App, records: Records) -> None:
    @job("context")
    async def context(step: Step) -> None:
        library.info("library")
        step.log.info("mine")
        await step.run("a", in_a_thread)

    run = await app.execute(context)
    assert records.told("run_id", "job", "step", "attempt", "replay") == [
        ("library", run.id, "context", None, 1, False),
        ("mine", run.id, "context", None, 1, False),
        ("in a thread", run.id, "context", "a", 1, False),
    ]


def test_outside_runs_the_fields_are_there_and_empty(records: Records) -> None:
    library.error("outside")
    assert records.told("run_id", "job", "step", "attempt", "replay") == [("outside", None, None, None, None, False)]
    assert logging.Formatter("%(run_id)s %(step)s %(message)s").format(records.found[0]) == "None None outside"


@pytest.mark.usefixtures("captured")
async def test_what_is_logged_between_steps_on_a_replay_is_marked_and_not_stored_again(
    app: App, records: Records
) -> None:
    fails = True

    @job("replays")
    async def replays(step: Step) -> None:
        step.log.info("start")
        library.info("library")
        await step.run("a", in_a_thread)
        step.log.info("after a")
        if fails:
            raise ValueError("again")
        step.log.info("new")

    run = await app.execute(replays)
    records.found.clear()
    fails = False
    await app.again(run, replays)
    assert records.told("attempt", "replay") == [
        ("start", 2, True),
        ("library", 2, True),
        ("after a", 2, False),  # the first execution may have died before this line
        ("new", 2, False),
    ]
    stored = [message for _, _, message in await lines(app, run)]
    assert stored.count("start") == stored.count("library") == stored.count("in a thread") == 1
    assert stored[-1] == "new"


async def test_extra_fields_that_logging_keeps_for_itself_are_no_error(app: App, records: Records) -> None:
    @job("extras")
    async def extras(step: Step) -> str:
        fields = {"name": "ada", "message": "m", "run_id": "mine", "args": 1}
        step.log.info("line", extra=fields)
        return "done"

    run = await app.execute(extras)
    assert run.output == "done"
    [line] = await app.durably.get_logs(run)
    assert json.loads(line.data_json or "") == {"name": "ada", "message": "m", "run_id": "mine", "args": 1}
    assert records.told("run_id", "name_", "message_", "args_") == [("line", run.id, "ada", "m", 1)]


async def test_step_log_is_a_logger_adapter_whose_records_name_the_line_of_the_job(app: App, records: Records) -> None:
    @job("adapter")
    async def adapter(step: Step) -> bool:
        step.log.warning("here")
        return logging.LoggerAdapter in type(step.log).__mro__

    assert (await app.execute(adapter)).output is True
    assert (records.found[0].funcName, records.found[0].name) == ("adapter", "durably.job")
