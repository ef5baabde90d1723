"""Who may do what: the hooks that an application gives, and how they are called. None of them can be skipped."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from durably import Run, UsageError, ValidationError

ContextT = TypeVar("ContextT")
ValueT = TypeVar("ValueT")

_WITHOUT_BODY = {204, 304}

Given: TypeAlias = ValueT | Awaitable[ValueT]
"""What a hook returns: hooks may be plain functions or coroutine functions."""
RunOperation: TypeAlias = Literal["read", "subscribe", "steps", "logs", "retrigger", "resume", "cancel", "delete"]
Operation: TypeAlias = Literal["jobs", "stats", "health", "openapi"]


class Reject(Exception):
    """Raised by a hook: the request ends with this response, as it is.

    `Reject(403, "not yours")` answers with that text; `Reject(response=...)` with a response of your making.
    Starlette's and FastAPI's HTTPException do as well.
    """

    def __init__(self, status: int = 403, text: str = "Forbidden", *, response: Response | None = None) -> None:
        super().__init__(f"{status} {text}" if response is None else f"{response.status_code}")
        self.response = response or PlainTextResponse(text, status_code=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRequest:
    """What a client wants to trigger, before its input is checked. What is not given, or malformed, is None."""

    job_name: str
    input: object
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    labels: Mapping[str, str] | None = None
    coalesce: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsFilter:
    """Which runs a client wants to see. A scoping hook returns one that shows at most what the client may see.

    None means any; an empty tuple means none at all, so that an empty intersection shows nothing.
    """

    job_names: tuple[str, ...] | None = None
    statuses: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth(Generic[ContextT]):
    """The hooks. Each may be a plain or a coroutine function; all but the first are optional.

    A hook refuses by raising `Reject`; what else it raises is an error 500. Raises UsageError without `authenticate`,
    and ValidationError for a hook that is no function.
    """

    authenticate: Callable[[Request], Given[ContextT]] | None = None
    """Called first of all, on every request, also for paths that do not exist. The others get what it returns."""
    on_trigger: Callable[[ContextT, TriggerRequest], Given[TriggerRequest | None]] | None = None
    """Called when the job was found, before the input is checked. May return a changed request, with labels added."""
    on_run_access: Callable[[ContextT, Run[Any], RunOperation], Given[None]] | None = None
    """Called when the run was found, before anything is done."""
    scope_runs: Callable[[ContextT, RunsFilter], Given[RunsFilter]] | None = None
    """Returns the filter to use for the list of runs, and for statistics."""
    scope_runs_subscribe: Callable[[ContextT, RunsFilter], Given[RunsFilter]] | None = None
    """The same for the stream of many runs; without it `scope_runs` is asked. Only jobs and labels count."""
    on_access: Callable[[ContextT, Operation], Given[None]] | None = None
    """Called before what concerns no single run: jobs, stats, health, the OpenAPI document."""

    def __post_init__(self) -> None:
        if self.authenticate is None:
            raise UsageError("Auth needs authenticate=: the other hooks get what it returns")
        for one in fields(self):
            hook: object = getattr(self, one.name)
            if hook is not None and not callable(hook):
                raise ValidationError(one.name, f"must be a function, not {type(hook).__name__}")


class Guard:
    """Calls the hooks for one request."""

    def __init__(self, auth: Auth[Any] | None) -> None:
        self._auth = auth
        self._context: Any = None

    async def authenticate(self, request: Request) -> None:
        """Find out who asks. Raises Reject."""
        if self._auth is not None and self._auth.authenticate is not None:
            self._context = await _call(self._auth.authenticate, request)

    async def trigger(self, request: TriggerRequest) -> TriggerRequest:
        """Return the request to use. Raises Reject."""
        if self._auth is None or self._auth.on_trigger is None:
            return request
        changed = await _call(self._auth.on_trigger, self._context, request)
        return request if changed is None else _checked(changed, TriggerRequest, "on_trigger")

    async def run(self, run: Run[Any], operation: RunOperation) -> None:
        """Let somebody do something with a run. Raises Reject."""
        if self._auth is not None and self._auth.on_run_access is not None:
            await _call(self._auth.on_run_access, self._context, run, operation)

    async def access(self, operation: Operation) -> None:
        """Let somebody see what concerns no single run. Raises Reject."""
        if self._auth is not None and self._auth.on_access is not None:
            await _call(self._auth.on_access, self._context, operation)

    async def scope(self, wanted: RunsFilter) -> RunsFilter:
        """Return the filter to use for lists and statistics. Raises Reject."""
        if self._auth is None or self._auth.scope_runs is None:
            return wanted
        return _checked(await _call(self._auth.scope_runs, self._context, wanted), RunsFilter, "scope_runs")

    async def scope_feed(self, wanted: RunsFilter) -> RunsFilter:
        """Return the filter to use for the stream of many runs. Raises Reject."""
        if self._auth is None or self._auth.scope_runs_subscribe is None:
            return await self.scope(wanted)
        changed = await _call(self._auth.scope_runs_subscribe, self._context, wanted)
        return _checked(changed, RunsFilter, "scope_runs_subscribe")


def rejection(error: HTTPException) -> Response:
    """Return what an HTTPException of a hook says."""
    if error.status_code in _WITHOUT_BODY:
        return Response(status_code=error.status_code, headers=error.headers)
    kind = PlainTextResponse if _is_text(error.detail) else JSONResponse  # FastAPI's takes any JSON
    return kind(error.detail, status_code=error.status_code, headers=error.headers)


def _is_text(detail: object) -> bool:
    return isinstance(detail, str)


async def call_hook(hook: Callable[..., object], *arguments: object) -> Any:  # noqa: ANN401 - whatever the hook returns
    """Call a plain or a coroutine function."""
    found = hook(*arguments)
    return await found if inspect.isawaitable(found) else found


async def _call(hook: Callable[..., object], *arguments: object) -> Any:  # noqa: ANN401 - whatever the hook returns
    found = await call_hook(hook, *arguments)
    if isinstance(found, Response):  # returned where it was meant to be raised: it must not let anybody in
        raise Reject(response=found)
    return found


def _checked(found: object, kind: type[ValueT], hook: str) -> ValueT:
    if not isinstance(found, kind):
        raise UsageError(f"{hook} must return a {kind.__name__}, not {type(found).__name__}")
    return found
