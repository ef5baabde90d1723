"""The worked example of docs/auth.md, served as a user would."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http import SECONDS, EventSource, listening


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tenants.db"


@pytest.fixture
async def client(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the example; its worker runs in the server."""
    monkeypatch.setenv("DURABLY_URL", url)
    sys.modules.pop("examples.tenants", None)
    example: Any = importlib.import_module("examples.tenants")
    async with (
        listening(example.app, grace=2) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/durably", timeout=SECONDS) as opened,
    ):
        yield opened


RED, BLUE, BOSS = ({"Authorization": f"Bearer {name}-secret"} for name in ("red", "blue", "boss"))
REPORT = {"jobName": "report", "input": {"month": "May"}, "idempotencyKey": "May"}


async def test_tenants_see_and_touch_only_their_own_runs(client: httpx.AsyncClient) -> None:
    red, blue = [(await client.post("/trigger", json=REPORT, headers=who)).json()["runId"] for who in (RED, BLUE)]
    assert red != blue
    params = {"runId": red, "token": "red-secret"}
    async with client.stream("GET", "/subscribe", params=params) as response:
        last = (await EventSource(response).rest())[-1]
    assert last.data["output"] == "red: 3 rows in May"
    assert [run["id"] for run in (await client.get("/runs", headers=RED)).json()] == [red]
    assert len((await client.get("/runs", headers=BOSS)).json()) == 2
    for method, path in (("GET", "/run"), ("GET", "/steps"), ("DELETE", "/run"), ("POST", "/retrigger")):
        response = await client.request(method, path, params={"runId": red}, headers=BLUE)
        assert response.status_code == 404
    assert (await client.get("/run", params={"runId": red}, headers=RED)).status_code == 200


async def test_the_routes_are_below_where_they_are_mounted(client: httpx.AsyncClient) -> None:
    assert (await client.get("/runs")).status_code == 401
    assert (await client.get("/nope", headers=RED)).text == "Not Found"
    assert (await client.get("/health", headers=RED)).status_code == 403
    assert (await client.get("/health", headers=BOSS)).status_code == 200
    document = (await client.get("/openapi.json", headers=RED)).json()
    assert document["servers"] == [{"url": "/api/durably"}]
    assert "default" in document["paths"]["/runs"]["get"]["responses"]
    assert (await client.get(str(client.base_url).removesuffix("api/durably/"))).json() == {"runs": "/api/durably/runs"}
