"""What an application may do with the server that is not usual, and what it may do wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException

from durably import Durably, SyncDurably
from durably.http import Auth, Reject, create_app
from tests.http.jobs import JOBS
from tests.support.http import EventSource, listening, quick


async def test_an_application_may_be_served_again_in_another_event_loop(url: str) -> None:
    """As tests do, each of which has a loop of its own."""
    durably = quick(url)
    app = create_app(durably, jobs=JOBS)

    async def serve() -> list[str]:
        async with listening(app) as (_, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post("/trigger", json={"jobName": "echo", "input": 1})
            run_id = answer.json()["runId"]
            assert (await client.get("/stats")).status_code == 200
            async with client.stream("GET", "/subscribe", params={"runId": run_id}) as response:
                assert response.status_code == 200, await response.aread()
                await client.post("/cancel", params={"runId": run_id})
                return [frame.type for frame in await EventSource(response).rest()]

    for _ in range(3):
        assert await asyncio.to_thread(asyncio.run, serve()) == ["run:cancel"]


async def test_a_sync_durably_is_served_like_the_one_underneath(url: str) -> None:
    durably = SyncDurably(url)
    async with listening(create_app(durably, jobs=JOBS)) as (_, port):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post("/trigger", json={"jobName": "echo", "input": 1})
            run_id = answer.json()["runId"]
            run = await asyncio.to_thread(durably.get_run, run_id)
            assert run is not None


class SilentError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def asked(app: Any, path: str, root_path: str = "") -> httpx.Response:
    """Ask an application as a server does that is told where it is mounted."""
    transport = httpx.ASGITransport(app=app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        return await client.get(path)


def refusing(error: BaseException) -> Any:
    def authenticate(_request: object) -> None:
        raise error

    return create_app(Durably("sqlite:///:memory:"), auth=Auth(authenticate=authenticate))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SilentError(), "SilentError"),
        (RuntimeError("half a \ud83d"), "half a ?"),
        (ExceptionGroup("several", [ValueError("a")]), "several (1 sub-exception)"),
        (RuntimeError(), "RuntimeError"),
    ],
)
async def test_whatever_is_raised_has_an_answer_in_json(
    error: Exception, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "durably.http")  # half a letter in a log cannot be passed on by pytest-xdist
    answer = await asked(refusing(error), "/runs")
    assert (answer.status_code, answer.json()) == (500, {"error": text})


@pytest.mark.parametrize("status", [204, 304])
async def test_an_exception_for_a_status_without_body_has_none(status: int) -> None:
    answer = await asked(refusing(HTTPException(status)), "/runs")
    assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/runs/", "/api/nope"])
async def test_authentication_comes_before_everything_also_where_it_is_mounted(path: str) -> None:
    """The bare address would be redirected by the router, to somebody who is not known."""
    answer = await asked(refusing(Reject(401, "who?")), path, "/api")
    assert (answer.status_code, answer.text) == (401, "who?")


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("/api", "/api/jobs", 200),
        ("/api/", "/api/jobs", 200),
        ("/api", "/jobs", 200),  # a proxy took it off
        ("/j", "/jobs", 200),
        ("/jobs", "/jobs", 404),  # the bare address
        ("/api", "/api", 404),
        ("", "/jobs", 200),
    ],
)
async def test_routes_are_found_where_the_application_is_mounted(root_path: str, path: str, status: int) -> None:
    app = create_app(Durably("sqlite:///:memory:"), jobs=JOBS)
    assert (await asked(app, path, root_path)).status_code == status


async def test_what_the_database_refuses_is_a_500_that_says_so(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    durably = quick(f"{postgres_url}?no_such_setting=1")
    said = 'the database refuses: unrecognized configuration parameter "no_such_setting"'
    async with listening(create_app(durably)) as (_, port), httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/runs")
    assert (answer.status_code, answer.json()) == (500, {"error": said})
    [told] = [record for record in caplog.records if record.name == "durably.http"]
    assert (told.levelname, told.exc_info) == ("WARNING", None)
    assert said in told.getMessage()
    await durably.close()
