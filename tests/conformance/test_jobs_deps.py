"""What a worker gives its jobs, and what a job says of its runs: `deps`, defaults, labels."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from durably import Disposition, RunStatus, Step, SyncStep, ValidationError, job
from tests.support.app import App


@dataclass
class Pool:
    """What the jobs of a worker share."""

    name: str
    used_by: list[str] = field(default_factory=list[str])
    is_open: bool = True


class Provider:
    """Makes pools; remembers them."""

    def __init__(self) -> None:
        self.made: list[Pool] = []

    def __call__(self) -> AbstractAsyncContextManager[Pool]:
        return self._enter()

    @asynccontextmanager
    async def _enter(self) -> AsyncGenerator[Pool, None]:
        pool = Pool(f"pool {len(self.made)}")
        self.made.append(pool)
        yield pool
        pool.is_open = False


@job("uses")
async def uses(step: Step[Pool], input: str) -> str:
    step.deps.used_by.append(input)
    assert step.deps.is_open
    return await step.run("name", lambda: step.deps.name)


@job("uses-blocking")
def uses_blocking(step: SyncStep[Pool], input: str) -> str:
    step.deps.used_by.append(input)
    return step.deps.name


async def test_deps_are_entered_once_for_a_worker_and_shared_by_its_jobs(app: App) -> None:
    """Entered at the start, left at the end, in between the same for every run of either colour."""
    provider = Provider()
    assert provider.made == []
    async with app.durably.worker([uses, uses_blocking], deps=provider):
        [pool] = provider.made
        runs = [await app.durably.trigger(uses, str(number)) for number in range(3)]
        runs.append(await app.durably.trigger(uses_blocking, "blocking"))
        assert {(await app.wait(run)).output for run in runs} == {"pool 0"}
    assert sorted(pool.used_by) == ["0", "1", "2", "blocking"]
    assert not pool.is_open
    assert len(provider.made) == 1


async def test_each_worker_has_deps_of_its_own(app: App) -> None:
    """Two workers of one process do not share what they entered; a trigger enters nothing."""
    provider = Provider()
    await app.durably.trigger(uses, "x")
    assert provider.made == []
    async with app.durably.worker([uses], deps=provider), app.durably.worker([uses_blocking], deps=provider):
        assert await app.durably.trigger_and_wait(uses_blocking, "y", timeout=20) == "pool 1"


async def test_deps_that_cannot_be_entered_stop_the_start_and_no_run_is_touched(app: App) -> None:
    """The error is the user's own; runs stay pending."""
    provider = Provider()

    @asynccontextmanager
    async def broken() -> AsyncGenerator[Pool, None]:
        if not provider.made:
            raise ConnectionError("no pool")
        yield provider.made[0]

    run = await app.durably.trigger(uses, "x")
    with pytest.raises(ConnectionError, match="no pool"):
        await app.durably.worker([uses], deps=broken).start()
    assert (await app.get(run)).status is RunStatus.PENDING


async def test_without_deps_a_job_finds_none(app: App) -> None:
    """`step.deps` is None where the worker has none."""

    @job("none")
    async def none(step: Step) -> bool:
        return step.deps is None

    assert (await app.execute(none)).output is True


class Order(BaseModel):
    customer: str
    urgent: bool = False


@job(
    "constant",
    concurrency_key="shop",
    labels={"kind": "order", "team": "a"},
    priority=3,
    delay=timedelta(hours=1),
)
async def constant(step: Step, input: Order) -> None: ...


@job(
    "computed",
    idempotency_key=lambda order: f"order of {order.customer}",
    concurrency_key=lambda order: order.customer,
    if_pending=lambda order: "replace" if order.urgent else "queue",
    labels=lambda order: {"customer": order.customer},
    priority=lambda order: 10 if order.urgent else 0,
    delay=lambda order: None if order.urgent else timedelta(minutes=1),
)
async def computed(step: Step, input: Order) -> dict[str, str]:
    return dict(step.labels)


async def test_defaults_of_a_job_are_values(app: App) -> None:
    """What the trigger does not say, the job says."""
    run = await app.get(await app.durably.trigger(constant, Order(customer="ada")))

    assert (run.concurrency_key, run.priority, run.labels) == ("shop", 3, {"kind": "order", "team": "a"})
    assert run.available_at is not None
    assert run.available_at - run.created_at == timedelta(hours=1)


async def test_defaults_of_a_job_are_functions_of_its_input(app: App) -> None:
    """They get the decoded input, also where the trigger gave plain JSON."""
    run = await app.durably.trigger(computed, Order(customer="ada", urgent=True))
    assert (run.idempotency_key, run.concurrency_key, run.priority) == ("order of ada", "ada", 10)
    assert (run.labels, run.available_at) == ({"customer": "ada"}, None)

    same = await app.durably.trigger(computed, Order(customer="ada", urgent=True))
    assert (same.id, same.disposition) == (run.id, Disposition.IDEMPOTENT)

    _worker = app.durably.worker([computed])  # a name alone is resolved where a worker has the job
    slow = await app.durably.trigger("computed", {"customer": "bob"})
    assert (slow.idempotency_key, slow.priority) == ("order of bob", 0)
    assert slow.available_at is not None


async def test_what_the_trigger_says_wins_over_the_defaults(app: App) -> None:
    """Labels are added; everything else is replaced."""
    run = await app.durably.trigger(
        constant,
        Order(customer="ada"),
        idempotency_key="mine",
        concurrency_key="other",
        labels={"team": "b", "more": "x"},
        priority=-1,
        delay=timedelta(0),
    )
    assert (run.idempotency_key, run.concurrency_key, run.priority) == ("mine", "other", -1)
    assert run.labels == {"kind": "order", "team": "b", "more": "x"}
    assert run.available_at is None


async def test_a_default_that_gives_a_wrong_value_is_an_error_that_names_the_field(app: App) -> None:
    """Nothing is stored."""

    def high(order: Order) -> Any:
        return 0 if order.urgent else "high"

    @job(
        "wrong",
        priority=high,
        labels=lambda order: {"a b": "x"} if order.urgent else {},
    )
    async def wrong(step: Step, input: Order) -> None: ...

    with pytest.raises(ValidationError, match=r"^labels: .*'a b'"):
        await app.durably.trigger(wrong, Order(customer="ada", urgent=True))
    with pytest.raises(ValidationError, match=r"^priority: .*'high'"):
        await app.durably.trigger(wrong, Order(customer="ada"))
    assert await app.durably.get_runs() == []


class Tags(BaseModel):
    tenant: str
    tier: Literal["free", "paid"] = "free"
    region: str | None = None


@job("tagged", label_type=Tags)
async def tagged(step: Step) -> dict[str, str]:
    return dict(step.labels)


async def test_labels_with_a_type_are_checked_and_completed(app: App) -> None:
    """Defaults of the type are filled in, None is left out; the job and every filter see the result."""
    run = await app.execute(tagged, labels={"tenant": "acme"})

    assert run.labels == run.output == {"tenant": "acme", "tier": "free"}
    assert [found.id for found in await app.durably.get_runs(labels={"tier": "free"})] == [run.id]


@pytest.mark.parametrize(
    ("labels", "field"), [({"tier": "paid"}, "labels.tenant"), ({"tenant": "acme", "tier": "gold"}, "labels.tier")]
)
async def test_labels_that_do_not_fit_their_type_are_refused(app: App, labels: dict[str, str], field: str) -> None:
    """The error names the label, and nothing is stored."""
    with pytest.raises(ValidationError) as caught:
        await app.durably.trigger(tagged, labels=labels)
    assert caught.value.field == field
    assert await app.durably.get_runs() == []


async def test_a_step_knows_the_labels_of_its_run(app: App) -> None:
    """And so does every event of the run."""
    run = await app.execute(computed, Order(customer="ada", urgent=True), labels={"x": "y"})

    assert run.output == {"customer": "ada", "x": "y"}
    assert {tuple(sorted(event.labels.items())) for event in await app.events(run)} == {
        (("customer", "ada"), ("x", "y"))
    }
