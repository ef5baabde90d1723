"""The command line: `durably worker app:durably app.jobs`. Needs the extra `durably[cli]`."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Run the command line and exit."""
    _mend_streams()
    try:
        from durably.cli.commands import app  # noqa: PLC0415  # the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "click"}:
            raise
        print(f"durably: {error.name} is not installed: pip install 'durably[cli]'", file=sys.stderr)
        sys.exit(1)
    app()


def _mend_streams() -> None:
    """Give the process the standard streams that it was started without; nothing that is printed may be an error.

    What the terminal's encoding does not have is shown as an escape, as control characters are.
    """
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115  # for as long as the process lives
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
