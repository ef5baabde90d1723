"""The commands and their arguments; what they do is in the modules beside this one."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from durably import DurablyError
from durably.cli.loops import Loop, run
from durably.cli.serve import serve
from durably.cli.targets import find_durably, find_jobs, make_current_directory_importable
from durably.cli.worker import run_worker

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(serve)


@app.callback()
def durably() -> None:
    """Durable jobs: steps that survive crashes, on the database you already have."""


@app.command()
def worker(
    durably: Annotated[str, typer.Argument(metavar="DURABLY", help="The Durably object, as module:attribute.")],
    jobs: Annotated[list[str], typer.Argument(metavar="JOBS...", help="Modules with jobs, or module:attribute.")],
    concurrency: Annotated[int | None, typer.Option(min=1, help="How many runs at once.")] = None,
    grace: Annotated[float | None, typer.Option(min=0, help="Seconds that runs may go on after a signal.")] = None,
    loop: Annotated[Loop, typer.Option(help="The event loop; auto is uvloop where it is installed.")] = Loop.AUTO,
) -> None:
    """Work until SIGTERM or SIGINT, then stop in good order; a second signal interrupts what is still running."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    make_current_directory_importable()
    try:
        target = find_durably(durably)
        run(run_worker(target, find_jobs(jobs), concurrency=concurrency, grace=grace), loop)
    except DurablyError as error:
        print(f"durably: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
