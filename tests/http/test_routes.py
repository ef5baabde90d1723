"""Every route but the trigger: status and key set of each answer."""

from __future__ import annotations

from typing import Any

import pytest

from durably import Durably
from tests.http.answers import ADA, ONE_OF, TIME, ended, said
from tests.http.jobs import Gate, echo, fail, greet
from tests.support.app import NO_RUN
from tests.support.http import MORE_RUN_KEYS, RUN_KEYS, STEP_KEYS, Site

# --- looking -----------------------------------------------------------------------------------------


async def test_a_pending_run_has_all_its_keys(served: Site) -> None:
    run = await served.run(await served.trigger("greet", ADA | {"more": 1}, labels={"a": "b"}))
    assert set(run) == RUN_KEYS | MORE_RUN_KEYS
    assert TIME.fullmatch(run.pop("createdAt"))
    assert {key: run[key] for key in RUN_KEYS - {"id", "createdAt"}} == {
        "jobName": "greet",
        "input": {"name": "ada", "times": 1},
        "status": "pending",
        "currentStepIndex": 0,
        "completedStepCount": 0,
        "progress": None,
        "output": None,
        "error": None,
        "labels": {"a": "b"},
        "startedAt": None,
        "completedAt": None,
        "isTerminal": False,
        "isActive": True,
    }


async def test_a_completed_run_shows_output_progress_and_counters(served: Site) -> None:
    run = await served.run(await ended(served, greet, ADA))
    assert run["output"] == {"said": "hello ada, bye ada"}
    assert run["progress"] == {"current": 2, "total": 2}
    assert (run["currentStepIndex"], run["completedStepCount"], run["status"]) == (2, 2, "completed")
    assert (run["isTerminal"], run["isActive"], run["error"]) == (True, False, None)
    assert all(TIME.fullmatch(run[key]) for key in ("createdAt", "startedAt", "completedAt"))


async def test_a_failed_run_shows_the_plain_message(served: Site) -> None:
    run_id = await ended(served, fail)
    run = await served.run(run_id)
    assert (run["status"], run["error"], run["output"]) == ("failed", "it went wrong", None)
    [step] = (await served.get("/steps", params={"runId": run_id})).json()
    assert (step["status"], step["error"], step["output"]) == ("failed", "it went wrong", None)


async def test_a_cancelled_run_has_no_error_and_an_end(served: Site) -> None:
    run_id = await served.trigger("greet", ADA)
    assert (await served.act("cancel", run_id)).json() == {"success": True}
    run = await served.run(run_id)
    assert (run["status"], run["error"], bool(run["completedAt"])) == ("cancelled", None, True)


async def test_steps_have_their_nine_keys_in_order(served: Site) -> None:
    steps = (await served.get("/steps", params={"runId": await ended(served, greet, ADA)})).json()
    assert [set(step) for step in steps] == [STEP_KEYS] * 2
    assert [(step["name"], step["index"], step["output"]) for step in steps] == [
        ("hello", 0, "hello ada"),
        ("bye", 1, "bye ada"),
    ]


async def test_values_come_as_they_were_stored(served: Site) -> None:
    value: dict[str, Any] = {"big": 2**70, "float": 1e16, "text": "ä\u2028\n\0", "none": None, "deep": [[[{}]]]}
    run = await served.run(await ended(served, echo, value))
    assert run["input"] == run["output"] == value
    assert isinstance(run["output"]["float"], float)


async def test_logs_come_in_pages(served: Site) -> None:
    run_id = await ended(served, greet, ADA)
    first, second = (await served.get("/logs", params={"runId": run_id})).json()
    assert set(first) == {"seq", "runId", "stepName", "level", "message", "data", "createdAt"}
    assert (first["stepName"], first["level"], first["message"]) == ("hello", "info", "saying hello")

    async def page(**params: Any) -> Any:
        return (await served.get("/logs", params={"runId": run_id} | params)).json()

    assert await page(limit=1) == [first]
    assert await page(after=first["seq"]) == [second]
    assert await page(limit=0) == await page(after=10**20) == []
    assert said(await served.get("/logs", params={"runId": run_id, "limit": 1001}))[0] == 400
    assert said(await served.get("/logs", params={"runId": run_id, "after": "x"})) == (
        400,
        "Invalid after: must be a non-negative integer",
    )


@pytest.mark.parametrize("path", ["/run", "/steps", "/logs", "/subscribe"])
async def test_looking_at_a_run_needs_one(served: Site, path: str) -> None:
    assert said(await served.get(path)) == (400, "runId query parameter is required")
    assert said(await served.get(path, params={"runId": ""})) == (400, "runId query parameter is required")
    for unknown in (NO_RUN, "nope", "a\0b", "x" * 5000):
        assert said(await served.get(path, params={"runId": unknown})) == (404, "Run not found")


# --- lists -------------------------------------------------------------------------------------------


@pytest.fixture
async def listed(served: Site, durably: Durably) -> list[str]:
    """Give the ids of six runs, newest first."""
    for number in range(3):
        await durably.trigger("greet", {"name": "x"}, labels={"n": str(number), "a/b": "c d&e"})
        await durably.trigger(echo, number)
    runs = await durably.get_runs()
    await durably.cancel(runs[-1])
    return [run.id for run in runs]


async def ids(served: Site, *params: tuple[str, str]) -> list[str]:
    response = await served.get("/runs", params=list(params))
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()
    assert type(found) is list
    return [run["id"] for run in found]


async def test_runs_are_listed_newest_first_and_filtered(served: Site, listed: list[str]) -> None:
    assert await ids(served) == await ids(served, ("unknown", "x"), ("limit", "")) == listed
    assert await ids(served, ("jobName", "greet")) == listed[1::2]
    assert await ids(served, ("jobName", "greet"), ("jobName", "echo")) == listed
    assert await ids(served, ("jobName", "nope"), ("jobName", "no such job!")) == []
    assert await ids(served, ("jobName", "no such job!"), ("jobName", "echo")) == listed[::2]
    assert await ids(served, ("status", "cancelled")) == listed[5:]
    assert await ids(served, ("status", "cancelled"), ("status", "pending")) == listed
    assert await ids(served, ("label.n", "1"), ("label.a/b", "c d&e")) == [listed[3]]
    assert await ids(served, ("label.n", "0"), ("label.n", "1")) == [listed[3]]
    assert await ids(served, ("label.n", "1"), ("jobName", "echo")) == []


async def test_lists_have_a_limit_and_an_offset(served: Site, listed: list[str]) -> None:
    assert await ids(served, ("limit", "2")) == listed[:2]
    assert await ids(served, ("limit", "2"), ("offset", "3")) == listed[3:5]
    assert await ids(served, ("offset", "4")) == listed[4:]
    assert await ids(served, ("limit", "0")) == await ids(served, ("offset", "9" * 30)) == []
    assert await ids(served, ("jobName", "greet"), ("jobName", "echo"), ("offset", "3"), ("limit", "1")) == [listed[3]]
    assert await ids(served, ("status", "pending"), ("offset", "4")) == [listed[4]]
    assert await ids(served, ("label.a/b", "c d&e"), ("offset", "1"), ("limit", "1")) == [listed[3]]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ([("status", "x"), ("limit", "y")], f"Invalid status: x. {ONE_OF}"),
        ([("status", "")], f"Invalid status: empty value. {ONE_OF}"),
        ([("limit", "-1"), ("offset", "y")], "Invalid limit: must be a non-negative integer"),
        ([("limit", "1.5")], "Invalid limit: must be a non-negative integer"),
        ([("limit", "1001")], "Invalid limit: must be at most 1000; without a limit all are sent"),
        ([("offset", "2x")], "Invalid offset: must be a non-negative integer"),
    ],
)  # fmt: skip
async def test_a_bad_list_parameter_is_a_400(served: Site, params: list[tuple[str, str]], text: str) -> None:
    assert said(await served.get("/runs", params=params)) == (400, text)


@pytest.mark.parametrize(
    "params", [[("label.a b", "x")], [("label.", "x")], [("label.a", "x" * 513)], [("label.a", "\0")]]
)
async def test_a_bad_label_is_a_400(served: Site, params: list[tuple[str, str]]) -> None:
    for path in ("/runs", "/runs/subscribe", "/stats"):
        assert said(await served.get(path, params=params))[0] == 400


async def test_too_many_labels_are_a_400(served: Site) -> None:
    params = [(f"label.k{number}", "x") for number in range(65)]
    assert said(await served.get("/runs", params=params)) == (
        400,
        "Invalid labels: 65 are given, at most 64 are allowed",
    )


async def test_a_list_without_limit_is_complete(served: Site, durably: Durably) -> None:
    made = await durably.trigger_many(echo, range(450))
    assert await ids(served) == [run.id for run in reversed(made)]
    assert await ids(served, ("offset", "5")) == [run.id for run in reversed(made)][5:]
    assert len(await ids(served, ("limit", "1000"))) == 450


# --- acting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["cancel", "retrigger", "resume", "delete"])
async def test_an_action_needs_a_run(served: Site, operation: str) -> None:
    assert said(await served.act(operation, "")) == (400, "runId query parameter is required")
    assert said(await served.act(operation, NO_RUN)) == (404, "Run not found")


@pytest.mark.parametrize("operation", ["retrigger", "resume", "delete"])
async def test_what_has_not_ended_cannot_be_done_again_or_deleted(served: Site, operation: str) -> None:
    run_id = await served.trigger("greet", ADA)
    assert said(await served.act(operation, run_id)) == (409, f"Cannot {operation} pending run: {run_id}")


async def test_a_leased_run_can_only_be_cancelled(served: Site) -> None:
    gate = Gate()
    async with served.durably.worker([gate.job()]):
        run_id = await served.trigger("gated")
        await gate.reached.wait()
        for operation in ("retrigger", "resume", "delete"):
            assert said(await served.act(operation, run_id)) == (409, f"Cannot {operation} leased run: {run_id}")
        assert (await served.act("cancel", run_id)).json() == {"success": True}


async def test_what_has_ended_cannot_be_cancelled(served: Site) -> None:
    completed, failed = await ended(served, greet, ADA), await ended(served, fail)
    assert said(await served.act("cancel", completed)) == (409, f"Cannot cancel completed run: {completed}")
    assert said(await served.act("cancel", failed)) == (409, f"Cannot cancel failed run: {failed}")
    assert said(await served.act("resume", completed)) == (409, f"Cannot resume completed run: {completed}")
    cancelled = await served.trigger("greet", ADA)
    await served.act("cancel", cancelled)
    assert said(await served.act("cancel", cancelled)) == (409, f"Cannot cancel already cancelled run: {cancelled}")


async def test_a_retrigger_makes_a_new_run_without_the_idempotency_key(served: Site) -> None:
    old = await ended(served, greet, ADA, idempotencyKey="k", concurrencyKey="c", labels={"a": "b"})
    response = await served.act("retrigger", old)
    assert response.status_code == 200
    assert set(response.json()) == {"success", "runId"}
    new = await served.durably.get_run(response.json()["runId"])
    assert new is not None
    assert (new.labels, new.concurrency_key, new.idempotency_key) == ({"a": "b"}, "c", None)
    assert await served.trigger("greet", ADA, idempotencyKey="k") == old


async def test_a_run_of_an_unknown_job_cannot_be_retriggered(served: Site, durably: Durably) -> None:
    run = await durably.cancel(await durably.trigger("elsewhere"))
    assert said(await served.act("retrigger", run)) == (404, "Unknown job: elsewhere")


async def test_an_input_that_is_no_longer_valid_cannot_be_retriggered(served: Site, durably: Durably) -> None:
    run = await durably.cancel(await durably.trigger("greet", {"name": 5}))
    status, text = said(await served.act("retrigger", run))
    assert status == 400
    assert text.startswith(f"Cannot retrigger run {run.id}: Invalid input: ")


async def test_a_resumed_run_continues(served: Site) -> None:
    run_id = await ended(served, fail)
    assert (await served.act("resume", run_id)).json() == {"success": True}
    assert (await served.run(run_id))["status"] == "pending"


async def test_a_deleted_run_is_gone_everywhere_and_its_key_is_free(served: Site) -> None:
    run_id = await ended(served, greet, ADA, idempotencyKey="k")
    assert (await served.act("delete", run_id)).json() == {"success": True}
    for path in ("/run", "/steps", "/logs", "/subscribe"):
        assert said(await served.get(path, params={"runId": run_id}))[0] == 404
    for operation in ("cancel", "retrigger", "resume", "delete"):
        assert said(await served.act(operation, run_id))[0] == 404
    assert await served.trigger("greet", ADA, idempotencyKey="k") != run_id


# --- the rest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nope"),
        ("GET", "/runs/"),
        ("GET", "/trigger"),
        ("POST", "/runs"),
        ("PUT", "/run"),
        ("OPTIONS", "/runs"),
        ("HEAD", "/runs"),
        ("GET", "/Runs"),
        ("GET", "//runs"),
    ],
)
async def test_what_is_no_route_is_a_404_in_plain_text(served: Site, method: str, path: str) -> None:
    response = await served.client.request(method, f"http://127.0.0.1:{served.port}{path}")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == ("" if method == "HEAD" else "Not Found")


async def test_jobs_are_listed_with_their_schemas(served: Site) -> None:
    jobs = (await served.get("/jobs")).json()
    assert [job["name"] for job in jobs] == ["echo", "fail", "greet", "tagged"]
    assert [set(job) for job in jobs] == [{"name", "inputSchema", "outputSchema"}] * 4
    assert jobs[2]["inputSchema"]["required"] == ["name"]


async def test_jobs_of_workers_are_known_too(served: Site) -> None:
    worker = served.durably.worker([Gate().job("another")])
    assert "another" in [job["name"] for job in (await served.get("/jobs")).json()]
    assert await served.trigger("another")
    assert worker.jobs == ("another",)


async def test_stats_count_by_job_and_status(served: Site) -> None:
    await ended(served, greet, ADA)
    first = await served.trigger("echo", 1, labels={"a": "b"})
    await served.trigger("echo", 2)
    stats = (await served.get("/stats")).json()
    assert stats["total"] == {"pending": 2, "leased": 0, "completed": 1, "failed": 0, "cancelled": 0}
    assert [(job["jobName"], job["pending"], job["completed"]) for job in stats["jobs"]] == [
        ("echo", 2, 0),
        ("greet", 0, 1),
    ]
    assert stats["oldestPending"]["id"] == first
    assert stats["perMinute"] == {"completed": 1, "failed": 0, "cancelled": 0}
    labelled = (await served.get("/stats", params={"label.a": "b"})).json()
    assert labelled["total"]["pending"] == 1
    assert (await served.get("/stats", params={"jobName": "no such job!"})).json()["total"]["pending"] == 0


async def test_health_tells_of_the_schema_and_of_workers(served: Site) -> None:
    health = (await served.get("/health")).json()
    assert (health["status"], health["schemaVersion"], health["workers"]) == ("ok", health["codeVersion"], [])
    gate = Gate()
    async with served.durably.worker([gate.job()]):
        await served.trigger("gated")
        await gate.reached.wait()
        [worker] = (await served.get("/health")).json()["workers"]
        gate.opened.set()
    assert set(worker) == {"owner", "runs", "seenAt"}
    assert worker["runs"] == 1


async def test_a_lost_race_says_what_became_of_the_run(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await served.trigger("greet", ADA)
    before = await served.durably.get_run(run_id)
    await served.durably.cancel(run_id)

    async def as_it_was(*_: object) -> object:
        return before

    monkeypatch.setattr(served.durably, "get_run", as_it_was)
    assert said(await served.act("cancel", run_id)) == (409, f"Cannot cancel run {run_id}: status changed to cancelled")
