"""What `durably serve` writes of requests: of addresses only what is no secret, for a token may be in the query."""

from __future__ import annotations

import logging
from urllib.parse import unquote_plus

_SHOWN = {"runId", "jobName", "status", "limit", "offset", "after", "lastEventId"}
_LABEL = "label."
_PATH = 2
"""Where the address is among the arguments of uvicorn's lines: client, method, address, version, status."""


class WithoutSecrets(logging.Filter):
    """Shows `***` for the values of parameters that are none of durably's own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`. The line itself is always kept."""
        arguments = record.args
        if isinstance(arguments, tuple) and len(arguments) > _PATH and isinstance(address := arguments[_PATH], str):
            record.args = (*arguments[:_PATH], without_secrets(address), *arguments[_PATH + 1 :])
        return True


def without_secrets(address: str) -> str:
    """Return an address with `***` for what may be a secret in its query."""
    path, question, query = address.partition("?")
    return path + question + "&".join(map(_without_secret, query.split("&")))


def _without_secret(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    if unquote_plus(name) in _SHOWN or unquote_plus(name).startswith(_LABEL) or not parameter:
        return parameter
    return f"{name}=***" if equals else "***"
