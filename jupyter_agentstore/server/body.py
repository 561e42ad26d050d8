"""From bytes to typed values: the JSON of a request, and its query string.

What belongs here: reading and refusing, each fault with a message of its own. What a value means is the handlers'
business, what an event may hold is the schema's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ..core.errors import InvalidRequest
from ..core.events import too_deep

T = TypeVar("T", bound=msgspec.Struct)

_FIELD = re.compile(r"field `([^`]*)`")
_QUOTED = re.compile(r"`([^`]*)`")
_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_TYPES = {"str": "text", "int": "an integer", "float": "a number", "bool": "true or false", "null": "null"}
_TYPES |= {"array": "a list", "object": "an object"}


def read_json(body: bytes) -> dict[str, Any]:
    """Read the JSON object that a request carries, whatever its Content-Type says.

    Escapes of lone surrogates are kept; of two equal keys the last one counts.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON (also NaN, Infinity or a number beyond a double), nested too deeply,
            or not an object.
    """
    if not body:
        raise InvalidRequest("The request has no body; it must be a JSON object.")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} cannot be read.") from None
    if too_deep(text):
        raise InvalidRequest("The body is nested too deeply.")
    try:
        value = json.loads(text, parse_float=_finite, parse_int=_integer, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}."
        ) from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def read(kind: type[T], values: Mapping[str, Any], *, query: bool = False) -> T:
    """A typed value from a request's fields.

    Args:
        kind: what it must be; a struct that forbids unknown fields refuses them.
        values: the fields.
        query: they come from a query string, so that numbers are text.

    Raises:
        InvalidRequest: with the name of the field at fault.
    """
    try:
        return msgspec.convert(values, kind, strict=not query)
    except msgspec.ValidationError as error:
        message, field = explain(str(error))
        raise InvalidRequest(message, field=field) from None
    except UnicodeError:
        raise InvalidRequest("The body holds text that is not Unicode.") from None


def explain(said: str) -> tuple[str, str | None]:
    """What msgspec says of a value, for a person, and the name of the field at fault."""
    at = _AT.search(said)
    path = at[1] if at else ""
    said = said[: at.start()] if at else said
    named = _FIELD.search(said)
    inner = f"{path}.{named[1]}" if named and path else named[1] if named else path
    field = inner or None
    if "missing required" in said:
        return f"The field {inner!r} is missing.", field
    if "unknown field" in said:
        return f"There is no field {inner!r}.", field
    said = _QUOTED.sub(lambda match: " or ".join(_TYPES.get(w, repr(w)) for w in match[1].split(" | ")), said)
    said = said.replace("text matching regex '^[ -~]*$'", "printable ASCII").replace(
        "`str` matching regex '^[ -~]*$'", "printable ASCII"
    )
    said = said.replace("Expected ", "must be ").replace(", got ", ", not ")
    said = said.replace("Invalid enum value", "must be one of the values allowed, not")
    return (f"The field {field!r} {said}." if field else f"The request {said}."), field


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond a double.")
    return value


def _integer(text: str) -> int:
    if len(text) > 310:
        raise ValueError(f"{text[:40]}… is beyond a double.")
    value = int(text)
    if abs(value) > 2**1024 - 2**970:
        raise ValueError(f"{text[:40]}… is beyond a double.")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON.")


def write_json(value: Any) -> bytes:
    """A value as JSON; lone surrogates leave as escapes, as they came, and numbers that are none as null."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    return msgspec.structs.asdict(value)
