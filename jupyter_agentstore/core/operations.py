"""What a materializer may do to tables: five operations, each on one row named by its primary key.

What belongs here: the operations as values and the meaning of an event's list of them, as a pure function over
rows. Where rows come from and where they go is the caller's business.

The rule for an event's list: all or none. If the first operation has no effect (an insert of a key that is
there, an update of a row that is not, a condition that does not hold) nothing of the event applies and the event
is an anomaly; a later one without effect is simply without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .schema import Schema, Table

Row = dict[str, Any]
"""A table's row: column name to value; timestamps are whole milliseconds since 1970 UTC."""


class Insert(msgspec.Struct, gc=False):
    """Put a new row; the first of a key wins. Columns not given take their defaults."""

    table: str
    row: Row


class Upsert(msgspec.Struct, gc=False):
    """Put a row, in place of the one with its key if there is one."""

    table: str
    row: Row


class Update(msgspec.Struct, gc=False):
    """Set columns of the row with the key, if it is there and ``if_`` holds of it."""

    table: str
    key: str
    values: Row
    if_: Mapping[str, Any] | None = None


class Add(msgspec.Struct, gc=False):
    """Add to number columns of the row with the key, if it is there and ``if_`` holds of it."""

    table: str
    key: str
    values: Mapping[str, int | float]
    if_: Mapping[str, Any] | None = None


class Delete(msgspec.Struct, gc=False):
    """Remove the row with the key, if it is there and ``if_`` holds of it."""

    table: str
    key: str
    if_: Mapping[str, Any] | None = None


Operation = Insert | Upsert | Update | Add | Delete


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """One row before and after an event: None where it was not, or is no longer, there."""

    table: str
    key: str
    before: Row | None
    after: Row | None
    seq: int


class BadOperation(Exception):
    """A materializer's operation that its tables do not allow."""


def apply(
    operations: Sequence[Operation],
    schema: Schema,
    read: Callable[[str, str], Row | None],
    seq: int,
) -> list[RowChange]:
    """The changes that an event's operations make, none of them written yet.

    Args:
        operations: what the event's materializer returned.
        schema: whose tables they speak of.
        read: the row of a table and key as it stands before the event, or None.
        seq: the event's sequence number.

    Returns:
        At most one change per row, in the order of first touch; empty when the first operation has no effect.

    Raises:
        BadOperation: an operation does not fit its table.
    """
    tables = schema.tables
    done: dict[tuple[str, str], RowChange] = {}
    vanished = False  # a row came and went
    for operation in operations:
        table = tables.get(operation.table)
        if table is None:
            raise BadOperation(f"There is no table {operation.table!r}.")
        kind = type(operation)
        puts = kind is Insert or kind is Upsert  # isinstance would cost an event more than all else here
        key = operation.row.get(table.key) if puts else operation.key  # type: ignore[union-attr]
        if type(key) is not str:
            raise BadOperation(f"The key of {table.name} must be text, not {type(key).__name__}.")
        place = (table.name, key)
        earlier = done.get(place) if done else None
        before = read(table.name, key) if earlier is None else earlier.after
        if kind is Upsert or (kind is Insert and before is None):
            after: Row | None = table.complete(operation.row)  # type: ignore[union-attr]
        elif kind is Insert or before is None or not _holds(operation, before):
            if not done:  # it is the first
                return []
            continue
        else:
            after = _changed(operation, before, table)
        first = before if earlier is None else earlier.before
        vanished = vanished or (first is None and after is None)
        done[place] = RowChange(table.name, key, first, after, seq)
    if vanished:
        return [change for change in done.values() if change.before is not None or change.after is not None]
    return list(done.values())


def _holds(operation: Operation, row: Row) -> bool:
    """Whether the operation's condition holds of the row."""
    if not isinstance(operation, (Update, Add, Delete)):
        raise BadOperation(f"{type(operation).__name__} is no operation.")
    return not operation.if_ or all(row.get(name) == value for name, value in operation.if_.items())


def _changed(operation: Operation, before: Row, table: Table) -> Row | None:
    """The row after an update, an addition or a deletion."""
    if isinstance(operation, Update):
        values: Row = operation.values
    elif isinstance(operation, Add):
        values = {name: _sum(before.get(name), amount, name) for name, amount in operation.values.items()}
    else:
        return None
    if table.key in values and values[table.key] != before[table.key]:
        raise BadOperation(f"{table.name}: an update cannot change the key.")
    return table.check({**before, **values})


def _sum(value: Any, amount: Any, name: str) -> int | float:
    if type(value) not in (int, float) or type(amount) not in (int, float):
        raise BadOperation(f"{name}: only numbers can be added to.")
    total: int | float = value + amount
    return total
