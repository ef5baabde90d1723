"""The OpenAPI 3.1 document of a table of routes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from durably.http.models import Failure
from durably.http.routes import Route

REF = "#/components/schemas/{model}"


def document(routes: Iterable[Route], *, base: str, has_auth: bool) -> dict[str, Any]:
    """Return the document. `base` is where the routes are mounted, "" at the root."""
    table = list(routes)
    shapes = {shape for route in table for shape in (route.answers, route.body) if shape is not None} | {Failure}
    ordered = sorted(shapes, key=lambda shape: shape.__name__)
    _, definitions = models_json_schema([(shape, "validation") for shape in ordered], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, has_auth=has_auth)
    return {
        "openapi": "3.1.0",
        "info": {"title": "durably", "version": version("durably")},
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _operation(route: Route, *, has_auth: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "It is so.", "content": _content(route)}}
    further = {500: "Something unexpected happened.", 503: "The database does not answer; try again."}
    for status, description in sorted((dict(route.errors) | further).items()):
        responses[str(status)] = {"description": description, "content": _json(_ref(Failure))}
    if has_auth:
        responses["default"] = {"description": "What the application answers whom it does not let in."}
    operation: dict[str, Any] = {"operationId": route.name, "summary": route.summary, "responses": responses}
    if route.parameters:
        operation["parameters"] = [parameter.document() for parameter in route.parameters]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(_ref(route.body))}
    return operation


def _content(route: Route) -> dict[str, Any]:
    if route.answers is None:
        return {"text/event-stream": {"schema": {"type": "string"}}}
    shape = _ref(route.answers)
    return _json({"type": "array", "items": shape} if route.is_list else shape)


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(shape: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF.format(model=shape.__name__)}
