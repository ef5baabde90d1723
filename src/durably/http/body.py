"""Reading the body of a request: JSON of a bounded size."""

from __future__ import annotations

import pydantic
import pydantic_core
from starlette.requests import Request

from durably.http.refusal import Refusal, bad_request


async def read_json(request: Request, *, max_bytes: int) -> object:
    """Return the body as plain JSON, whatever its content type says. Raises Refusal."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:18]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    try:
        found: object = pydantic_core.from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(f"Invalid JSON: {error}") from error
    return found


def first_flaw(error: pydantic.ValidationError) -> str:
    """Return the first thing that is wrong, with the name of its field."""
    flaw = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in flaw["loc"])
    return f"{place}: {flaw['msg']}"


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, f"Request body too large: at most {max_bytes:,} bytes are allowed")
