"""What an answer says, and runs that have ended."""

from __future__ import annotations

import re
from typing import Any

from durably import Job
from tests.support.http import Site, work

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ADA = {"name": "ada"}
ONE_OF = "Must be one of: pending, leased, completed, failed, cancelled"


def said(response: Any) -> tuple[int, Any]:
    """Return status and error of an answer that says no."""
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert set(body) == {"error"}
    return response.status_code, body["error"]


async def ended(site: Site, job: Job[Any, Any], input: Any = None, **more: Any) -> str:
    """Trigger a run over HTTP and execute it."""
    run_id = await site.trigger(job.name, input, **more)
    await work(site.durably, job)
    return run_id
