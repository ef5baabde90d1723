"""The parameters of requests: each definition reads and checks one, and documents itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request

from durably import RunStatus
from durably.http.refusal import Refusal, bad_request

T = TypeVar("T")

DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_LABELS = 64
MAX_LABEL_VALUE = 512
LABEL = "label."

_LABEL_KEY = re.compile(r"[a-zA-Z0-9\-_./]{1,128}")
_DIGITS = re.compile(r"[0-9]+")
_MAX_DIGITS = 15
_STATUSES = ", ".join(RunStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(Generic[T]):
    """A parameter of a route."""

    name: str
    description: str
    schema: dict[str, Any]
    read: Callable[[Request], T]
    """Returns its value. Raises Refusal, with the text for the client."""
    place: str = "query"
    required: bool = False
    further: dict[str, Any] = field(default_factory=dict[str, Any])

    def document(self) -> dict[str, Any]:
        """Return it as OpenAPI has it."""
        about = {"name": self.name, "in": self.place, "required": self.required, "description": self.description}
        return about | {"schema": self.schema} | self.further


def _run_id(request: Request) -> str:
    found = request.query_params.get("runId")
    if not found:
        raise bad_request("runId query parameter is required")
    return found


def _job_names(request: Request) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(request.query_params.getlist("jobName"))) or None


def _statuses(request: Request) -> tuple[str, ...] | None:
    found = request.query_params.getlist("status")
    for status in found:
        if status not in set(RunStatus):
            raise bad_request(f"Invalid status: {status or 'empty value'}. Must be one of: {_STATUSES}")
    return tuple(dict.fromkeys(found)) or None


def _labels(request: Request) -> dict[str, str]:
    labels = {
        name.removeprefix(LABEL): value for name, value in request.query_params.multi_items() if name.startswith(LABEL)
    }
    if len(labels) > MAX_LABELS:
        raise bad_request(f"Invalid labels: {len(labels)} are given, at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            rule = "must be 1 to 128 letters, digits or - _ . /"
            raise bad_request(f'Invalid label key "{key[:128]}": {rule}')
        if len(value) > MAX_LABEL_VALUE or "\0" in value:
            rule = f"must have at most {MAX_LABEL_VALUE} characters, none of them NUL"
            raise bad_request(f'Invalid value of label "{key}": {rule}')
    return labels


def _whole_number(params: QueryParams | Headers, name: str) -> int | None:
    """A number from 0 on; what has more than 15 digits is more than there can be of anything."""
    found = params.get(name)
    if not found:
        return None
    if not _DIGITS.fullmatch(found):
        raise bad_request(f"Invalid {name}: must be a non-negative integer")
    digits = found.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _limit(request: Request) -> int | None:
    limit = _whole_number(request.query_params, "limit")
    if limit is not None and limit > MAX_PAGE:
        raise bad_request(f"Invalid limit: must be at most {MAX_PAGE}; without a limit all are sent")
    return limit


def _page_limit(request: Request) -> int:
    limit = _whole_number(request.query_params, "limit")
    if limit is not None and limit > MAX_PAGE:
        raise bad_request(f"Invalid limit: must be at most {MAX_PAGE}; the next page is the one after the last seq")
    return DEFAULT_PAGE if limit is None else limit


def _cursor(request: Request) -> int | None:
    """The header is the newer one: a browser repeats the address with the id that it got last."""
    try:
        after = _whole_number(request.headers, "last-event-id")
    except Refusal as error:
        raise bad_request("Invalid Last-Event-ID: must be the id of an event of this stream") from error
    return _whole_number(request.query_params, "lastEventId") if after is None else after


_NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}

RUN_ID = Parameter(
    name="runId", description="The id of a run.", schema={"type": "string", "minLength": 1}, read=_run_id, required=True
)
JOB_NAMES = Parameter(
    name="jobName",
    description="Only runs of this job; of any of these, if it is repeated.",
    schema={"type": "array", "items": {"type": "string"}},
    read=_job_names,
    further={"style": "form", "explode": True},
)
STATUSES = Parameter(
    name="status",
    description="Only runs in this status; in any of these, if it is repeated.",
    schema={"type": "array", "items": {"type": "string", "enum": list(RunStatus)}},
    read=_statuses,
    further={"style": "form", "explode": True},
)
LABELS = Parameter(
    name="labels",
    description="Only runs with all of these labels, each given as `label.<key>=<value>`.",
    schema={
        "type": "object",
        "maxProperties": MAX_LABELS,
        "propertyNames": {"pattern": r"^label\.[a-zA-Z0-9\-_./]{1,128}$"},
        "additionalProperties": {"type": "string", "maxLength": MAX_LABEL_VALUE},
    },
    read=_labels,
    further={"style": "form", "explode": True},
)
LIMIT = Parameter(
    name="limit",
    description="At most so many; without it, all.",
    schema=_NUMBER | {"maximum": MAX_PAGE},
    read=_limit,
)
OFFSET = Parameter(
    name="offset",
    description="Skip so many first.",
    schema=_NUMBER,
    read=lambda request: _whole_number(request.query_params, "offset") or 0,
)
PAGE_LIMIT = Parameter(
    name="limit",
    description="At most so many.",
    schema=_NUMBER | {"maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    read=_page_limit,
)
AFTER = Parameter(
    name="after",
    description="Only what comes after the line with this seq.",
    schema=_NUMBER | {"default": 0},
    read=lambda request: _whole_number(request.query_params, "after") or 0,
)
CURSOR = Parameter(
    name="lastEventId",
    description="Resume after the event with this id; a `Last-Event-ID` header wins.",
    schema=_NUMBER,
    read=_cursor,
)
