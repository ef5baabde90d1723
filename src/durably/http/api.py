"""What each route does, once it is known who asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from durably import Durably, JobRef, Run, RunStatus, SerializationError, ValidationError, WrongStatus
from durably.codec import Codec
from durably.http import wire
from durably.http.auth import Guard, RunOperation, RunsFilter
from durably.http.body import read_json
from durably.http.hub import Hub
from durably.http.jobs import KnownJobs
from durably.http.query import (
    AFTER,
    CURSOR,
    JOB_NAMES,
    LABELS,
    LIMIT,
    OFFSET,
    PAGE_LIMIT,
    RUN_ID,
    STATUSES,
)
from durably.http.refusal import Refusal, answer, bad_request, not_found
from durably.http.sse import open_stream
from durably.http.statistics import Statistics
from durably.http.streams import Feed, RunStream, utc_now
from durably.http.triggering import invalid_input, outcome, trigger

PAGE = 200
"""Runs that are read at once for a list without limit."""
HEALTH_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server is told. Times are in seconds."""

    sse_throttle: float
    keep_alive: float
    max_body_bytes: int


class Api:
    """The routes over one Durably."""

    def __init__(self, durably: Durably, jobs: KnownJobs, hub: Hub, limits: Limits) -> None:
        self._durably = durably
        self._jobs = jobs
        self._hub = hub
        self._limits = limits
        self._statistics = Statistics(durably)

    # --- making and looking -------------------------------------------------------------------------

    async def trigger(self, request: Request, guard: Guard) -> Response:
        """POST /trigger."""
        body = await read_json(request, max_bytes=self._limits.max_body_bytes)
        return answer(outcome(await trigger(self._durably, self._jobs, guard, body)))

    async def runs(self, request: Request, guard: Guard) -> Response:
        """GET /runs."""
        wanted = RunsFilter(
            job_names=JOB_NAMES.read(request),
            statuses=STATUSES.read(request),
            limit=LIMIT.read(request),
            offset=OFFSET.read(request),
            labels=LABELS.read(request),
        )
        which = await guard.scope(wanted)
        page = await self._page(which, PAGE if which.limit is None else which.limit)
        if which.limit is not None or len(page) < PAGE:
            return answer(_array(map(wire.run_json, page)))
        return StreamingResponse(self._all(which, page), media_type="application/json")

    async def run(self, request: Request, guard: Guard) -> Response:
        """GET /run."""
        return answer(wire.run_json(await self._find(request, guard, "read")))

    async def steps(self, request: Request, guard: Guard) -> Response:
        """GET /steps."""
        run = await self._find(request, guard, "steps")
        return answer(_array(map(wire.step_json, await self._durably.get_steps(run))))

    async def logs(self, request: Request, guard: Guard) -> Response:
        """GET /logs."""
        run_id, after, limit = RUN_ID.read(request), AFTER.read(request), PAGE_LIMIT.read(request)
        run = await self._found(run_id, guard, "logs")
        lines = await self._durably.get_logs(run, after=min(after, 2**31 - 1), limit=limit) if limit else []
        return answer(_array(map(wire.log_json, lines)))

    # --- acting -------------------------------------------------------------------------------------

    async def retrigger(self, request: Request, guard: Guard) -> Response:
        """POST /retrigger."""
        run = await self._find(request, guard, "retrigger")
        if not run.is_terminal:
            raise Refusal(409, f"Cannot retrigger {run.status} run: {run.id}")
        job = self._jobs.find(run.job)
        if job is None:
            raise Refusal(404, f"Unknown job: {run.job}")
        try:
            again = await self._durably.retrigger(run.id, job=job)
        except ValidationError as error:
            reason = error.reason.removeprefix(f"cannot retrigger run {run.id}: ")
            raise bad_request(
                f"Cannot retrigger run {run.id}: {invalid_input(ValidationError(error.field, reason))}"
            ) from error
        return answer(wire.compose({"success": "true", "runId": wire.text(again.id)}))

    async def cancel(self, request: Request, guard: Guard) -> Response:
        """POST /cancel."""
        run = await self._find(request, guard, "cancel")
        if run.is_terminal:
            already = "already " if run.status is RunStatus.CANCELLED else ""
            raise Refusal(409, f"Cannot cancel {already}{run.status} run: {run.id}")
        try:
            await self._durably.cancel(run)
        except WrongStatus as error:
            raise _lost_race("cancel", error) from error
        return answer('{"success":true}')

    async def resume(self, request: Request, guard: Guard) -> Response:
        """POST /resume."""
        run = await self._find(request, guard, "resume")
        if run.status is not RunStatus.FAILED:
            raise Refusal(409, f"Cannot resume {run.status} run: {run.id}")
        try:
            await self._durably.resume(run)
        except WrongStatus as error:
            raise _lost_race("resume", error) from error
        return answer('{"success":true}')

    async def delete(self, request: Request, guard: Guard) -> Response:
        """DELETE /run."""
        run = await self._find(request, guard, "delete")
        if not run.is_terminal:
            raise Refusal(409, f"Cannot delete {run.status} run: {run.id}")
        try:
            await self._durably.delete_run(run)
        except WrongStatus as error:
            raise _lost_race("delete", error) from error
        return answer('{"success":true}')

    # --- streams ------------------------------------------------------------------------------------

    async def subscribe(self, request: Request, guard: Guard) -> Response:
        """GET /subscribe."""
        run_id, after = RUN_ID.read(request), CURSOR.read(request)
        run = await self._found(run_id, guard, "subscribe")
        stream = RunStream(self._durably, self._hub, run, after=after, now=utc_now())
        return await open_stream(stream, throttle=self._limits.sse_throttle, keep_alive=self._limits.keep_alive)

    async def feed(self, request: Request, guard: Guard) -> Response:
        """GET /runs/subscribe."""
        wanted = RunsFilter(job_names=JOB_NAMES.read(request), labels=LABELS.read(request))
        after = CURSOR.read(request)
        which = await guard.scope_feed(wanted)
        names = None if which.job_names is None else frozenset(_possible(which.job_names))
        stream = Feed(self._durably, self._hub, (names, frozenset(which.labels.items())), after=after)
        return await open_stream(stream, throttle=self._limits.sse_throttle, keep_alive=self._limits.keep_alive)

    # --- the whole ----------------------------------------------------------------------------------

    async def jobs(self, _request: Request, guard: Guard) -> Response:
        """GET /jobs."""
        await guard.access("jobs")
        jobs = [
            {"name": job.name, "inputSchema": _schema(job.input_codec), "outputSchema": _schema(job.output_codec)}
            for job in self._jobs.all()
        ]
        return answer(wire.text(jobs))

    async def stats(self, request: Request, guard: Guard) -> Response:
        """GET /stats."""
        wanted = RunsFilter(job_names=JOB_NAMES.read(request), labels=LABELS.read(request))
        await guard.access("stats")
        which = await guard.scope(wanted)
        names = None if which.job_names is None else frozenset(_possible(which.job_names))
        return answer(await self._statistics.of(names, which.labels))

    async def health(self, _request: Request, guard: Guard) -> Response:
        """GET /health."""
        await guard.access("health")
        found = await self._durably.get_health(timeout=HEALTH_SECONDS)
        workers = [
            wire.compose(
                {"owner": wire.text(seen.owner), "runs": wire.text(seen.runs), "seenAt": wire.time_text(seen.seen_at)}
            )
            for seen in found.workers
        ]
        members = {
            "status": '"ok"',
            "schemaVersion": wire.text(found.schema_version),
            "codeVersion": wire.text(found.code_version),
            "workers": _array(workers),
        }
        return answer(wire.compose(members))

    # --- shared -------------------------------------------------------------------------------------

    async def _find(self, request: Request, guard: Guard, operation: RunOperation) -> Run[object]:
        return await self._found(RUN_ID.read(request), guard, operation)

    async def _found(self, run_id: str, guard: Guard, operation: RunOperation) -> Run[object]:
        run = await self._durably.get_run(run_id)
        if run is None:
            raise not_found()
        await guard.run(run, operation)
        return run

    async def _page(self, which: RunsFilter, limit: int, *, before: Run[Any] | None = None) -> list[Run[Any]]:
        names = None if which.job_names is None else _possible(which.job_names)
        if not limit or names == [] or which.statuses == ():
            return []
        return await self._durably.get_runs(
            names,
            status=which.statuses,
            labels=which.labels,
            before=before,
            offset=0 if before is not None else which.offset,
            limit=limit,
        )

    async def _all(self, which: RunsFilter, page: list[Run[Any]]) -> AsyncGenerator[bytes]:
        """The whole list, a page at a time; what comes meanwhile does not shift it."""
        opening = "["
        while page:
            yield (opening + ",".join(map(wire.run_json, page))).encode()
            opening = ","
            page = await self._page(which, PAGE, before=page[-1]) if len(page) == PAGE else []
        yield b"]"


def _array(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def _lost_race(operation: str, error: WrongStatus) -> Refusal:
    return Refusal(409, f"Cannot {operation} run {error.run_id}: status changed to {error.status}")


def _possible(names: tuple[str, ...]) -> list[str]:
    """The names that a job can have: the others match nothing."""
    return [name for name in names if _is_job_name(name)]


def _is_job_name(name: str) -> bool:
    try:
        JobRef[object, object](name)
    except ValidationError:
        return False
    return True


def _schema(codec: Codec[Any]) -> dict[str, object] | None:
    try:
        return codec.json_schema()
    except SerializationError:
        return None
