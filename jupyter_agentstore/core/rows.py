"""Rows in the forms that leave the package: JSON values, and the times in them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from .operations import Row
from .schema import Table

_EPOCH = datetime(1970, 1, 1)  # UTC; the Z is written by hand


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
