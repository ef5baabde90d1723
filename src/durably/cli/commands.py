"""The commands; what they do is in the modules beside this one."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated

import typer

from durably import UsageError
from durably.cli.acting import cancel, delete, limits, purge, resume, retrigger, trigger
from durably.cli.caring import doctor, migrate, version
from durably.cli.detail import show
from durably.cli.exits import told
from durably.cli.feed import events
from durably.cli.listing import runs
from durably.cli.loops import Loop, run
from durably.cli.processes import supervise, worker_command
from durably.cli.serve import serve
from durably.cli.showing import print_line
from durably.cli.sources import Sources
from durably.cli.targets import find_durably, find_jobs, make_current_directory_importable
from durably.cli.worker import MAX_SECONDS, WorkerOptions, run_worker

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(is_wanted: bool) -> None:  # noqa: FBT001  # an option
    if is_wanted:
        with told():
            print_line((f"durably {installed('durably')}",))
        raise typer.Exit


@app.callback()
def durably(
    *,
    version: Annotated[  # its callback does it
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version of durably."),
    ] = False,
) -> None:
    """Durable jobs: steps that survive crashes, on the database you already have."""


@app.command(rich_help_panel="Work")
def worker(  # noqa: PLR0913, PLR0917  # each is an option of the worker
    durably: Annotated[str, typer.Argument(metavar="DURABLY", help="The Durably object, as module:attribute.")],
    jobs: Annotated[list[str], typer.Argument(metavar="JOBS...", help="Modules with jobs, or module:attribute.")],
    only: Annotated[
        list[str] | None, typer.Option("--jobs", metavar="NAME", help="Only these of the jobs; * is a wildcard.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="NAME", help="All but these jobs; * is a wildcard.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="How many runs at once, in each process.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="How many processes; those that die are replaced.")
    ] = 1,
    grace: Annotated[
        float | None, typer.Option(min=0, max=MAX_SECONDS, help="Seconds that runs may go on after a signal.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Answer GET /live and /ready on this port; 0: a free one.")
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="For development: start anew when a file changes.")] = False,  # noqa: FBT002  # an option
    loop: Annotated[Loop, typer.Option(help="The event loop; auto is uvloop where it is installed.")] = Loop.AUTO,
    pulse_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Work until SIGTERM or SIGINT, then stop in good order; a second signal interrupts what is still running."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with told():
        options = WorkerOptions(
            concurrency=concurrency,
            grace=grace,
            only=_listed(only),
            exclude=_listed(exclude),
            health_port=health_port,
            pulse_fd=pulse_fd,
        )
        if (processes > 1 or reload) and pulse_fd is None:
            arguments = [durably, *jobs, "--loop", loop.value, *_arguments(options, is_reloaded=reload)]
            sources = Sources(Path.cwd()) if reload else None
            code = supervise(worker_command(*arguments), processes=processes, health_port=health_port, sources=sources)
            raise typer.Exit(code)
        make_current_directory_importable()
        target = find_durably(durably)
        run(run_worker(target, find_jobs(jobs), options), loop)


def _listed(names: list[str] | None) -> tuple[str, ...]:
    """Names that were given one by one, or with commas."""
    found = tuple(name.strip() for several in names or () for name in several.split(","))
    if "" in found:
        raise UsageError("--jobs and --exclude need names")
    return found


def _arguments(options: WorkerOptions, *, is_reloaded: bool) -> list[str]:
    """What a worker process is told. One that is started anew all the time hands its runs back at once."""
    grace = 0.0 if is_reloaded and options.grace is None else options.grace
    given: list[tuple[str, object]] = [("--concurrency", options.concurrency), ("--grace", grace)]
    given += [("--jobs", name) for name in options.only] + [("--exclude", name) for name in options.exclude]
    return [part for name, value in given if value is not None for part in (name, str(value))]


_LOOK, _ACT, _CARE, _WORK = "Look", "Act", "Operate", "Work"
for panel, commands in {
    _LOOK: (runs, show, events),
    _ACT: (trigger, cancel, retrigger, resume, delete),
    _CARE: (migrate, doctor, limits, purge, version),
    _WORK: (serve,),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
