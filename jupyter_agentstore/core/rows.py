"""What leaves the package to be read: rows and fields as JSON values, the times in them, numbers of things."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from .operations import Row
from .schema import EventType, Table

_EPOCH = datetime(1970, 1, 1)  # UTC; the Z is written by hand


def number_of(number: int, what: str) -> str:
    """A number of things: ``1 event``, ``2,000 events``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def iso(milliseconds: int) -> str:
    """ISO-8601 with milliseconds and ``Z``."""
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds") + "Z"


def jsonable(table: Table, row: Row) -> dict[str, Any]:
    """A row as JSON values: times as ISO-8601 text, all else as it is."""
    values = dict(row)
    for column in table.columns:
        if column.type == "timestamp" and values[column.name] is not None:
            values[column.name] = iso(values[column.name])
    return values


def written(kind: EventType, args: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event's ``args`` as a strict entrance writes them.

    LiveStore apps decode events to the letter, and one that they cannot decode ends their syncing for good: so a
    field that they declare is there, and a time is ISO-8601 text, however it was given.

    Args:
        kind: the event's type.
        args: as given.
        fields: the same, as ``kind.read`` found them.
    """
    if not kind.adjusted:
        return args
    out = dict(args)
    for field in kind.adjusted:
        value = out.get(field.name)
        if value is not None and value != "":
            if field.type == "timestamp":
                out[field.name] = iso(fields[field.name])
        elif field.blank is msgspec.UNSET:
            out.pop(field.name, None)
        elif field.blank is not msgspec.NODEFAULT:
            out[field.name] = field.blank
    return out
