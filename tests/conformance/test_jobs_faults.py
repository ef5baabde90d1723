"""G12: a database that goes away loses nothing, doubles nothing, and is never the failure of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from durably import DatabaseUnavailable, Disposition, EventType, RunStatus, Step, job
from durably.store.engine import Engine
from durably.store.operation import Statement
from tests.support.app import App, MakeApp, within
from tests.support.bench import Gate, eventually
from tests.support.faults import FaultyEngine, has_ends

calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


async def call(name: str) -> str:
    calls.append(name)
    return name


@job("three")
async def three(step: Step) -> list[str]:
    step.progress(1)
    found = [await step.run(name, call, name) for name in ("a", "b")]
    step.log.info("nearly done")
    return [*found, await step.run("c", call, "c")]


class Faults:
    """Loses the connection in transactions that contain a statement, so many times."""

    def __init__(self) -> None:
        self._engine: FaultyEngine | None = None
        self.lost = 0

    def wrap(self, engine: Engine) -> Engine:
        self._engine = FaultyEngine(engine)
        return self._engine

    @property
    def engine(self) -> FaultyEngine:
        assert self._engine is not None
        return self._engine

    def lose(self, name: str, moment: str, *, times: int = 1, ending: bool = False) -> None:
        """`before` the transaction, or `after` its commit: then whoever sent it cannot know."""

        def is_lost(_number: int, statements: Sequence[Statement]) -> bool:
            if self.lost >= times or not any(is_meant(statement, name, ending=ending) for statement in statements):
                return False
            self.lost += 1
            return True

        setattr(self.engine, moment, is_lost)

    def heal(self) -> None:
        """Lose no connection any more."""
        self.engine.before = self.engine.after = never


def never(_number: int, _statements: Sequence[Statement]) -> bool:
    return False


def is_meant(statement: Statement, name: str, *, ending: bool) -> bool:
    return statement.name == name and (not ending or has_ends(statement))


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def faulty(make_app: MakeApp, faults: Faults) -> App:
    return await make_app(wrap=faults.wrap)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_connection_while_success_is_stored_is_no_failure(
    faulty: App, faults: Faults, moment: str
) -> None:
    """G12: once before, and once after the commit; the run has one end and is not executed again."""
    run = await faulty.durably.trigger(three)
    faults.lose("write_runs", moment, ending=True)
    await faulty.process(three)

    ended = await faulty.get(run)
    assert (faults.lost, ended.status, ended.output) == (1, RunStatus.COMPLETED, ["a", "b", "c"])
    assert (ended.error, ended.attempt, calls) == (None, 1, ["a", "b", "c"])
    assert (await faulty.story(run)).count("run:complete") == 1
    assert await faulty.outside.is_sound()


async def test_success_is_stored_however_long_the_database_is_away(faulty: App, faults: Faults) -> None:
    """G12: it is tried again and again; the lease is still ours, for nobody else took it."""
    run = await faulty.durably.trigger(three, concurrency_key="k")
    faults.lose("write_runs", "before", times=5, ending=True)
    await faulty.process(three)

    ended = await faulty.get(run)
    assert (faults.lost, ended.status, ended.error, ended.attempt) == (5, RunStatus.COMPLETED, None, 1)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_connection_while_a_failure_is_stored_keeps_the_error_of_the_code(
    faulty: App, faults: Faults, moment: str
) -> None:
    """G12: the error is the user's own, never the database's."""

    @job("fails")
    async def fails(step: Step) -> None:
        await step.run("a", call, "a")
        raise ValueError("mine")

    run = await faulty.durably.trigger(fails)
    faults.lose("write_runs", moment, times=2, ending=True)
    await faulty.process(fails)

    ended = await faulty.get(run)
    assert ended.error is not None
    assert (faults.lost, ended.status, ended.error.message) == (2, RunStatus.FAILED, "mine")
    assert await faulty.step_names(run) == ["a"]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_checkpoint_in_doubt_is_stored_once_and_its_step_not_executed_again(
    faulty: App, faults: Faults, moment: str
) -> None:
    """G5, G12: the code sees no error, only a step that takes longer."""
    run = await faulty.durably.trigger(three)
    faults.lose("write_runs", moment, times=4)
    await faulty.process(three)

    ended = await faulty.get(run)
    assert (faults.lost, ended.output, calls) == (4, ["a", "b", "c"], ["a", "b", "c"])
    assert [step.name for step in await faulty.durably.get_steps(run)] == ["a", "b", "c"]
    story = await faulty.story(run)
    assert [line for line in story if line.startswith("step:complete")] == [f"step:complete {name}" for name in "abc"]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("statement", "options"),
    [
        ("insert_new_runs", {}),
        ("insert_runs", {"idempotency_key": "k"}),
        ("insert_runs", {"concurrency_key": "k", "if_pending": "reject"}),
    ],
)
async def test_a_trigger_in_doubt_makes_one_run(
    faulty: App, faults: Faults, moment: str, statement: str, options: dict[str, Any]
) -> None:
    """G1, G2, G12: it is found again by its id; it does not conflict with itself."""
    await faulty.durably.get_runs()
    faults.lose(statement, moment)
    run = await faulty.durably.trigger(three, **options)

    assert (faults.lost, run.disposition) == (1, Disposition.CREATED)
    assert [found.id for found in await faulty.durably.get_runs()] == [run.id]
    assert await faulty.story(run) == ["run:trigger"]


async def test_many_triggers_in_doubt_make_one_run_each(faulty: App, faults: Faults) -> None:
    """G1, G12, for `trigger_many`, and for many at once."""
    await faulty.durably.get_runs()
    faults.lose("insert_new_runs", "after", times=2)
    runs = await faulty.durably.trigger_many(three, [None] * 50)
    runs += await asyncio.gather(*(faulty.durably.trigger(three) for _ in range(50)))

    assert faults.lost == 2
    assert len({run.id for run in runs}) == len(await faulty.durably.get_runs(limit=1000)) == 100


async def test_triggers_that_are_in_doubt_again_and_again_make_one_run_each(faulty: App, faults: Faults) -> None:
    """G1, G12: the second attempt, which finds the runs there, is lost as well."""
    await faulty.durably.get_runs()
    lost: list[str] = []

    def is_lost(_number: int, statements: Sequence[Statement]) -> bool:
        lost.append(statements[0].name)
        return lost.count(lost[-1]) <= 2 and lost[-1].startswith("insert_")

    faults.engine.after = is_lost
    runs = await faulty.durably.trigger_many(three, [None] * 50)
    faults.heal()

    assert lost[:4] == ["insert_new_runs", "insert_runs", "insert_runs", "insert_runs"]
    assert {run.disposition for run in runs} == {Disposition.CREATED}
    assert len({run.id for run in runs}) == len(await faulty.durably.get_runs(limit=1000)) == 50


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("statement", ["claim", "claim_expired"])
async def test_a_claim_in_doubt_is_read_back(
    faulty: App, faults: Faults, moment: str, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G12: no run is leased unseen, none is executed twice."""
    monkeypatch.setattr("durably.runtime.claims.CLAIM_SECONDS", 0.5)
    run = await faulty.durably.trigger(three)
    if statement == "claim_expired":
        await faulty.die_with(run)
    faults.lose(statement, moment)
    async with faulty.durably.worker([three]):
        ended = await faulty.wait(run)

    expected = 1 if statement == "claim" else 2
    assert (faults.lost, ended.status, ended.attempt) == (1, RunStatus.COMPLETED, expected)
    assert calls == ["a", "b", "c"]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_action_in_doubt_succeeds_once(faulty: App, faults: Faults, moment: str) -> None:
    """G12: whoever cancels, resumes or deletes is not told that somebody else has done so."""

    @job("fails")
    async def fails(step: Step) -> None:
        raise ValueError("mine")

    run = await faulty.execute(fails)
    for name, action in (
        ("resume_runs", faulty.durably.resume),
        ("cancel_runs", faulty.durably.cancel),
        ("delete_runs", faulty.durably.delete_run),
    ):
        faults.lost = 0
        faults.lose(name, moment)
        await action(run)
        assert faults.lost == 1
    assert (await faulty.story(run))[-3:] == ["run:resume", "run:cancel", "run:delete"]


async def test_progress_and_logs_meet_an_outage_without_harm(faulty: App, faults: Faults) -> None:
    """They are not awaited: the code goes on, and they are stored when the database is back."""
    gate = Gate()

    @job("talks")
    async def talks(step: Step) -> str:
        for done in range(100):
            step.progress(done, 100)
            step.log.info("line %d", done)
        await gate.wait()
        return "done"

    run = await faulty.durably.trigger(talks)
    faults.lose("write_runs", "before", times=3)
    async with faulty.durably.worker([talks]):
        await within(gate.reached.wait())
        await eventually(lambda: faults.lost == 3)
        gate.opened.set()
        ended = await faulty.wait(run)

    assert (ended.status, ended.output) == (RunStatus.COMPLETED, "done")
    assert ended.progress is not None
    assert ended.progress.current == 99
    assert len(await faulty.durably.get_logs(run)) == 100


async def test_an_outage_is_told_not_hammered_and_survived(
    faulty: App, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims back off; `worker:error` says what is wrong; work goes on by itself afterwards."""
    monkeypatch.setattr("durably.runtime.claims.CLAIM_SECONDS", 0.1)
    run = await faulty.durably.trigger(three)
    faults.engine.away(is_away=True)
    async with faulty.durably.worker([three]):
        before = faults.engine.count
        await eventually(lambda: sum('"claim"' in error for error in faulty.errors()) >= 3)
        assert faults.engine.count - before < 100
        faults.engine.away(is_away=False)
        assert (await faulty.wait(run)).output == ["a", "b", "c"]

    [told] = {
        event.type for event in faulty.heard if event.payload_json and "DatabaseUnavailable" in event.payload_json
    }
    assert told is EventType.WORKER_ERROR


async def test_one_execution_says_that_the_database_is_away(
    faulty: App, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`process_one` and `process_until_idle` raise: cron shall know."""
    await faulty.durably.trigger(three)
    worker = faulty.durably.worker([three])
    faults.lose("claim", "before", times=1_000)
    with monkeypatch.context() as patch:
        patch.setattr("durably.runtime.claims.CLAIM_SECONDS", 0.1)
        with pytest.raises(DatabaseUnavailable) as caught:
            await within(worker.process_one())
    assert (caught.value.retryable, caught.value.http_status) == (True, 503)
    faults.heal()
    assert await worker.process_one()


async def test_a_connection_that_is_lost_at_random_loses_and_doubles_nothing(faulty: App, faults: Faults) -> None:
    """G12: every seventh transaction, before or after its commit, under load."""
    runs = await faulty.durably.trigger_many(three, [None] * 40)
    faults.engine.before = lambda number, _: number % 7 == 0
    faults.engine.after = lambda number, _: number % 7 == 3
    async with faulty.durably.worker([three]):
        ended = [await faulty.wait(run) for run in runs]
        faults.heal()

    assert {(run.status, run.attempt) for run in ended} == {(RunStatus.COMPLETED, 1)}
    assert sorted(calls) == sorted(["a", "b", "c"] * 40)
    assert await faulty.outside.is_sound()
