"""The OpenAPI 3.1 description of the REST calls, made from what the handlers declare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from .._version import __version__
from ..core.schema import Schema
from .events import EVENT
from .handlers import ROUTES
from .rest import JSON, Operation
from .shapes import BODIES, DEFAULT_STORE, TEXT, ref, row

METHODS = ("get", "head", "post")

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "Stable, for programs."},
                "message": {"type": "string", "description": "For people."},
                "field": {"type": "string", "description": "The field of the input at fault."},
            },
            "required": ["code", "message"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}
_STORE_ID = {
    "name": "storeId",
    "in": "query",
    "description": "The store. It comes into being at its first write; one that is not there is read as empty.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", "default": DEFAULT_STORE},
}
_COMMON = {
    400: "The request cannot be read; `field` names the parameter or field at fault.",
    401: "Nobody is logged in, or the token is wrong.",
    403: "The caller may not do this, or the request could be another site's (XSRF).",
    503: "The server is starting, stopping, or rebuilding the tables.",
}
_OF_A_STORE = {423: "A process that cannot be asked has the store open."}
_OF_A_BODY = {
    413: "The body, or an event, is too long.",
    422: "A field of an event is not what its type allows; `field` names it.",
    507: "The disk is full.",
}


def describe(schema: Schema, server: str) -> dict[str, Any]:
    """The description.

    Args:
        schema: of the stores; its tables' rows are what some calls answer.
        server: the path that the calls are under.
    """
    paths = {f"/{path}": _path(path, handler) for path, handler in ROUTES}
    _, shapes = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
    rows = {table.name: row(table) for table in schema.table_list}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jupyter_agentstore",
            "version": __version__,
            "description": "Agent stores in a Jupyter server. Every change is a commit of events; what is read is "
            "the log or tables derived from it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**shapes, **rows, "event": EVENT, "error": _ERROR},
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token …`, as `jupyter server list` shows it.",
                }
            },
        },
    }


def _path(path: str, handler: type) -> dict[str, Any]:
    """All methods of a path."""
    found: dict[str, Any] = {}
    for method in METHODS:
        declared: Operation | None = getattr(getattr(handler, method), "operation", None)
        if declared is not None:
            found[method] = _operation(path, method, declared)
    return found


def _operation(path: str, method: str, declared: Operation) -> dict[str, Any]:
    words = re.findall(r"[a-z]+", path)
    description: dict[str, Any] = {
        "operationId": "_".join([method, *words]),
        "summary": declared.summary,
        "parameters": _parameters(path, declared),
        "responses": _responses(declared),
    }
    if declared.action is not None:
        description["description"] = f"Needs `{declared.action}` on `agentstore:<storeId>`."
    if declared.body is not None:
        content = {JSON: {"schema": ref(declared.body.__name__)}}
        description["requestBody"] = {"required": True, "content": content}
    return description


def _parameters(path: str, declared: Operation) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in re.findall(r"{(\w+)}", path)
    ]
    if declared.store:
        found.append(_STORE_ID)
    if declared.query is not None:
        _, shapes = msgspec.json.schema_components([declared.query])
        shape = shapes[declared.query.__name__]
        for name, kind in shape["properties"].items():
            required = name in shape.get("required", ())
            found.append({"name": name, "in": "query", "required": required, "schema": kind})
    for name, meaning in declared.headers.items():
        found.append(
            {"name": name, "in": "header", "required": False, "description": meaning, "schema": TEXT}
        )
    return found


def _responses(declared: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if declared.answer is not None:
        content[JSON] = {"schema": declared.answer}
    for media, holds in declared.media.items():
        content[media] = {"schema": {"type": "string", "format": "binary", "description": holds}}
    errors = dict(_COMMON)
    if declared.store:
        errors |= _OF_A_STORE
    if declared.body is not None:
        errors |= _OF_A_BODY
    errors |= declared.errors
    further = {"206": {"description": declared.partial, "content": content}} if declared.partial else {}
    return {
        "200": {"description": declared.summary, "content": content},
        **further,
        **{
            str(status): {"description": when, "content": {JSON: {"schema": ref("error")}}}
            for status, when in sorted(errors.items())
        },
    }
