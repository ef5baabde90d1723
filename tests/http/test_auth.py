"""Who may do what: the hooks, their order, and that none of them can be skipped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from durably import Durably, Run, UsageError, ValidationError
from durably.http import Auth, Reject, RunsFilter, TriggerRequest, create_app
from durably.http.auth import Operation, RunOperation
from tests.http.jobs import JOBS, greet
from tests.support.app import NO_RUN
from tests.support.http import Site, site, until

ADA = {"name": "ada"}
OURS = {"Authorization": "ours"}
THEIRS = {"Authorization": "theirs"}


class Hooks:
    """Knows two tenants by their headers, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def authenticate(self, request: Request) -> str | None:
        self.asked.append("authenticate")
        tenant = request.headers.get("authorization")
        if tenant is None:
            raise Reject(401, "who are you?")
        return None if tenant == "nobody" else tenant

    def on_trigger(self, tenant: str, trigger: TriggerRequest) -> TriggerRequest:
        self.asked.append("trigger")
        if tenant != "ours":
            raise Reject(response=JSONResponse({"reason": "not yours"}, status_code=403))
        return replace(trigger, labels={**(trigger.labels or {}), "tenant": tenant})

    async def on_run_access(self, tenant: str, run: Run[Any], operation: RunOperation) -> None:
        self.asked.append(operation)
        if run.labels.get("tenant") != tenant:
            raise HTTPException(403, "not yours")

    def scope_runs(self, tenant: str, wanted: RunsFilter) -> RunsFilter:
        self.asked.append("scope")
        return replace(wanted, labels={**wanted.labels, "tenant": tenant})

    async def on_access(self, tenant: str, operation: Operation) -> None:
        self.asked.append(operation)
        if tenant != "ours":
            raise Reject

    def auth(self, **more: Any) -> Auth[Any]:
        names = ("authenticate", "on_trigger", "on_run_access", "scope_runs", "on_access")
        return Auth(**({name: getattr(self, name) for name in names} | more))


@pytest.fixture
def url(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
async def guarded(durably: Durably, hooks: Hooks) -> AsyncIterator[Site]:
    async with site(durably, jobs=JOBS, auth=hooks.auth()) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/runs", "/nope", "/trigger", "/", "/openapi.json", "/run"])
async def test_authentication_comes_before_everything(guarded: Site, path: str) -> None:
    response = await guarded.get(path)
    assert (response.status_code, response.text) == (401, "who are you?")


async def test_an_unknown_path_is_a_404_for_who_is_known(guarded: Site) -> None:
    assert (await guarded.get("/nope", headers=OURS)).status_code == 404


async def test_a_trigger_is_asked_for_after_the_job_is_found_and_before_its_input(guarded: Site) -> None:
    async def trigger(body: dict[str, Any], headers: dict[str, str]) -> int:
        return (await guarded.post("/trigger", body, headers=headers)).status_code

    assert await trigger({"input": 5}, THEIRS) == 400
    assert await trigger({"jobName": "nope"}, THEIRS) == 404
    assert await trigger({"jobName": "greet", "input": 5, "coalesce": 5}, THEIRS) == 403
    assert await trigger({"jobName": "greet", "input": 5}, OURS) == 400
    assert await guarded.durably.get_runs() == []


async def test_a_rejection_is_answered_as_it_is(guarded: Site) -> None:
    response = await guarded.post("/trigger", {"jobName": "greet", "input": ADA}, headers=THEIRS)
    assert (response.status_code, response.json()) == (403, {"reason": "not yours"})


async def test_a_hook_may_add_labels(guarded: Site) -> None:
    body = {"jobName": "greet", "input": ADA, "labels": {"a": "b", "tenant": "theirs"}}
    response = await guarded.post("/trigger", body, headers=OURS)
    run = await guarded.durably.get_run(response.json()["runId"])
    assert run is not None
    assert run.labels == {"a": "b", "tenant": "ours"}


ON_A_RUN: list[tuple[str, str, str]] = [
    ("GET", "/run", "read"),
    ("GET", "/steps", "steps"),
    ("GET", "/logs", "logs"),
    ("GET", "/subscribe", "subscribe"),
    ("POST", "/cancel", "cancel"),
    ("POST", "/retrigger", "retrigger"),
    ("POST", "/resume", "resume"),
    ("DELETE", "/run", "delete"),
]


@pytest.mark.parametrize(("method", "path", "operation"), ON_A_RUN)
async def test_a_run_of_others_is_refused_by_the_name_of_the_operation(
    guarded: Site, hooks: Hooks, method: str, path: str, operation: str
) -> None:
    run = await guarded.durably.trigger(greet, greet.input_codec.validate(ADA, field="input"), labels={"tenant": "x"})
    response = await guarded.client.request(method, path, params={"runId": run.id}, headers=OURS)
    assert (response.status_code, response.text) == (403, "not yours")
    assert hooks.asked == ["authenticate", operation]
    hooks.asked.clear()
    missing = await guarded.client.request(method, path, params={"runId": NO_RUN}, headers=OURS)
    assert (missing.status_code, hooks.asked) == (404, ["authenticate"])
    found = await guarded.durably.get_run(run)
    assert found is not None
    assert found.status == "pending"


async def test_no_hook_is_skipped_for_a_context_of_none(guarded: Site, hooks: Hooks) -> None:
    nobody = {"Authorization": "nobody"}
    run = await guarded.durably.trigger("greet", ADA)
    assert (await guarded.post("/trigger", {"jobName": "greet", "input": ADA}, headers=nobody)).status_code == 403
    for method, path, operation in ON_A_RUN[:3]:
        assert (await guarded.client.request(method, path, params={"runId": run.id}, headers=nobody)).status_code == 200
        assert hooks.asked[-1] == operation
    for path in ("/jobs", "/stats", "/health", "/openapi.json"):
        assert (await guarded.get(path, headers=nobody)).status_code == 403


async def test_lists_streams_and_statistics_are_scoped(guarded: Site) -> None:
    for tenant in ("ours", "theirs"):
        await guarded.durably.trigger("greet", ADA, labels={"tenant": tenant})
    for params in ({}, {"label.tenant": "theirs"}, {"limit": 5}):
        [run] = (await guarded.get("/runs", params=params, headers=OURS)).json()
        assert run["labels"] == {"tenant": "ours"}
    assert (await guarded.get("/stats", headers=OURS)).json()["total"]["pending"] == 1
    async with guarded.feed(("label.tenant", "theirs"), headers=OURS) as feed:
        for tenant in ("theirs", "ours"):
            await guarded.durably.trigger("greet", ADA, labels={"tenant": tenant})
        assert (await feed.next()).data["labels"] == {"tenant": "ours"}


async def test_a_feed_may_have_a_scope_of_its_own(durably: Durably, hooks: Hooks) -> None:
    def nothing(_tenant: str, wanted: RunsFilter) -> RunsFilter:
        assert (wanted.limit, wanted.statuses) == (None, None)
        return replace(wanted, job_names=())

    async with site(durably, jobs=JOBS, auth=hooks.auth(scope_runs_subscribe=nothing)) as opened:
        for after in (None, "0"):
            async with opened.feed(headers=OURS, after=after) as feed:
                await until(lambda: opened.app.streams)
                await durably.trigger("greet", ADA, labels={"tenant": "ours"})
                opened.app.close_streams()
                assert await feed.rest() == []
                opened.app._hub.open()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as a server that starts again


async def test_an_empty_scope_shows_nothing(durably: Durably, hooks: Hooks) -> None:
    def nothing(_tenant: str, wanted: RunsFilter) -> RunsFilter:
        return replace(wanted, job_names=())

    await durably.trigger("greet", ADA)
    async with site(durably, jobs=JOBS, auth=hooks.auth(scope_runs=nothing)) as opened:
        assert (await opened.get("/runs", headers=OURS)).json() == []
        assert (await opened.get("/stats", headers=OURS)).json()["jobs"] == []


@pytest.mark.parametrize("hook", ["scope_runs", "authenticate", "on_access", "on_trigger"])
async def test_what_else_a_hook_raises_is_a_500(durably: Durably, hooks: Hooks, hook: str) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("the hook is broken")

    async with site(durably, jobs=JOBS, auth=hooks.auth(**{hook: broken})) as opened:
        answers = [
            await opened.get("/runs", headers=OURS),
            await opened.get("/jobs", headers=OURS),
            await opened.post("/trigger", {"jobName": "greet", "input": ADA}, headers=OURS),
        ]
    assert {"error": "the hook is broken"} in [answer.json() for answer in answers if answer.status_code == 500]


@pytest.mark.parametrize("found", [None, 5, {"labels": {}}])
async def test_a_scope_that_is_no_filter_is_a_500(durably: Durably, hooks: Hooks, found: object) -> None:
    def wrong(*_: object) -> Any:
        return found

    async with site(durably, jobs=JOBS, auth=hooks.auth(scope_runs=wrong)) as opened:
        response = await opened.get("/runs", headers=OURS)
    assert response.status_code == 500
    assert "scope_runs must return a RunsFilter" in response.json()["error"]


async def test_a_response_that_is_returned_where_it_was_meant_to_be_raised_lets_nobody_in(
    durably: Durably, hooks: Hooks
) -> None:
    def refuse(*_: object) -> Any:
        return PlainTextResponse("no", status_code=401)

    async with site(durably, jobs=JOBS, auth=hooks.auth(authenticate=refuse)) as opened:
        response = await opened.get("/runs", headers=OURS)
    assert (response.status_code, response.text) == (401, "no")


async def test_on_request_comes_after_authentication_and_also_without(durably: Durably, hooks: Hooks) -> None:
    async def note() -> None:
        hooks.asked.append("request")

    async with site(durably, jobs=JOBS, auth=hooks.auth(), on_request=note) as opened:
        await opened.get("/nope")
        await opened.get("/nope", headers=OURS)
    assert hooks.asked == ["authenticate", "authenticate", "request"]
    async with site(durably, on_request=lambda: hooks.asked.append("plain")) as opened:
        await opened.get("/runs")
    assert hooks.asked[-1] == "plain"


async def test_a_worker_may_be_started_by_the_first_request(durably: Durably) -> None:
    worker = durably.worker([greet])

    async def start() -> None:
        if not worker.is_running:
            await worker.start()

    async with site(durably, on_request=start) as opened:
        run_id = await opened.trigger("greet", ADA)
        async with opened.of_run(run_id) as stream:
            assert (await stream.rest())[-1].type == "run:complete"
    await worker.stop()


def test_auth_without_authenticate_cannot_be_made() -> None:
    with pytest.raises(UsageError, match="authenticate"):
        Auth(on_access=lambda _context, _operation: None)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"auth": {"authenticate": print}}, "auth"),
        ({"sse_throttle": "fast"}, "sse_throttle"),
        ({"keep_alive": 0}, "keep_alive"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"max_body_bytes": 0.5}, "max_body_bytes"),
        ({"sse_throttle": float("nan")}, "sse_throttle"),
        ({"keep_alive": float("nan")}, "keep_alive"),
        ({"keep_alive": float("inf")}, "keep_alive"),
        ({"on_request": "start"}, "on_request"),
        ({"jobs": greet}, "jobs"),
        ({"jobs": "tests.http.jobs"}, "jobs"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=f"^{field}: "):
        create_app(Durably("sqlite:///:memory:"), **options)


@pytest.mark.parametrize("hook", ["authenticate", "on_trigger", "scope_runs", "on_access"])
def test_a_hook_that_is_no_function_is_named(hook: str) -> None:
    hooks: dict[str, Any] = {"authenticate": print, hook: "module:function"}
    with pytest.raises(ValidationError, match=f"^{hook}: "):
        Auth(**hooks)


@pytest.mark.parametrize("wrong", [None, "sqlite:///jobs.db", create_app])
def test_what_is_no_durably_is_not_served(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"^durably: "):
        create_app(wrong)


def test_what_is_no_job_is_refused() -> None:
    no_jobs: Any = [print]
    with pytest.raises(UsageError, match="not a job"):
        create_app(Durably("sqlite:///:memory:"), jobs=no_jobs)
