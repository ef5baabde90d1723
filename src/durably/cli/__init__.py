"""The command line: `durably worker app:durably app.jobs`. Needs the extra `durably[cli]`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from durably.cli.commands import app  # noqa: PLC0415  # the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "click"}:
            raise
        print(f"durably: {error.name} is not installed: pip install 'durably[cli]'", file=sys.stderr)
        sys.exit(1)
    app()
