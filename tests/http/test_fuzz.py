"""Whatever is sent: no 500, no answer outside of the document, nothing half written."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durably import RunStatus
from tests.http.jobs import JOBS, fail, greet
from tests.support.http import quick, site, work

STANDARD: Any = import_module("schemathesis.checks")
OPENAPI: Any = import_module("schemathesis.specs.openapi.checks")
CHECKS: list[Any] = [
    STANDARD.not_a_server_error,
    OPENAPI.status_code_conformance,
    OPENAPI.content_type_conformance,
    OPENAPI.response_schema_conformance,
]
EVERY_CHECK: Any = list(HealthCheck)
FEW = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
DESCRIBED = settings(max_examples=20, deadline=None, database=None, suppress_health_check=EVERY_CHECK)
ENDLESS = "/runs/subscribe"


class Address:
    """Where the server of this module listens, and its database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = requests.Session()
        self.client = httpx.Client(timeout=20)
        self.document: dict[str, Any] = {}
        self.run_ids: list[str] = []

    def rows(self) -> list[int]:
        """Return how many rows there are in each table."""
        tables = ("runs", "steps", "logs", "events", "concurrency_keys")
        with sqlite3.connect(self.path) as raw:
            return [raw.execute(f"SELECT count(*) FROM durably_{table}").fetchone()[0] for table in tables]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Give a server in a thread of its own, for clients that block; with some runs."""
    found = Address(tmp_path_factory.mktemp("fuzz") / "jobs.db")
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        durably = quick(f"sqlite:///{found.path}")
        async with site(durably, jobs=JOBS) as opened:
            for name, input in (("greet", {"name": "a"}), ("fail", None), ("echo", 1)):
                found.run_ids.append(await opened.trigger(name, input))
            await work(durably, greet, fail)
            found.client.base_url = opened.client.base_url
            found.document = (await opened.get("/openapi.json")).json()
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    yield found
    found.client.close()
    found.session.close()
    over.set()
    thread.join()


def operations(document: dict[str, Any]) -> list[Any]:
    """Return what schemathesis makes of the document, without the stream that never ends."""
    loaded: Any = schemathesis.openapi.from_dict(document)
    return [found.ok() for found in loaded.exclude(path=ENDLESS).get_all_operations()]


def test_no_answer_is_outside_of_the_document(address: Address) -> None:
    tried = list[str]()
    for operation in operations(address.document):

        @DESCRIBED
        @given(case=operation.as_strategy())
        def answers_as_described(case: Any) -> None:
            case.call_and_validate(base_url=str(address.client.base_url), session=address.session, checks=CHECKS)

        answers_as_described()
        tried.append(operation.path)
    assert len(tried) == 14


def test_the_document_describes_every_route_and_is_3_1(address: Address) -> None:
    document = address.document
    assert document["openapi"] == "3.1.0"
    assert len(document["paths"]) == 14
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids) == 15


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
bodies = st.fixed_dictionaries(
    {"jobName": st.sampled_from(["greet", "fail", "tagged", "echo"]) | json_values},
    optional={
        "input": json_values | st.fixed_dictionaries({"name": st.text()}),
        "idempotencyKey": st.text(max_size=3) | json_values,
        "concurrencyKey": st.text(max_size=3) | json_values,
        "labels": st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3) | json_values,
        "coalesce": st.sampled_from(["skip", "replace", "reject"]) | json_values,
    },
)


@FEW
@given(body=bodies | json_values)
def test_no_body_breaks_a_trigger_and_a_refused_one_writes_nothing(address: Address, body: Any) -> None:
    before = address.rows()
    response = address.client.post("/trigger", content=json.dumps(body))
    if response.status_code == 200:
        assert set(response.json()) == {"runId", "disposition"}
        return
    assert response.status_code in {400, 404, 409}, response.text
    assert set(response.json()) == {"error"}
    assert address.rows() == before


@FEW
@given(body=st.binary(max_size=200))
def test_no_bytes_break_a_trigger(address: Address, body: bytes) -> None:
    before = address.rows()
    response = address.client.post("/trigger", content=body)
    assert response.status_code in {400, 404}, response.text
    assert address.rows() == before


names = st.sampled_from(["runId", "jobName", "status", "limit", "offset", "label.a", "label.", "after", "lastEventId"])
values = st.text(max_size=12) | st.sampled_from([*RunStatus, "0", "7", "1e3", "-1", "9" * 40, "%00"])


@FEW
@given(
    path=st.sampled_from(["/runs", "/run", "/steps", "/logs", "/subscribe", "/stats", "/jobs", "/health", "/nope"]),
    params=st.lists(st.tuples(names | st.text(max_size=6), values), max_size=5),
    raw=st.none() | st.text("&=%;+?/abc019.\x7f", max_size=30),
)
def test_no_query_breaks_a_look(address: Address, path: str, params: list[tuple[str, str]], raw: str | None) -> None:
    encoded = urlencode(params) if raw is None else httpx.URL("http://x/", params={"": raw}).query.decode()
    response = address.client.get(f"{path}?{encoded}", headers={"Last-Event-ID": "0"} if raw else {})
    assert response.status_code in {200, 400, 404}, response.text


@FEW
@given(
    operation=st.sampled_from(["cancel", "retrigger", "resume"]),
    run_id=st.text(max_size=40) | st.sampled_from(["known"]),
)
def test_no_action_breaks(address: Address, operation: str, run_id: str) -> None:
    known = address.run_ids[0] if run_id == "known" else run_id
    response = address.client.post(f"/{operation}", params={"runId": known})
    assert response.status_code in {200, 400, 404, 409}, response.text
