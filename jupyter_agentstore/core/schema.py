"""A schema: tables, event types with a materializer each, and a version. A value, made once and shared.

What belongs here: declarations, the checking of fields and rows against them, and the hash that says whether
tables built with one schema serve another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import msgspec

from .errors import InvalidEvent
from .events import Meta, clean_json, replace_surrogates, too_deep
from .limits import MAX_DEPTH, MAX_ID_CHARS
from .operations import BadOperation, Operation, Row

Type = Literal["text", "id", "json", "integer", "number", "boolean", "timestamp"]
"""Types of fields and columns.

``id`` is text of 1 to 256 characters; ``json`` is text that holds JSON; ``timestamp`` is whole milliseconds since
1970 UTC in rows, ISO-8601 text or milliseconds in events.
"""

SQL_TYPES: Mapping[Type, str] = {
    "text": "VARCHAR",
    "id": "VARCHAR",
    "json": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
}

RESERVED = frozenset({"events", "anomalies", "agentstate", "agentstore_meta", "agentstore_commits"})
"""Tables that every store has beside its schema's (without regard to case)."""

_PYTHON: Mapping[Type, tuple[type, ...]] = {
    "text": (str,),
    "id": (str,),
    "json": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "timestamp": (int,),
}
_INT64 = 2**63
MAX_TIME = 253_402_300_799_999
"""The last millisecond of the year 9999; nothing that shows a time goes further."""
MIN_TIME = -62_135_596_800_000
"""The first millisecond of the year 1."""
_BOUNDS: Mapping[Type, tuple[int | float, int | float]] = {
    "integer": (-_INT64, _INT64 - 1),
    "number": (-sys.float_info.max, sys.float_info.max),
    "timestamp": (MIN_TIME, MAX_TIME),
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# What datetime.fromisoformat takes beyond this differs between versions of Python.
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ]([01][0-9]|2[0-3]):[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True)
class Column:
    """A table's column; one without a default that is not nullable must be given."""

    name: str
    type: Type
    default: Any = None
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its columns, its primary key (a text column) and what is kept ready about it.

    Args:
        name: as SQL and DataFrames call it.
        columns: in their order.
        key: the primary key's column.
        group: a column whose groups are read from their end (a conversation's messages); the table then needs an
            integer column ``seq``, by which the group is ordered.
        tally: a column whose distinct values are counted as rows come and go.
        sized: whether the bytes of the table's rows as JSON are summed up as rows come and go.
    """

    name: str
    columns: tuple[Column, ...]
    key: str = "id"
    group: str | None = None
    tally: str | None = None
    sized: bool = False

    @cached_property
    def _defaults(self) -> Row:
        return {column.name: column.default for column in self.columns}

    @cached_property
    def _checks(self) -> tuple[tuple[str, Type, tuple[type, ...], bool], ...]:
        return tuple((c.name, c.type, _PYTHON[c.type], c.nullable) for c in self.columns)

    @cached_property
    def _bounds(self) -> tuple[tuple[str, int | float, int | float], ...]:
        return tuple((c.name, *_BOUNDS[c.type]) for c in self.columns if c.type in _BOUNDS)

    @cached_property
    def _known(self) -> set[tuple[type, ...]]:
        """Types of the values of rows that were found to fit, so that the next such row is soon checked."""
        return set()

    def complete(self, row: Row) -> Row:
        """The row with every column, in the table's order; whole numbers in ``number`` columns become floats.

        Raises:
            BadOperation: a column is unknown, missing or of a wrong type.
        """
        return self.check({**self._defaults, **row})

    def check(self, row: Row) -> Row:
        """The row itself, whose columns are in the table's order, if it fits the table; see :meth:`complete`."""
        types = tuple(map(type, row.values()))
        if types in self._known:
            for name, low, high in self._bounds:
                value = row[name]
                if value is not None and not low <= value <= high:
                    break
            else:
                return row
        self._check(row)
        if len(self._known) < 64:
            self._known.add(tuple(map(type, row.values())))
        return row

    def _check(self, row: Row) -> None:
        if len(row) != len(self._checks):
            raise BadOperation(f"{self.name}: no column {sorted(set(row) - set(self._defaults))[0]!r}.")
        for name, kind, types, nullable in self._checks:
            value = row[name]
            if value is None:
                if not nullable:
                    raise BadOperation(f"{self.name}.{name}: a value is missing.")
            elif type(value) not in types:
                raise BadOperation(f"{self.name}.{name}: {type(value).__name__} is not {kind}.")
            elif type(value) is float and not math.isfinite(value):
                raise BadOperation(f"{self.name}.{name}: {value} is not a number.")
            elif kind in _BOUNDS:
                low, high = _BOUNDS[kind]
                if not low <= value <= high:
                    raise BadOperation(f"{self.name}.{name}: the number is out of range.")
                if kind == "number":
                    row[name] = float(value)


@dataclass(frozen=True)
class Field:
    """A field of an event.

    Args:
        name: its key in ``args``.
        type: of its value.
        required: whether it must be there.
        nullable: whether it may be null.
        choices: the values that it may have; none: any.
        blank: what a strict entrance writes into the log where it is absent, null or empty text; ``msgspec.UNSET``
            leaves it out, ``msgspec.NODEFAULT`` writes what was given.
    """

    name: str
    type: Type
    required: bool = True
    nullable: bool = False
    choices: tuple[str, ...] = ()
    blank: Any = msgspec.NODEFAULT


Materializer = Callable[[Mapping[str, Any], Meta], Sequence[Operation]]
"""A pure function ``(fields, meta) -> operations``: no clock, no randomness, no reads of the outside."""


@dataclass(frozen=True)
class EventType:
    """A type of event.

    Args:
        name: such as ``v1.MessageAdded``.
        fields: what ``args`` holds; a field that is absent reaches the materializer as None.
        materialize: what it does to the tables.
        unique: ``(table, field)``: a commit over REST or from Python is refused when that row is there already.
        requires: ``((table, field), …)``: such a commit is refused when one of those rows is not there.
    """

    name: str
    fields: tuple[Field, ...]
    materialize: Materializer
    unique: tuple[str, str] | None = None
    requires: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(item.name for item in self.fields)

    @cached_property
    def _checks(self) -> tuple[tuple[str, Type, bool, bool, tuple[str, ...]], ...]:
        return tuple((f.name, f.type, f.required, f.nullable, f.choices) for f in self.fields)

    def read(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The declared fields of ``args``, checked; timestamps as milliseconds. Undeclared ones are left out.

        Raises:
            InvalidEvent: with the name of the field at fault.
        """
        values: dict[str, Any] = {}
        for name, kind, required, nullable, choices in self._checks:
            value = args.get(name)
            if value is None:
                if (required and name not in args) or (not nullable and name in args):
                    what = "is missing" if name not in args else "may not be null"
                    raise InvalidEvent(f"{self.name}: the field {name!r} {what}.", field=name)
                values[name] = None
            elif type(value) is str and kind in ("text", "id"):
                if "\0" in value:
                    raise InvalidEvent(f"{self.name}: the field {name!r} holds a NUL character.", field=name)
                if kind == "id" and not 0 < len(value) <= MAX_ID_CHARS:
                    raise InvalidEvent(
                        f"{self.name}: the field {name!r} must have 1 to {MAX_ID_CHARS} characters.",
                        field=name,
                    )
                if choices and value not in choices:
                    allowed = ", ".join(choices)
                    raise InvalidEvent(
                        f"{self.name}: the field {name!r} must be one of {allowed}.", field=name
                    )
                values[name] = value
            else:
                values[name] = _convert(self.name, name, kind, value)
        return values

    @cached_property
    def adjusted(self) -> tuple[Field, ...]:
        """The fields that may be written in another form than they were given in."""
        return tuple(f for f in self.fields if f.type == "timestamp" or f.blank is not msgspec.NODEFAULT)

    def unknown(self, args: Mapping[str, Any]) -> str | None:
        """The name of a field in ``args`` that the type does not have, or None."""
        if self._names.issuperset(args):
            return None
        return next(name for name in args if name not in self._names)


def _convert(event: str, name: str, kind: Type, value: Any) -> Any:
    """A field's value that is not plain text, checked."""
    if kind == "timestamp":
        return _milliseconds(event, name, value)
    if type(value) not in _PYTHON[kind]:
        article = "an" if kind in ("integer", "id") else "a"
        wanted = {"id": "id (text)", "text": "text", "json": "text that holds JSON"}.get(kind, kind)
        shown = {str: "text", dict: "an object", list: "a list", bool: "a boolean"}.get(
            type(value), "a number"
        )
        article = "" if kind in ("text", "json") else article + " "
        raise InvalidEvent(f"{event}: the field {name!r} must be {article}{wanted}, not {shown}.", field=name)
    if kind == "json":
        if too_deep(value):
            raise InvalidEvent(
                f"{event}: the field {name!r} is nested more than {MAX_DEPTH} deep.", field=name
            )
        try:
            value = clean_json(value)
        except ValueError:
            raise InvalidEvent(
                f"{event}: the field {name!r} must be text that holds JSON.", field=name
            ) from None
        if _NUL.search(value):
            raise InvalidEvent(f"{event}: the field {name!r} holds a NUL character.", field=name)
    elif (type(value) is int and not -_INT64 <= value < _INT64) or (
        type(value) is float and not math.isfinite(value)
    ):
        raise InvalidEvent(f"{event}: the field {name!r} is out of range.", field=name)
    return value


def _milliseconds(event: str, name: str, value: Any) -> int:
    try:
        if type(value) is str and _ISO.fullmatch(value):
            moment = datetime.fromisoformat(value)
            value = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
        if type(value) in (int, float) and MIN_TIME <= value <= MAX_TIME:
            milliseconds: int = round(value)
            return milliseconds
    except ValueError:  # no such day
        pass
    raise InvalidEvent(
        f"{event}: the field {name!r} must be a time: ISO-8601 text or milliseconds since 1970.", field=name
    )


@dataclass(frozen=True)
class Schema:
    """Tables, event types and a version.

    The version is raised by the author whenever a materializer changes: functions cannot be hashed in a way that
    is the same everywhere.
    """

    version: int
    table_list: tuple[Table, ...]
    event_list: tuple[EventType, ...]
    tables: Mapping[str, Table] = field(init=False, repr=False, compare=False)
    events: Mapping[str, EventType] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", {table.name: table for table in self.table_list})
        object.__setattr__(self, "events", {event.name: event for event in self.event_list})
        seen = set(RESERVED)
        for table in self.table_list:
            if table.name.casefold() in seen:
                raise ValueError(f"The table {table.name!r} is declared twice or its name is reserved.")
            seen.add(table.name.casefold())
            columns = {column.name: column for column in table.columns}
            if len({name.casefold() for name in columns}) != len(table.columns):
                raise ValueError(f"The table {table.name!r} has a column twice (names match without case).")
            for name in (table.key, table.group, table.tally):
                if name is not None and (name not in columns or _PYTHON[columns[name].type] != (str,)):
                    raise ValueError(f"{table.name}: {name!r} must be one of its text columns.")
            if table.group and ("seq" not in columns or columns["seq"].type != "integer"):
                raise ValueError(f"{table.name}: a table read by group needs an integer column 'seq'.")
        if len(self.events) != len(self.event_list):
            raise ValueError("An event type is declared twice.")
        for event in self.event_list:
            for table_name, name in (*((event.unique,) if event.unique else ()), *event.requires):
                if table_name not in self.tables or name not in event._names:
                    raise ValueError(
                        f"{event.name}: the rule ({table_name!r}, {name!r}) names nothing there."
                    )

    def extend(
        self, *, version: int, tables: Sequence[Table] = (), events: Sequence[EventType] = ()
    ) -> Schema:
        """This schema with further tables and event types.

        Args:
            version: of the extension; it is combined with this schema's own.
            tables: to add.
            events: to add.
        """
        return replace(
            self,
            version=self.version * 1_000_000 + version,
            table_list=(*self.table_list, *tables),
            event_list=(*self.event_list, *events),
        )

    @cached_property
    def hash(self) -> str:
        """64 hex digits over the declarations and the version, the same on every machine."""
        declared = {
            "version": self.version,
            "tables": [
                [t.name, t.key, t.group, t.tally, t.sized]
                + [[c.name, c.type, c.default, c.nullable] for c in t.columns]
                for t in self.table_list
            ],
            "events": [
                [e.name, e.unique, e.requires]
                + [[f.name, f.type, f.required, f.nullable, f.choices] for f in e.fields]
                for e in self.event_list
            ],
        }
        return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()

    def validate(self, name: object, args: object) -> dict[str, Any]:
        """Check an event for a strict entrance (REST, Python, the agent).

        Returns:
            The declared fields as tables will have them: times as milliseconds, lone surrogates replaced.

        Raises:
            InvalidEvent: an unknown type, or a field that is missing, unknown or wrong.
        """
        kind = self.events.get(name) if isinstance(name, str) else None
        if kind is None:
            known = ", ".join(self.events)
            raise InvalidEvent(f"There is no event type {str(name)[:80]!r}; there are {known}.", field="name")
        if type(args) is not dict and not isinstance(args, Mapping):  # asking about Mapping is slow
            raise InvalidEvent(f"{name}: the fields must be an object.", field="args")
        if (unknown := kind.unknown(args)) is not None:
            raise InvalidEvent(f"{name} has no field {str(unknown)[:80]!r}.", field=str(unknown)[:80])
        return kind.read(
            {
                key: value if type(value) is str and value.isascii() else replace_surrogates(value)
                for key, value in args.items()
            }
        )
