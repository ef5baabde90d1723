"""The stream of one run, read over real sockets: what it tells, in which order, and when it ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from durably import Durably, EventType
from durably.http import frames
from durably.store import events as store_events
from tests.http.jobs import JOBS, Gate, echo, fail, greet
from tests.http.stories import ADA, FULL, GREETED, OF_THE_RUN, TIME, check_keys, story, timeless
from tests.support.http import Site, site, until, work

# --- one run -----------------------------------------------------------------------------------------


async def test_headers_come_before_any_event(served: Site) -> None:
    run_id = await served.trigger("greet", ADA)
    async with served.of_run(run_id) as stream, served.feed() as feed:
        for response in (stream.response, feed.response):
            assert response.headers["content-type"] == "text/event-stream"
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers["connection"] == "keep-alive"


async def test_a_run_is_told_from_its_lease_to_its_end_and_then_the_stream_ends(exact: Site) -> None:
    run_id = await exact.trigger("greet", ADA, labels={"a": "b"})
    async with exact.of_run(run_id) as stream:
        await until(lambda: exact.app.streams)
        await work(exact.durably, greet)
        got = await stream.rest()
    assert [line for line in story(got) if line != "run:progress"] == [x for x in GREETED if x != "run:progress"]
    check_keys(got, FULL, OF_THE_RUN)
    by_type = {frame.type: frame.data for frame in got}
    assert {frame.data["runId"] for frame in got} == {run_id}
    assert by_type["run:leased"]["labels"] == {"a": "b"}
    assert by_type["run:leased"]["input"] == {"name": "ada", "times": 1}
    assert by_type["run:leased"]["leaseOwner"]
    assert TIME.fullmatch(by_type["run:leased"]["leaseExpiresAt"])
    assert by_type["run:progress"]["progress"] == {"current": 2, "total": 2}
    assert by_type["step:complete"]["output"] == "bye ada"
    assert by_type["log:write"]["level"] == "info"
    assert by_type["run:complete"]["output"] == {"said": "hello ada, bye ada"}
    assert by_type["run:complete"]["duration"] >= 0
    sequences = [frame.data["sequence"] for frame in got]
    assert sequences == sorted(set(sequences))
    assert all(TIME.fullmatch(frame.data["timestamp"]) for frame in got)


async def test_a_failed_step_is_told_with_its_error(exact: Site) -> None:
    run_id = await exact.trigger("fail")
    async with exact.of_run(run_id) as stream:
        await until(lambda: exact.app.streams)
        await work(exact.durably, fail)
        got = await stream.rest()
    assert story(got) == ["run:leased", "step:start boom", "step:fail boom", "run:fail"]
    check_keys(got, FULL, OF_THE_RUN)
    assert got[2].data["error"] == got[3].data["error"] == "it went wrong"
    assert got[3].data["failedStepName"] == "boom"


async def test_a_stream_that_comes_late_begins_with_the_state(exact: Site) -> None:
    gate = Gate()
    async with exact.durably.worker([gate.job()]):
        run_id = await exact.trigger("gated")
        await gate.reached.wait()
        async with exact.of_run(run_id) as stream:
            await stream.until("run:progress")  # it is not awaited: now it is stored
        async with exact.of_run(run_id) as stream:
            leased, progress = await stream.take(2)
            gate.opened.set()
            rest = await stream.rest()
    assert [leased.type, progress.type] == ["run:leased", "run:progress"]
    assert (leased.data["sequence"], progress.data["sequence"]) == (0, 0)
    check_keys([leased, progress, *rest], FULL, OF_THE_RUN)
    assert progress.data["progress"] == {"current": 1}
    assert story(rest) == ["step:complete gate", "run:complete"]


async def test_the_state_of_a_run_that_has_ended_is_its_end(served: Site) -> None:
    completed, failed = await served.trigger("greet", ADA), await served.trigger("fail")
    cancelled = await served.trigger("tagged")
    await served.act("cancel", cancelled)
    await work(served.durably, greet, fail)
    expected: dict[str, dict[str, Any]] = {
        completed: {"type": "run:complete", "output": {"said": "hello ada, bye ada"}, "duration": 0},
        failed: {"type": "run:fail", "error": "it went wrong", "failedStepName": ""},
        cancelled: {"type": "run:cancel"},
    }
    for run_id, data in expected.items():
        async with served.of_run(run_id) as stream:
            [frame] = await stream.rest()
        assert {key: frame.data[key] for key in data} == data
        check_keys([frame], FULL, OF_THE_RUN)
        assert frame.data["sequence"] == 0
    await until(lambda: not served.app.streams)


async def test_a_pending_run_is_silent_until_it_is_cancelled(exact: Site) -> None:
    run_id = await exact.trigger("greet", ADA)
    async with exact.of_run(run_id) as stream:
        await until(lambda: exact.app.streams)
        await exact.act("cancel", run_id)
        assert story(await stream.rest()) == ["run:cancel"]


async def test_the_terminal_state_is_stored_before_it_is_told(exact: Site) -> None:
    gate = Gate()
    async with exact.durably.worker([gate.job()]):
        run_id = await exact.trigger("gated")
        async with exact.of_run(run_id) as stream:
            gate.opened.set()
            await stream.until("run:complete")
            assert (await exact.run(run_id))["status"] == "completed"


async def test_subscribers_do_not_disturb_one_another(exact: Site) -> None:
    run_id = await exact.trigger("greet", ADA)
    async with exact.of_run(run_id) as one, exact.of_run(run_id) as two:
        async with exact.of_run(run_id):
            await until(lambda: exact.app.streams == 3)
        await until(lambda: exact.app.streams == 2)
        await work(exact.durably, greet)
        first, second = story(await one.rest()), story(await two.rest())
    assert first == second
    assert first[-1] == "run:complete"


async def test_a_replaced_input_is_the_one_that_the_lease_tells(exact: Site) -> None:
    more = {"concurrencyKey": "k"}
    run_id = await exact.trigger("greet", ADA, **more)
    async with exact.of_run(run_id) as stream:
        await until(lambda: exact.app.streams)
        await exact.trigger("greet", {"name": "bob"}, coalesce="replace", **more)
        await work(exact.durably, greet)
        got = await stream.rest()
    assert got[0].data["input"] == {"name": "bob", "times": 1}


# --- resuming ----------------------------------------------------------------------------------------


async def test_a_stream_resumes_in_the_middle_without_missing_or_repeating(exact: Site) -> None:
    run_id = await exact.trigger("greet", ADA)
    async with exact.of_run(run_id, after="0") as stream:
        await until(lambda: exact.app.streams)
        await work(exact.durably, greet)
        whole = await stream.rest()
    for place in range(len(whole)):
        async with exact.of_run(run_id, after=whole[place].id) as stream:
            got = await stream.rest()
        assert [timeless(frame) for frame in got] == [timeless(frame) for frame in whole[place + 1 :]]
    assert not exact.app.streams


async def test_a_query_parameter_resumes_too_and_the_header_wins(exact: Site) -> None:
    run_id = await exact.trigger("greet", ADA)
    await work(exact.durably, greet)
    async with exact.stream("/subscribe", {"runId": run_id, "lastEventId": "1"}) as stream:
        whole = await stream.rest()
    assert len(whole) >= len(GREETED) - 1
    params = {"runId": run_id, "lastEventId": "1"}
    async with exact.stream("/subscribe", params, after=whole[-2].id) as stream:
        assert story(await stream.rest()) == ["run:complete"]


async def test_a_stream_resumes_into_what_is_still_going_on(exact: Site) -> None:
    gate = Gate()
    async with exact.durably.worker([gate.job()]):
        run_id = await exact.trigger("gated")
        await gate.reached.wait()
        async with exact.of_run(run_id, after="1") as stream:
            assert (await stream.until("step:complete"))[0].type == "run:leased"
            gate.opened.set()
            assert story(await stream.rest())[-2:] == ["step:complete gate", "run:complete"]


async def test_what_is_not_stored_any_more_is_replaced_by_the_state(exact: Site) -> None:
    run_id = await exact.trigger("greet", ADA)
    await work(exact.durably, greet)
    await purge_events(exact.durably)
    for after in ("1", "999"):
        async with exact.of_run(run_id, after=after) as stream:
            [frame] = await stream.rest()
        assert (frame.type, frame.data["sequence"]) == ("run:complete", 0)


async def purge_events(durably: Durably) -> None:
    database = await durably._database()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what time does
    await database.run(store_events.purge_events(older_than=timedelta(0), limit=1000))


@pytest.mark.parametrize("bad", ["x", "-1", "1.5"])
async def test_a_cursor_that_is_none_is_a_400(served: Site, bad: str) -> None:
    run_id = await served.trigger("greet", ADA)
    for path in ("/subscribe", "/runs/subscribe"):
        response = await served.get(path, params={"runId": run_id}, headers={"Last-Event-ID": bad})
        assert (response.status_code, "Last-Event-ID" in response.json()["error"]) == (400, True)
        response = await served.get(path, params={"runId": run_id, "lastEventId": bad})
        assert (response.status_code, "lastEventId" in response.json()["error"]) == (400, True)


async def test_a_resumed_run_is_told_to_who_comes_back(exact: Site) -> None:
    run_id = await exact.trigger("fail")
    await work(exact.durably, fail)
    async with exact.of_run(run_id) as stream:
        [failed] = await stream.rest()
    async with exact.of_run(run_id, after=failed.id) as stream:
        assert await stream.rest() == []
    await exact.act("resume", run_id)
    async with exact.of_run(run_id, after=failed.id) as stream:
        assert story(await stream.take(1)) == ["run:resume"]
        await work(exact.durably, fail)
        assert story(await stream.rest())[-1] == "run:fail"


# --- slow clients, thinning out, keeping alive ----------------------------------------------------------


async def test_progress_is_thinned_out_and_the_last_one_comes_before_the_end(durably: Durably) -> None:
    async with site(durably, jobs=JOBS, sse_throttle=60) as served:
        run_id = await served.trigger("greet", ADA)
        async with served.of_run(run_id) as stream, served.feed() as feed:
            await until(lambda: served.app.streams == 2)
            await work(durably, greet)
            for got in (await stream.rest(), await feed.until("run:complete")):
                progress = [frame for frame in got if frame.type == "run:progress"]
                assert progress[-1].data["progress"] == {"current": 2, "total": 2}
                assert story(got)[-2:] == ["run:progress", "run:complete"]
                assert [int(frame.id or 0) for frame in got] == sorted(int(frame.id or 0) for frame in got)


async def test_a_silent_stream_is_kept_alive_by_comments(durably: Durably) -> None:
    async with site(durably, jobs=JOBS, keep_alive=0.05) as served:
        run_id = await served.trigger("greet", ADA)
        async with served.of_run(run_id) as stream, served.feed() as feed:
            assert {await stream.comment(), await stream.comment(), await feed.comment()} == {": keep-alive"}


# --- the end of the server ------------------------------------------------------------------------------


async def test_closing_the_streams_ends_them_cleanly_and_lets_none_begin(served: Site) -> None:
    run_id = await served.trigger("greet", ADA)
    async with served.of_run(run_id) as stream, served.feed() as feed, served.feed(after="0") as resumed:
        await resumed.take(1)
        await until(lambda: served.app.streams == 3)
        served.app.close_streams()
        assert await stream.rest() == await feed.rest() == await resumed.rest() == []
    async with served.feed() as late:
        assert await late.rest() == []
    assert not served.app.streams


async def test_closing_the_durably_ends_the_streams(served: Site) -> None:
    async with served.feed() as feed:
        await until(lambda: served.app.streams)
        await served.durably.close()
        assert await feed.rest() == []
    async with served.feed() as feed:
        await until(lambda: served.app.streams)
        await served.trigger("echo", 1)
        assert story(await feed.take(1)) == ["run:trigger"]


def test_a_frame_is_one_line_of_data_with_its_id() -> None:
    made = frames.make_frame(EventType.RUN_CANCEL, "r", '{"a":"\u00e9"}', number=3, cursor=2)
    assert made.data == 'id: 2\ndata: {"a":"\u00e9"}\n\n'.encode()


async def test_a_frame_is_one_line_also_for_clients_that_know_more_ends_of_lines(exact: Site) -> None:
    """Those that split text as Python does: httpx, for one."""
    text = "a\x85b\u2028c\u2029d\x0be"
    run_id = await exact.trigger("echo", text, labels={"a": text})
    await work(exact.durably, echo)
    async with exact.of_run(run_id) as events, exact.feed(after="0") as feed:
        [end] = await events.rest()
        assert (end.data["output"], end.data["labels"]) == (text, {"a": text})
        assert (await feed.next()).data["labels"] == {"a": text}
