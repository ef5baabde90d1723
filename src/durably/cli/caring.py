"""Commands for those who operate a database: migrate, doctor, version."""

from __future__ import annotations

import platform
import sqlite3
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Annotated, TypeAlias

import typer
from rich.text import Text

from durably import Durably, Finding, Level, SchemaError
from durably.cli.exits import ExitCode, say, told
from durably.cli.opening import AsJson, Url, with_durably
from durably.cli.showing import STATUS_STYLES, console, errors, is_terminal, print_json, print_line
from durably.cli.targets import find_jobs, make_current_directory_importable
from durably.cli.wording import plain

Check: TypeAlias = Annotated[bool, typer.Option("--check", help="Only say whether something is missing (exit code 6).")]

_MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.PROBLEM: "✗"}


def migrate(
    check: Check = False,  # noqa: FBT002  # an option
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print the SQL, and change nothing.")] = False,  # noqa: FBT002  # an option
    url: Url = None,
) -> None:
    """Make durably's tables, or bring them up to date. Safe to repeat, and beside others that do the same."""

    async def work(durably: Durably) -> None:
        if print_sql:
            print(await durably.migration_sql(), end="", flush=True)
            return
        if check:
            await durably.get_runs(limit=1)
            say_if_seen("the tables are up to date")
            return
        if sys.stderr.isatty():
            with errors().status("migrating"):
                applied = await durably.migrate()
        else:
            applied = await durably.migrate()
        for name in applied:
            print_line((name,))
        if not applied:
            say_if_seen("the tables are up to date")

    with_durably(url, work)


def say_if_seen(message: str) -> None:
    """Say something that nobody needs in a pipe."""
    if sys.stderr.isatty():
        say(message)


def doctor(
    jobs: Annotated[
        list[str] | None,
        typer.Option("--jobs", metavar="MODULE", help="Modules with the jobs that workers have: others are reported."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as problems.")] = False,  # noqa: FBT002  # an option
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """Look for what is wrong, and say what to do about it. Ends with 7 when there are problems."""

    async def work(durably: Durably) -> None:
        found = await _findings(durably, jobs)
        for finding in found:
            _tell(finding, json=json)
        bad = {Level.PROBLEM, Level.WARNING} if strict else {Level.PROBLEM}
        if any(finding.level in bad for finding in found):
            raise typer.Exit(ExitCode.FINDINGS)

    with_durably(url, work)


async def _findings(durably: Durably, modules: Sequence[str] | None) -> list[Finding]:
    names = None
    if modules:
        make_current_directory_importable()
        names = durably.worker(find_jobs(modules)).jobs
    try:
        return await durably.diagnose(jobs=names)
    except SchemaError as error:
        remedy = "upgrade durably" if error.is_too_new else "run `durably migrate`"
        return [Finding(check="schema", level=Level.PROBLEM, message=str(error), remedy=remedy)]


def _tell(finding: Finding, *, json: bool) -> None:
    if json:
        fields = {"check": finding.check, "level": finding.level, "message": finding.message, "remedy": finding.remedy}
        print_json(fields)
    elif is_terminal():
        mark = (f"{_MARKS[finding.level]} ", STATUS_STYLES[finding.level])
        line = Text.assemble(mark, (f"{finding.check:11} ", "bold"), plain(finding.message))
        console().print(line, soft_wrap=True)
        if finding.remedy:
            console().print(Text(f"{'':13} → {finding.remedy}", style="dim"), soft_wrap=True)
    else:
        print_line((finding.level, finding.check, finding.message, finding.remedy))


def version(json: AsJson = False) -> None:  # noqa: FBT002  # an option
    """Print the versions of durably and of what it runs on."""
    found = {
        "durably": _version("durably"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "asyncpg": _version("asyncpg"),
        "pydantic": _version("pydantic"),
        "uvloop": _version("uvloop"),
        "system": platform.platform(),
    }
    with told():
        if json:
            print_json(found)
            return
        for name, value in found.items():
            print_line((name, value or "not installed"))


def _version(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None
