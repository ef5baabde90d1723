"""The Starlette application: who asks, which route, and what becomes of errors."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from durably import Durably, SyncDurably, ValidationError
from durably.http import wire
from durably.http.api import Api, Limits
from durably.http.auth import Auth, Guard, Reject, call_hook
from durably.http.hub import Hub
from durably.http.jobs import KnownJobs
from durably.http.openapi import document
from durably.http.refusal import answer, response_to
from durably.http.routes import routes_of
from durably.jobs import Target


class DurablyApp(Starlette):
    """A Durably as an ASGI application. Make one with `create_app`."""

    def __init__(self, endpoint: _Endpoint, durably: Durably, hub: Hub) -> None:
        self._hub = hub
        self._durably = durably
        super().__init__(routes=[StarletteRoute("/{path:path}", endpoint)], lifespan=_lifespan)
        self.router.redirect_slashes = False  # authentication comes before everything
        self._turn_away = self.router.default
        self.router.default = self._default
        self._endpoint = endpoint

    async def _default(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle what the router would not: the bare address where the application is mounted."""
        handle = self._endpoint if scope["type"] == "http" else self._turn_away
        await handle(scope, receive, send)

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return self._hub.subscribers

    def close_streams(self) -> None:
        """End all event streams and let none begin: their clients come back to whoever serves them next.

        uvicorn waits for open answers before it stops. When it takes the signals of its process itself, that happens
        by itself within a second; where somebody else does, call this first.
        """
        self._hub.close()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve within this block; then end the streams and disconnect from the database. A server alone does that."""
        self._hub.open()
        try:
            yield
        finally:
            self._hub.close()
            await self._durably.close()


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncGenerator[None]:  # noqa: ANN401 - Starlette gives itself
    async with app.serving():
        yield


class _Endpoint:
    """Handles every request: authentication comes before everything, also before "not found"."""

    def __init__(
        self, api: Api, auth: Auth[Any] | None, on_request: Callable[[], Awaitable[object] | object] | None
    ) -> None:
        self._auth = auth
        self._on_request = on_request
        table = routes_of(api, self._openapi)
        self._routes = {(route.method, route.path): route for route in table}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the border of a request: every error has its answer
            response = response_to(error)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        guard = Guard(self._auth)
        await guard.authenticate(request)
        if self._on_request is not None and isinstance(refused := await call_hook(self._on_request), Response):
            raise Reject(response=refused)
        route = self._routes.get((request.method, _path(request.scope)))
        if route is None:
            return PlainTextResponse("Not Found", status_code=404)
        return await route.handler(request, guard)

    async def _openapi(self, request: Request, guard: Guard) -> Response:
        """GET /openapi.json."""
        await guard.access("openapi")
        base = str(request.scope.get("root_path", ""))
        return answer(wire.text(document(self._routes.values(), base=base, has_auth=self._auth is not None)))


def create_app(
    durably: Durably | SyncDurably,
    *,
    jobs: Iterable[Target[Any, Any] | str] = (),
    auth: Auth[Any] | None = None,
    sse_throttle: float = 0.1,
    on_request: Callable[[], Awaitable[object] | object] | None = None,
    keep_alive: float = 15.0,
    max_body_bytes: int = 4 * 1024 * 1024,
) -> DurablyApp:
    """Return a Starlette application that serves a Durably: mount it anywhere, or serve it alone.

    `jobs` may be triggered: `Job` and `JobRef` objects, or names of modules; and those of workers that `durably` has.
    `sse_throttle` is the least time in seconds between two progress events of a run on one stream, 0 sends all.
    `on_request` is called before each request, after `auth.authenticate`: for what is to be started lazily.
    Of a `SyncDurably` the `Durably` underneath is served. Raises ValidationError, UsageError.
    """
    if isinstance(durably, SyncDurably):
        durably = durably.asynchronous
    if not _is_durably(durably):
        raise ValidationError("durably", f"must be a Durably, not {type(durably).__name__}")
    if auth is not None and not _is_auth(auth):
        raise ValidationError("auth", f"must be an Auth, not {type(auth).__name__}")
    if on_request is not None and not callable(on_request):
        raise ValidationError("on_request", f"must be a function, not {type(on_request).__name__}")
    for name, value in (("sse_throttle", sse_throttle), ("keep_alive", keep_alive)):
        if not _is_number(value) or not math.isfinite(value):
            raise ValidationError(name, f"must be a number of seconds, not {value!r}")
    if keep_alive <= 0:
        raise ValidationError("keep_alive", f"{keep_alive} must be over 0; 15 s is usual")
    if not _is_number(max_body_bytes) or isinstance(max_body_bytes, float) or max_body_bytes < 1:
        raise ValidationError("max_body_bytes", f"{max_body_bytes!r} must be a whole number, at least 1")
    hub = Hub(durably)
    limits = Limits(sse_throttle=sse_throttle, keep_alive=keep_alive, max_body_bytes=max_body_bytes)
    api = Api(durably, KnownJobs(durably, jobs), hub, limits)
    return DurablyApp(_Endpoint(api, auth, on_request), durably, hub)


def _is_durably(given: object) -> bool:
    return isinstance(given, Durably)


def _is_auth(given: object) -> bool:
    return isinstance(given, Auth)


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _path(scope: Scope) -> str:
    """The path below where the application is mounted; a proxy may have taken the address of that off already."""
    path: str = scope["path"]
    root = str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path
