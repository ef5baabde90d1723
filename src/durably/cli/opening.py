"""What all commands on a database share: their options, and the Durably that these mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

import typer

from durably import Durably, ValidationError
from durably.cli.exits import told

Url: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", envvar="DURABLY_URL", help="The database.", show_default=False, rich_help_panel="Database"),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Labels: TypeAlias = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label. Repeat for several.")
]
RunIds: TypeAlias = Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.")]


def with_durably(url: str | None, work: Callable[[Durably], Awaitable[None]], *, is_endless: bool = False) -> None:
    """Do this with the Durably of the url, or of the environment, whose tables are left as they are.

    Ctrl-C is how an endless one ends.
    """
    with told():
        settings: dict[str, Any] = {} if url is None else {"url": url}

        async def main() -> None:
            durably = Durably.from_env(**settings, migrate="check")
            try:
                await work(durably)
            finally:
                await durably.close()

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            if not is_endless:
                raise


def read_labels(given: list[str] | None) -> dict[str, str] | None:
    """Labels as they were typed. Raises ValidationError."""
    if not given:
        return None
    labels: dict[str, str] = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator:
            raise ValidationError("--label", f"{one!r} must look like name=value")
        labels[name] = value
    return labels


def read_json(text: str, *, field: str) -> object:
    """A value typed as JSON. Raises ValidationError that says where it is wrong."""
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise ValidationError(field, f"this is no JSON: {error}; a text needs its quotes, as in '\"text\"'") from error
    except RecursionError as error:
        raise ValidationError(field, "this JSON is nested too deeply") from error
    return value
