"""Values that users hand over, as JSON can carry them: fields of events and parameters of SQL.

What belongs here: conversions that hold of every way to a store, so that a value means the same by each.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import AgentStoreError, InvalidEvent, InvalidRequest

if TYPE_CHECKING:
    from ..core.schema import Schema
    from ..store import Draft

DOOR = "python"
"""What the log notes as the session of events that are committed from Python to a store in this process."""


def plain(value: Any, error: type[AgentStoreError] = InvalidRequest) -> Any:
    """A value as JSON has it: times as ISO-8601 text, numpy's and pandas' values as Python's.

    What JSON has no word for stays as it is; :func:`to_json` refuses it.

    Args:
        value: anything.
        error: what to raise of a value that is nested too deeply.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise error("This is nested too deeply, or in itself.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat() if value == value else None  # pandas' NaT is not itself
    if isinstance(value, decimal.Decimal):
        return float(value)
    if callable(getattr(value, "tolist", None)):
        return _plain(value.tolist())
    return value


def to_json(value: Any, error: type[AgentStoreError]) -> bytes:
    """JSON in ASCII, in which lone surrogates are kept, as escapes.

    Args:
        value: from :func:`plain`.
        error: what to raise of a value that JSON has no word for: NaN, bytes, a set.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(f"This cannot be written as JSON: {problem}.") from None


def at_place(error: InvalidEvent, place: int, count: int) -> InvalidEvent:
    """What is wrong with one of ``count`` events, with its place among them, from 1."""
    return error if count == 1 else InvalidEvent(f"Event {place}: {error.message}", field=error.field)


def drafts_of(
    schema: Schema, events: Sequence[tuple[str, Mapping[str, Any]]], commit_id: str | None = None
) -> list[Draft]:
    """Events as a store takes them, each checked.

    Raises:
        InvalidEvent: with the field at fault and, if there are more, the event's place.
    """
    from ..store import draft

    drafts = []
    for place, (name, args) in enumerate(events, 1):
        try:
            drafts.append(draft(schema, name, args, door=DOOR, commit_id=commit_id))
        except InvalidEvent as error:
            raise at_place(error, place, len(events)) from None
    return drafts
