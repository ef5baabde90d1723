"""Commands that change runs: trigger, cancel, retrigger, resume, delete, purge, limits."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from durably import (
    Disposition,
    Durably,
    DurablyError,
    KeyLimit,
    Run,
    RunStatus,
    TriggerKeywords,
    ValidationError,
    read_duration,
)
from durably.cli.exits import exit_code, say, told
from durably.cli.opening import AsJson, Labels, RunIds, Url, read_json, read_labels, with_durably
from durably.cli.showing import errors, print_json, print_line, print_rows, run_json

BATCH = 2000


class IfPending(StrEnum):
    """What to do about a run of the same job and concurrency key that has not started yet."""

    QUEUE = "queue"
    SKIP = "skip"
    REPLACE = "replace"
    REJECT = "reject"


class Ended(StrEnum):
    """The statuses of runs that are over."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def trigger(  # noqa: PLR0913, PLR0917  # each is an option of the trigger
    job: Annotated[str, typer.Argument(metavar="JOB", help="The name of a job.")],
    input: Annotated[str, typer.Argument(metavar="JSON", help="The input as JSON; - reads it from stdin.")] = "null",
    idempotency_key: Annotated[str | None, typer.Option("--idempotency-key", help="Names the request.")] = None,
    concurrency_key: Annotated[str | None, typer.Option("--concurrency-key", help="What is not used twice.")] = None,
    if_pending: Annotated[IfPending | None, typer.Option(help="If a run of job and key already waits.")] = None,
    label: Labels = None,
    priority: Annotated[int | None, typer.Option(help="One unit counts like a minute of waiting.")] = None,
    delay: Annotated[str | None, typer.Option(help="Start so much later: 30s, 5m, 2h.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, and print the output.")] = False,  # noqa: FBT002  # an option
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: seconds to wait at most.")] = None,
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """Trigger a run and print its id. The input is checked by the job when it is executed."""
    with told():
        text = _read_input() if input == "-" else input  # before there is an event loop, which Ctrl-C would stop first

    async def work(durably: Durably) -> None:
        options: TriggerKeywords = {
            "idempotency_key": idempotency_key,
            "concurrency_key": concurrency_key,
            "if_pending": None if if_pending is None else if_pending.value,
            "labels": read_labels(label),
            "priority": priority,
            "delay": None if delay is None else read_duration(delay, field="--delay"),
        }
        run = await durably.trigger(job, read_json(text, field="JSON"), **options)
        if run.disposition is not Disposition.CREATED:
            say(f"{run.disposition}: run {run.id} was there already")
        if not wait:
            _tell(run, json=json)
            return
        output = await durably.result(run, timeout=timeout)
        if json:
            _tell(await durably.wait(run), json=True)
        else:
            print_json(output)

    with_durably(url, work)


def _read_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ValidationError("JSON", f"what comes from standard input is no text: {error}") from error


def cancel(run: RunIds, url: Url = None, json: AsJson = False) -> None:  # noqa: FBT002  # an option
    """Cancel runs that have not ended; their code is interrupted within a second, wherever it runs."""
    _each(run, url, lambda durably, one: durably.cancel(one), json=json)


def resume(run: RunIds, url: Url = None, json: AsJson = False) -> None:  # noqa: FBT002  # an option
    """Let failed runs continue after their last stored step."""
    _each(run, url, lambda durably, one: durably.resume(one), json=json)


def retrigger(
    run: RunIds,
    from_step: Annotated[str | None, typer.Option(help="Copy the steps before this one.")] = None,
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """Trigger new runs with the input of ended ones, and print their ids."""
    _each(run, url, lambda durably, one: durably.retrigger(one, from_step=from_step), json=json)


def delete(run: RunIds, url: Url = None) -> None:
    """Delete runs that have ended, with their steps and logs."""
    _each(run, url, lambda durably, one: durably.delete_run(one), json=False)


def _each(
    runs: list[str], url: str | None, act: Callable[[Durably, str], Awaitable[Run[Any] | None]], *, json: bool
) -> None:
    """Do this to each run; one that fails does not keep the others from it, and decides the exit code."""

    async def work(durably: Durably) -> None:
        failed: DurablyError | None = None
        for one in runs:
            try:
                done = await act(durably, one)
            except DurablyError as error:
                if len(runs) == 1:
                    raise
                say(str(error))
                failed = failed or error
            else:
                _tell(done, json=json) if done is not None else print_line((one,))
        if failed is not None:
            raise typer.Exit(exit_code(failed))

    with_durably(url, work)


def _tell(run: Run[Any], *, json: bool) -> None:
    if json:
        print_json(run_json(run))
    else:
        print_line((run.id,))


def purge(
    older_than: Annotated[str, typer.Option("--older-than", help="Ended longer ago than this: 30d, 12h, 0s.")],
    status: Annotated[list[Ended] | None, typer.Option("--status", "-s", help="Only runs with this end.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,  # noqa: FBT002  # an option
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,  # noqa: FBT002  # an option
    url: Url = None,
) -> None:
    """Delete runs that ended long ago, in small batches, beside the work of others. Prints how many went."""
    with told():
        age = read_duration(older_than, field="--older-than")
    statuses = [RunStatus(one) for one in status or Ended]
    wanted = 0

    async def count(durably: Durably) -> None:
        nonlocal wanted
        found = await durably.count_purgeable(older_than=age, statuses=statuses)
        wanted = found if limit is None else min(found, limit)
        if dry_run:
            print_line((wanted,))

    async def work(durably: Durably) -> None:
        await _purge(durably, wanted, age, statuses)

    with_durably(url, count)
    if dry_run:
        return
    if wanted and not yes:
        _ask(f"Delete {wanted:,} runs with their steps and logs?")  # where no event loop keeps Ctrl-C from ending it
    with_durably(url, work)


async def _purge(durably: Durably, wanted: int, age: timedelta, statuses: Sequence[RunStatus]) -> None:
    """Delete so many runs, and print how many went, also when it is interrupted."""
    deleted = 0
    try:
        with _progress() as progress:
            task = progress.add_task("purging", total=wanted)
            while deleted < wanted:
                size = min(BATCH, wanted - deleted)
                went = await durably.purge_runs(older_than=age, statuses=statuses, limit=size)
                deleted += went
                progress.update(task, completed=deleted)
                if went < size:
                    break
    finally:
        print_line((deleted,))


def _ask(question: str) -> None:
    with told():
        if not sys.stdin.isatty():
            raise ValidationError("--yes", "say it where nobody can be asked, or look with --dry-run first")
    typer.confirm(question, abort=True, err=True)


def _progress() -> Progress:
    """A bar on standard error, where somebody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=errors(), disable=not sys.stderr.isatty())


def limits(
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="A concurrency key.")] = None,
    limit: Annotated[
        int | None, typer.Argument(metavar="N", min=0, help="Its runs at once; 0 lets none start.")
    ] = None,
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """List concurrency keys with their limits and slots, or set the limit of one."""

    async def work(durably: Durably) -> None:
        if key is not None and limit is not None:
            await durably.set_limit(key, limit)
            return
        found = [one async for one in _limits(durably) if key in {None, one.key}]
        if json:
            for one in found:
                print_json({"key": one.key, "limit": one.limit, "active": one.active, "waiting": one.waiting})
        else:
            rows = [(one.key, one.limit, one.active, one.waiting) for one in found]
            print_rows(("key", "limit", "active", "waiting"), rows, nothing="no key is in use")

    with_durably(url, work)


async def _limits(durably: Durably) -> AsyncGenerator[KeyLimit, None]:
    after = ""
    while page := await durably.get_limits(after=after, limit=1000):
        for one in page:
            yield one
        after = page[-1].key
