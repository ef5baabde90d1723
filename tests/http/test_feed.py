"""The stream of all runs: what it tells, filtered and resumed."""

from __future__ import annotations

import asyncio

from durably import Step, job
from tests.http.jobs import Gate, greet
from tests.http.stories import ADA, COMMON, GREETED, OF_THE_FEED, check_keys, story, tasks
from tests.support.http import Site, until, work


async def test_the_feed_tells_everything_thinly(exact: Site) -> None:
    async with exact.feed() as feed:
        await until(lambda: exact.app.streams)
        run_id = await exact.trigger("greet", ADA, labels={"a": "b"}, concurrencyKey="k")
        await exact.trigger("greet", {"name": "bob"}, concurrencyKey="k", coalesce="skip", labels={"c": "d"})
        await work(exact.durably, greet)
        got = await feed.until("run:complete")
        again = (await exact.act("retrigger", run_id)).json()["runId"]
        await exact.act("cancel", again)
        await exact.act("delete", run_id)
        last = await feed.take(3)
    check_keys([*got, *last], COMMON, OF_THE_FEED)
    assert story(got)[:3] == ["run:trigger", "run:coalesced", "run:leased"]
    assert got[1].data["skippedInput"] == {"name": "bob", "times": 1}
    assert (got[1].data["skippedLabels"], got[1].data["labels"]) == ({"c": "d"}, {"a": "b"})
    assert [line for line in story(got)[2:] if line != "run:progress"] == [x for x in GREETED if x != "run:progress"]
    assert [(frame.type, frame.data["runId"]) for frame in last] == [
        ("run:trigger", again),
        ("run:cancel", again),
        ("run:delete", run_id),
    ]


async def test_a_cancelled_step_is_told_by_the_feed_after_the_cancel(exact: Site) -> None:
    gate = Gate()
    async with exact.durably.worker([gate.job()]), exact.feed() as feed:
        run_id = await exact.trigger("gated")
        await gate.reached.wait()
        await exact.act("cancel", run_id)
        got = await feed.until("step:cancel")
    check_keys(got, COMMON, OF_THE_FEED)
    assert story(got)[-2:] == ["run:cancel", "step:cancel gate"]


async def test_an_idempotent_trigger_is_told_by_nobody(exact: Site) -> None:
    async with exact.feed() as feed:
        await until(lambda: exact.app.streams)
        first = await exact.trigger("greet", ADA, idempotencyKey="k")
        await exact.trigger("greet", ADA, idempotencyKey="k")
        await exact.act("cancel", first)
        assert story(await feed.take(2)) == ["run:trigger", "run:cancel"]


async def test_the_feed_is_filtered_by_jobs_and_labels(exact: Site) -> None:
    async with (
        exact.feed(("jobName", "echo"), ("jobName", "greet"), ("label.a", "b"), ("status", "ignored")) as some,
        exact.feed(("jobName", "no such job!")) as none,
    ):
        await until(lambda: exact.app.streams == 2)
        await exact.trigger("echo", 1)
        await exact.trigger("fail", labels={"a": "b"})
        wanted = await exact.trigger("echo", 1, labels={"a": "b", "c": "d"})
        [frame] = await some.take(1)
        assert frame.data["runId"] == wanted
        exact.app.close_streams()
        assert await none.rest() == []


async def test_the_feed_resumes_without_missing_or_repeating(exact: Site) -> None:
    ids = [await exact.trigger("echo", number) for number in range(6)]
    async with exact.feed(after="0") as feed:
        whole = await feed.take(6)
    assert [frame.data["runId"] for frame in whole] == ids
    async with exact.feed(after=whole[2].id) as feed:
        assert [frame.data for frame in await feed.take(3)] == [frame.data for frame in whole[3:]]
        new = [await exact.trigger("echo", number) for number in range(3)]
        assert [frame.data["runId"] for frame in await feed.take(3)] == new
    async with exact.feed(("jobName", "no such job!"), after="0") as none:
        await exact.trigger("echo", 0)
        exact.app.close_streams()
        assert await none.rest() == []


async def test_the_feed_resumes_after_any_event_also_between_a_start_and_its_end(exact: Site) -> None:
    @job("steps")
    async def steps(step: Step) -> None:
        for name in ("one", "two"):
            await step.run(name, int, name == "two")

    for _ in range(2):
        await exact.durably.trigger(steps)
    await work(exact.durably, steps)
    async with exact.feed(after="0") as feed:
        whole = await feed.take(14)
    assert story(whole).count("step:start one") == 2
    assert len({frame.id for frame in whole}) == len(whole)
    for place, frame in enumerate(whole[:-1], 1):
        async with exact.feed(after=frame.id) as feed:
            assert [one.data for one in await feed.take(len(whole) - place)] == [one.data for one in whole[place:]]


async def test_a_feed_of_a_database_that_is_no_more_goes_on_from_now(exact: Site) -> None:
    """A browser comes back with its last id by itself, also after the database was made anew or restored."""
    await exact.trigger("echo", 1)
    async with exact.feed(after="100000") as events:
        run_id = await exact.trigger("echo", 2)
        assert (await events.next()).data["runId"] == run_id


async def test_a_feed_that_has_caught_up_joins_the_others(exact: Site) -> None:
    await exact.trigger("echo", 0)
    async with exact.feed() as first, exact.feed(("jobName", "echo"), after="0") as resumed:
        await until(lambda: exact.app.streams == 2)
        await resumed.take(1)
        ids = [await exact.trigger("echo", 1)]
        await first.take(1)
        await resumed.take(1)
        async with asyncio.timeout(20):
            while tasks("durably-feed"):
                ids.append(await exact.trigger("echo", 2))
                assert (await first.take(1))[0].data == (await resumed.take(1))[0].data
        more = [await exact.trigger("echo", number) for number in range(5)]
        assert [frame.data["runId"] for frame in await resumed.take(5)] == more


async def test_who_resumes_beside_writers_gets_everything_once(exact: Site) -> None:
    async def write() -> None:
        for number in range(60):
            await exact.trigger("echo", number)

    async def read() -> list[str]:
        got, after = list[str](), "0"
        while len(got) < 60:
            async with exact.feed(after=after) as feed:
                for frame in await feed.take(min(7, 60 - len(got))):
                    got.append(frame.data["runId"])
                    after = frame.id
        return got

    _, *read_ids = await asyncio.gather(write(), read(), read())
    stored = [run.id for run in reversed(await exact.durably.get_runs(limit=1000))]
    assert [sorted(ids) for ids in read_ids] == [sorted(stored)] * 2
