"""A FastAPI application whose tenants see and touch only their own runs.

    uvicorn examples.tenants:app
    curl -H 'Authorization: Bearer red-secret' localhost:8000/api/durably/runs

The runs of a tenant carry its name as a label, which the server sets and nobody else.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from durably import Durably, Run, Step, job
from durably.http import Auth, Reject, RunsFilter, TriggerRequest, create_app
from durably.http.auth import Operation, RunOperation

TOKENS = {"red-secret": "red", "blue-secret": "blue", "boss-secret": None}
"""Each token's tenant; None is the operator, who may do everything. Yours are in a database, hashed."""


@dataclass
class Report:
    """What to report about."""

    month: str


@job("report")
async def report(step: Step, asked: Report) -> str:
    """Make a report for the tenant whose run it is."""

    async def count() -> int:
        return len(asked.month)

    rows = await step.run("count", count)
    return f"{step.labels['tenant']}: {rows} rows in {asked.month}"


def authenticate(request: Request) -> str | None:
    """Return the tenant of the token, which a browser's EventSource can only send in the address."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.query_params.get("token", "")
    for token, tenant in TOKENS.items():
        if hmac.compare_digest(token.encode(), given.encode()):
            return tenant
    raise Reject(401, "a token is needed")


def on_trigger(tenant: str | None, trigger: TriggerRequest) -> TriggerRequest:
    """Mark the run as the tenant's; its keys become its own too, or tenants would meet in them."""
    if tenant is None:
        return trigger
    return replace(
        trigger,
        labels={**(trigger.labels or {}), "tenant": tenant},
        idempotency_key=_own(tenant, trigger.idempotency_key),
        concurrency_key=_own(tenant, trigger.concurrency_key),
    )


def on_run_access(tenant: str | None, run: Run[Any], _operation: RunOperation) -> None:
    """Let nobody near the runs of others; for who asks, they do not exist."""
    if tenant is not None and run.labels.get("tenant") != tenant:
        raise Reject(404, "Run not found")


def scope_runs(tenant: str | None, wanted: RunsFilter) -> RunsFilter:
    """Show a tenant its own runs only, whatever it asks for."""
    return wanted if tenant is None else replace(wanted, labels={**wanted.labels, "tenant": tenant})


def on_access(tenant: str | None, operation: Operation) -> None:
    """Tell only the operator how the whole is doing; statistics are scoped like lists."""
    if tenant is not None and operation == "health":
        raise Reject(403, "for operators")


def _own(tenant: str, key: str | None) -> str | None:
    return None if key is None else f"{tenant}:{key}"


durably = Durably(os.environ.get("DURABLY_URL", "sqlite:///tenants.db"))
auth: Auth[str | None] = Auth(
    authenticate=authenticate,
    on_trigger=on_trigger,
    on_run_access=on_run_access,
    scope_runs=scope_runs,
    on_access=on_access,
)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
    """Work in this process too. The worker's block opens the database, and closes it at the end."""
    async with durably.worker([report]):
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/api/durably", create_app(durably, jobs=[report], auth=auth))


@app.get("/")
async def index() -> dict[str, str]:
    """Say where to go."""
    return {"runs": "/api/durably/runs"}
