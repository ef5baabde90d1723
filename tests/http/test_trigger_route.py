"""Triggers over HTTP: what is stored, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.http.answers import ADA, said
from tests.support.http import Site


async def test_a_trigger_answers_200_with_the_run_and_what_it_did(served: Site) -> None:
    response = await served.post("/trigger", {"jobName": "greet", "input": ADA})
    assert response.status_code == 200
    assert set(response.json()) == {"runId", "disposition"}
    assert response.json()["disposition"] == "created"


async def test_the_content_type_of_a_trigger_does_not_matter(served: Site) -> None:
    body = json.dumps({"jobName": "greet", "input": ADA})
    response = await served.client.post("/trigger", content=body, headers={"Content-Type": "text/plain"})
    assert response.status_code == 200


@pytest.mark.parametrize("body", ["", "{", "nope", '{"a":NaN}', b"\xff", '"\\ud800"', "[" * 100_000])
async def test_a_body_that_is_no_json_is_a_400(served: Site, body: str | bytes) -> None:
    response = await served.client.post("/trigger", content=body)
    assert said(response)[0] == 400
    assert "Invalid JSON" in response.json()["error"]


@pytest.mark.parametrize("body", [None, [], [1], "text", 5, {}, {"jobName": ""}, {"jobName": None}, {"jobName": 0}])
async def test_a_body_without_a_job_name_is_a_400(served: Site, body: Any) -> None:
    assert said(await served.client.post("/trigger", content=json.dumps(body))) == (400, "jobName is required")


@pytest.mark.parametrize(("name", "shown"), [("nope", "nope"), ("no such job!", "no such job!"), (5, "5")])
async def test_an_unknown_job_is_a_404(served: Site, name: Any, shown: str) -> None:
    response = await served.post("/trigger", {"jobName": name, "coalesce": "nonsense"})
    assert said(response) == (404, f"Job not found: {shown}")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"coalesce": "maybe"}, "Invalid coalesce value: 'maybe'. Valid values: 'skip', 'replace', 'reject'"),
        ({"coalesce": None}, "Invalid coalesce value: 'null'. Valid values: 'skip', 'replace', 'reject'"),
        ({"coalesce": "skip"}, "coalesce requires concurrencyKey"),
        ({"coalesce": "skip", "concurrencyKey": ""}, "coalesce requires concurrencyKey"),
    ],
)
async def test_coalesce_is_checked_before_the_input(served: Site, more: dict[str, Any], text: str) -> None:
    assert said(await served.post("/trigger", {"jobName": "greet", "input": 5} | more)) == (400, text)


@pytest.mark.parametrize(
    ("input", "field"),
    [({"name": 3}, "name: "), ({}, "name: "), (None, ""), ({"name": "a", "times": "3"}, "times: "), ([], "")],
)
async def test_an_invalid_input_is_a_400_that_names_the_field(served: Site, input: Any, field: str) -> None:
    status, text = said(await served.post("/trigger", {"jobName": "greet", "input": input, "labels": 5}))
    assert status == 400
    assert text.startswith(f"Invalid input: {field}")


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"labels": 5}, "labels: "),
        ({"labels": {"a": 5}}, "labels.a: "),
        ({"labels": {"a b": "x"}}, "Invalid label key"),
        ({"labels": {f"k{n}": "" for n in range(65)}}, "labels: "),
        ({"idempotencyKey": 5}, "idempotencyKey: "),
        ({"idempotencyKey": "x" * 513}, "idempotencyKey: "),
        ({"concurrencyKey": ["x"]}, "concurrencyKey: "),
        ({"concurrencyKey": "a\0b"}, "concurrencyKey: "),
    ],
)
async def test_what_else_is_wrong_is_a_400_that_names_it(served: Site, more: dict[str, Any], start: str) -> None:
    status, text = said(await served.post("/trigger", {"jobName": "greet", "input": ADA} | more))
    assert (status, text[: len(start)]) == (400, start)


async def test_labels_that_do_not_fit_their_type_are_a_400(served: Site) -> None:
    status, text = said(await served.post("/trigger", {"jobName": "tagged", "labels": {"tram": "x"}}))
    assert status == 400
    assert text.startswith("labels: Invalid input: ")


@pytest.mark.parametrize("more", [{}, {"input": None}, {"input": {}}])
async def test_a_job_without_input_takes_none_or_an_empty_object(served: Site, more: dict[str, Any]) -> None:
    assert (await served.post("/trigger", {"jobName": "fail"} | more)).status_code == 200


async def test_null_and_empty_keys_count_as_absent(served: Site) -> None:
    empty = {"idempotencyKey": None, "concurrencyKey": None, "labels": None}
    first = await served.trigger("greet", ADA, **empty)
    assert first != await served.trigger("greet", ADA, idempotencyKey="", concurrencyKey="")


async def test_an_idempotency_key_is_looked_for_before_the_keys_of_labels(served: Site) -> None:
    first = await served.trigger("greet", ADA, idempotencyKey="k")
    more = {"idempotencyKey": "k", "labels": {"a b": "x"}}
    response = await served.post("/trigger", {"jobName": "greet", "input": ADA} | more)
    assert response.json() == {"runId": first, "disposition": "idempotent"}
    assert said(await served.post("/trigger", {"jobName": "greet", "input": {"name": "bob"}} | more))[0] == 409
    for other in ({"jobName": "greet", "idempotencyKey": "l"}, {"jobName": "echo"}):
        status, text = said(await served.post("/trigger", {"jobName": "greet", "input": ADA} | more | other))
        assert (status, text[:17]) == (400, "Invalid label key")
    assert len(await served.durably.get_runs()) == 1


async def test_an_idempotency_key_gives_the_same_run_and_no_event(served: Site) -> None:
    first = await served.trigger("greet", ADA, idempotencyKey="k")
    response = await served.post("/trigger", {"jobName": "greet", "input": ADA, "idempotencyKey": "k"})
    assert response.json() == {"runId": first, "disposition": "idempotent"}
    assert len(await served.durably.get_events(run=first)) == 1


async def test_an_idempotency_key_with_another_input_is_a_409(served: Site) -> None:
    first = await served.trigger("greet", ADA, idempotencyKey="k")
    response = await served.post("/trigger", {"jobName": "greet", "input": {"name": "bob"}, "idempotencyKey": "k"})
    status, text = said(response)
    assert status == 409
    assert first in text


async def test_what_a_concurrency_key_does_is_chosen_by_coalesce(served: Site) -> None:
    async def trigger(name: str, **more: str) -> dict[str, str]:
        body = {"jobName": "greet", "input": {"name": name}, "concurrencyKey": "k"} | more
        response = await served.post("/trigger", body)
        assert response.status_code == 200
        found: dict[str, str] = response.json()
        return found

    first = (await trigger("ada"))["runId"]
    assert await trigger("bob", coalesce="skip") == {"runId": first, "disposition": "coalesced"}
    assert await trigger("cid", coalesce="replace") == {"runId": first, "disposition": "replaced"}
    assert (await served.run(first))["input"] == {"name": "cid", "times": 1}
    body = {"jobName": "greet", "input": ADA, "concurrencyKey": "k", "coalesce": "reject"}
    assert said(await served.post("/trigger", body)) == (
        409,
        (
            'A pending run already exists for concurrency key "k" in job "greet". '
            "Use coalesce: 'skip' to return the existing run instead."
        ),
    )
    queued = await trigger("dan")
    assert queued["disposition"] == "created"
    assert (await served.run(queued["runId"]))["waitingFor"] == "key"


async def test_a_body_over_the_limit_is_a_413(served: Site) -> None:
    big = json.dumps({"jobName": "echo", "input": "x" * (4 * 1024 * 1024)})
    status, text = said(await served.client.post("/trigger", content=big))
    assert (status, "4,194,304" in text) == (413, True)

    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(5):
            yield b" " * (1024 * 1024)

    assert said(await served.client.post("/trigger", content=chunks()))[0] == 413
    assert await served.durably.get_runs() == []
