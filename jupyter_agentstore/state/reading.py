"""An event read: its row in the table ``events``, and what its schema makes of it.

What belongs here: everything that is done to one event before tables come in. It is total: whatever a body holds,
there is a row to show and a reason to give.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.errors import InvalidEvent
from ..core.events import Decoded, Event, Meta, replace_surrogates
from ..core.operations import Operation
from ..core.schema import Schema
from .overlay import Twin
from .tables import MAX_TIME

_MAX_REASON = 500
_encode = msgspec.json.Encoder().encode


class Reading:
    """What an event means by itself.

    Attributes:
        event: as the log has it.
        twin: its row in the table ``events``.
        operations: what its materializer wants; None when it is an anomaly already.
        reason: why it is one.
    """

    __slots__ = ("event", "operations", "reason", "twin")

    def __init__(
        self, event: Event, twin: Twin, operations: Sequence[Operation] | None, reason: str = ""
    ) -> None:
        self.event = event
        self.twin = twin
        self.operations = operations
        self.reason = reason


def read(event: Event, schema: Schema) -> Reading:
    """Read an event and ask its materializer."""
    try:
        body = event.decode()
    except InvalidEvent as error:
        return Reading(event, _salvage(event), None, _text(error))
    twin = (
        event.seq,
        event.recorded_at if 0 <= event.recorded_at <= MAX_TIME else MAX_TIME,
        clean(event.actor),
        body.name,
        _args(body),
        body.clientId,
        body.sessionId,
    )
    kind = schema.events.get(body.name)
    if kind is None:
        return Reading(event, twin, None, f"There is no event type {body.name[:80]!r} in this schema.")
    meta = Meta(event.seq, event.recorded_at, event.actor, body.clientId, body.sessionId)
    try:
        operations: Sequence[Operation] = kind.materialize(kind.read(body.args), meta)
        if type(operations) is not tuple:
            operations = tuple(operations)
    except InvalidEvent as error:
        return Reading(event, twin, None, _text(error))
    except Exception as error:
        return Reading(event, twin, None, failure(error))
    return Reading(event, twin, operations)


def failure(error: BaseException) -> str:
    """What is said of an event whose materializer failed, or asked for what its tables do not allow."""
    return f"{type(error).__name__}: {_text(error)}"[:_MAX_REASON]


def clean(text: str) -> str:
    """Text that UTF-8 can hold."""
    if text.isascii():
        return text
    result: str = replace_surrogates(text)
    return result


def _text(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:
        return "no words for it"
    return clean(said[:_MAX_REASON])


def _args(body: Decoded) -> str:
    """The arguments as JSON that every reader takes: no key twice, no number beyond a double."""
    try:
        return _encode(body.args).decode()
    except (ValueError, OverflowError, RecursionError):  # an integer beyond 64 bits
        return _text_of(body.args)


def _text_of(value: Any) -> str:
    try:
        text = json.dumps(
            replace_surrogates(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        text.encode()
    except (ValueError, RecursionError):
        return "null"
    return text


def _salvage(event: Event) -> Twin:
    """The row of a body that is no event: as much of it as can be read."""
    name, args, client, session = "", "null", "", ""
    try:
        value = json.loads(event.body)
    except (ValueError, RecursionError):
        args = _text_of(event.body)
    else:
        if isinstance(value, dict):
            found = (value.get(key) for key in ("name", "clientId", "sessionId"))
            name, client, session = (clean(item) if isinstance(item, str) else "" for item in found)
            args = _text_of(value.get("args"))
        else:
            args = _text_of(value)
    time = event.recorded_at if 0 <= event.recorded_at <= MAX_TIME else MAX_TIME
    return (event.seq, time, clean(event.actor), name, args, client, session)
