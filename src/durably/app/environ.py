"""Making a `Durably` with the settings of the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from durably.errors import ValidationError
from durably.rules.configuration import misspelt, read_settings, variable

MadeT = TypeVar("MadeT")

_logger = logging.getLogger("durably.configuration")


def from_environment(
    make: Callable[..., MadeT], environ: Mapping[str, str] | None, settings: Mapping[str, Any]
) -> MadeT:
    """What `make` makes of the url and the settings. See `Durably.from_env`, which says what is raised."""
    given = os.environ if environ is None else environ
    for name, meant in misspelt(given).items():
        _logger.warning("%s is no setting of durably: did you mean %s?", name, meant)
    found: dict[str, Any] = read_settings(given, without=settings)
    if "url" not in found and "url" not in settings:
        raise ValidationError(variable("url"), "is not set: sqlite:///path.db or postgresql://user@host/name")
    try:
        return make(**found, **settings)
    except ValidationError as error:
        if error.field in found:
            raise ValidationError(variable(error.field), error.reason) from error
        raise
