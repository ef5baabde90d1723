"""Exit codes, and what an error says on the command line: one line, without a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum

import typer

from durably import Conflict, DatabaseUnavailable, DurablyError, NotFound, RunCancelled, RunFailed, SchemaError


class ExitCode(IntEnum):
    """What a command ends with. `docs/cli.md` lists them."""

    OK = 0
    ERROR = 1
    """The input, a setting or the URL is wrong, or anything else went wrong."""
    USAGE = 2
    """An argument or option is wrong or missing."""
    NOT_FOUND = 3
    CONFLICT = 4
    """The state of the run does not allow it."""
    UNAVAILABLE = 5
    """The database cannot be reached."""
    SCHEMA = 6
    """The tables do not fit this version of durably."""
    FINDINGS = 7
    """`doctor` found problems."""
    RUN_FAILED = 8
    """The run that was waited for failed or was cancelled."""
    TIMEOUT = 9
    """The run that was waited for has not ended in time."""


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (RunFailed, ExitCode.RUN_FAILED),
    (RunCancelled, ExitCode.RUN_FAILED),
    (NotFound, ExitCode.NOT_FOUND),
    (Conflict, ExitCode.CONFLICT),
    (DatabaseUnavailable, ExitCode.UNAVAILABLE),
    (SchemaError, ExitCode.SCHEMA),
    (TimeoutError, ExitCode.TIMEOUT),
)


_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def exit_code(error: Exception) -> ExitCode:
    """The exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.ERROR)


@contextmanager
def told() -> Generator[None]:
    """Turn what a user can do something about into one line on standard error and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except (DurablyError, TimeoutError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and "pip install" not in str(error):
            raise
        say(str(error))
        raise typer.Exit(exit_code(error)) from error
    except BrokenPipeError as error:  # whoever reads has seen enough: `durably events | head`
        _forget_output()
        raise typer.Exit(ExitCode.OK) from error
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _forget_output()
        say(f"the output cannot be written: {error.strerror}")
        raise typer.Exit(ExitCode.ERROR) from error


def _forget_output() -> None:
    """Let what was not written yet go nowhere: the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(message: str) -> None:
    """Say something on standard error."""
    print(f"durably: {message}", file=sys.stderr, flush=True)
