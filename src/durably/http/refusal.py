"""Answers that say no: `{"error": text}` with a status."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.responses import Response

from durably import DatabaseRefused, DatabaseUnavailable, DurablyError, RunNotFound, UsageError
from durably.http import wire
from durably.http.auth import Reject, rejection

_logger = logging.getLogger("durably.http")


class Refusal(Exception):
    """Ends a request with an error that the client can understand."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def bad_request(message: str) -> Refusal:
    """Return a refusal of what the client sent."""
    return Refusal(400, message)


def not_found() -> Refusal:
    """Return the refusal for a run that does not exist."""
    return Refusal(404, "Run not found")


def error_response(status: int, message: str) -> Response:
    """Return an error as the wire has it."""
    return answer(wire.compose({"error": wire.text(message or "Unknown error")}), status=status)


def answer(json: str, *, status: int = 200) -> Response:
    """Return a JSON text as a response."""
    return Response(json.encode("utf-8", "replace"), status_code=status, media_type="application/json")


def response_to(error: Exception) -> Response:
    """Return the answer to whatever was raised while a request was handled."""
    match error:
        case Refusal():
            return error_response(error.status, error.message)
        case Reject():
            return error.response
        case HTTPException():
            return rejection(error)
        case RunNotFound():
            return error_response(404, "Run not found")
        case DatabaseUnavailable() | DatabaseRefused():
            _logger.warning("a request could not be served: %s", error)
            return error_response(error.http_status, str(error))
        case DurablyError() if not isinstance(error, UsageError):
            return error_response(error.http_status, str(error))
        case _:
            _logger.error("a request failed", exc_info=error)
            return error_response(500, _message(error) or type(error).__name__)


def _message(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - somebody else's code, where there is an error already
        return ""
