"""The table of routes: what is dispatched by it is what the OpenAPI document describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from durably.http import models as m
from durably.http.api import Api
from durably.http.auth import Guard
from durably.http.query import AFTER, CURSOR, JOB_NAMES, LABELS, LIMIT, OFFSET, PAGE_LIMIT, RUN_ID, STATUSES, Parameter

Handler: TypeAlias = Callable[[Request, Guard], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route, with what is needed to describe it."""

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    answers: type[BaseModel] | None
    """The shape of the answer, or of its items; None for an event stream."""
    is_list: bool = False
    parameters: tuple[Parameter[Any], ...] = ()
    body: type[BaseModel] | None = None
    errors: Mapping[int, str]


_BAD = {400: "What was sent cannot be right."}
_RUN = _BAD | {404: "There is no such run."}
_ACT = _RUN | {409: "The run is in a status that does not allow it."}
_TRIGGER = {
    404: "No such job is known here.",
    409: "Another run stands in the way: of the same key with another input, or waiting.",
    413: "The body is too large.",
}


def routes_of(api: Api, openapi: Handler) -> tuple[Route, ...]:
    """Return the routes over an api."""
    return (*_looks(api), *_acts(api), *_whole(api, openapi))


def _looks(api: Api) -> tuple[Route, ...]:
    """Making runs and looking at them."""
    one = (RUN_ID,)
    return (
        Route(
            method="POST", path="/trigger", handler=api.trigger, name="trigger", summary="Trigger a run",
            answers=m.Triggered, body=m.TriggerBody, errors=_BAD | _TRIGGER,
        ),
        Route(
            method="GET", path="/runs", handler=api.runs, name="listRuns", summary="List runs, newest first",
            answers=m.RunView, is_list=True, parameters=(JOB_NAMES, STATUSES, LABELS, LIMIT, OFFSET), errors=_BAD,
        ),
        Route(
            method="GET", path="/run", handler=api.run, name="getRun", summary="Get a run",
            answers=m.RunView, parameters=one, errors=_RUN,
        ),
        Route(
            method="GET", path="/steps", handler=api.steps, name="getSteps", summary="Get the finished steps of a run",
            answers=m.StepView, is_list=True, parameters=one, errors=_RUN,
        ),
        Route(
            method="GET", path="/logs", handler=api.logs, name="getLogs", summary="Get a page of a run's log",
            answers=m.LogView, is_list=True, parameters=(RUN_ID, AFTER, PAGE_LIMIT), errors=_RUN,
        ),
        Route(
            method="GET", path="/subscribe", handler=api.subscribe, name="subscribe",
            summary="Follow the events of a run, until it has ended",
            answers=None, parameters=(RUN_ID, CURSOR), errors=_RUN,
        ),
        Route(
            method="GET", path="/runs/subscribe", handler=api.feed, name="subscribeRuns",
            summary="Follow the events of many runs",
            answers=None, parameters=(JOB_NAMES, LABELS, CURSOR), errors=_BAD,
        ),
    )  # fmt: skip


def _acts(api: Api) -> tuple[Route, ...]:
    """Acting on runs."""
    one = (RUN_ID,)
    return (
        Route(
            method="POST", path="/retrigger", handler=api.retrigger, name="retrigger",
            summary="Trigger a run again that has ended, as a new run", answers=m.Again, parameters=one, errors=_ACT,
        ),
        Route(
            method="POST", path="/resume", handler=api.resume, name="resume",
            summary="Let a failed run continue after its last stored step", answers=m.Done, parameters=one, errors=_ACT,
        ),
        Route(
            method="POST", path="/cancel", handler=api.cancel, name="cancel",
            summary="Cancel a run that has not ended", answers=m.Done, parameters=one, errors=_ACT,
        ),
        Route(
            method="DELETE", path="/run", handler=api.delete, name="deleteRun",
            summary="Delete a run that has ended, with its steps and logs", answers=m.Done, parameters=one, errors=_ACT,
        ),
    )  # fmt: skip


def _whole(api: Api, openapi: Handler) -> tuple[Route, ...]:
    """What concerns no single run."""
    return (
        Route(
            method="GET", path="/jobs", handler=api.jobs, name="listJobs", summary="List the jobs that are known here",
            answers=m.JobView, is_list=True, errors={},
        ),
        Route(
            method="GET", path="/stats", handler=api.stats, name="getStats", summary="Count runs",
            answers=m.StatsView, parameters=(JOB_NAMES, LABELS), errors=_BAD,
        ),
        Route(
            method="GET", path="/health", handler=api.health, name="getHealth", summary="Ask whether all is well",
            answers=m.HealthView, errors={},
        ),
        Route(
            method="GET", path="/openapi.json", handler=openapi, name="getOpenapi", summary="Get this document",
            answers=m.Document, errors={},
        ),
    )  # fmt: skip
