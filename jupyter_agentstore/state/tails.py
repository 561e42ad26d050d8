"""The ends of groups of rows that are read again and again (a conversation's messages), kept in memory.

What belongs here: a cache, bounded in bytes, that follows the changes of rows it is told of. Where the rows come from
is decided elsewhere.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections import OrderedDict

from ..core.operations import Row, RowChange
from ..core.schema import Table

KEEP = 200
"""Rows that a group's tail is cut back to when it has grown to twice as many."""

_ROW_BYTES = 700  # of a row besides its text: the dict, the numbers


class Tail:
    """The last rows of one group, in their order.

    Args:
        table: whose rows they are.
        rows: all of the group from ``first`` on, in any order; others are left out.
        first: None if these are all rows of the group.
        wanted: rows to keep at least.

    Attributes:
        rows: in the order of ``place``.
        floor: all rows of the group from this place on are here; None when all of them are.
        bytes: what they take, about.
    """

    def __init__(self, table: Table, rows: list[Row], first: Row | None = None, wanted: int = KEEP) -> None:
        self._key = table.key
        self.rows = sorted(rows, key=self.place)
        self.floor = self.place(first) if first else None
        if self.floor is not None:
            del self.rows[: bisect_left(self.rows, self.floor, key=self.place)]
        self.wanted = max(wanted, KEEP)
        self.bytes = sum(map(_bytes, self.rows))

    def place(self, row: Row) -> tuple[int, str]:
        """Where a row stands in its group."""
        return (row["seq"] if row["seq"] is not None else -(2**63), row[self._key])

    def add(self, row: Row) -> None:
        place = self.place(row)
        if self.floor is not None and place < self.floor:
            return
        if not self.rows or self.place(self.rows[-1]) < place:
            self.rows.append(row)
        else:
            insort(self.rows, row, key=self.place)
        self.bytes += _bytes(row)
        if len(self.rows) > 2 * self.wanted:
            for gone in self.rows[: -self.wanted]:
                self.bytes -= _bytes(gone)
            del self.rows[: -self.wanted]
            self.floor = self.place(self.rows[0])

    def remove(self, row: Row) -> None:
        place = self.place(row)
        index = bisect_left(self.rows, place, key=self.place)
        if index < len(self.rows) and self.place(self.rows[index]) == place:
            self.bytes -= _bytes(self.rows[index])
            del self.rows[index]

    def read(self, after: int | None, limit: int) -> list[Row] | None:
        """What ``State.tail`` answers, or None if the rows kept do not say."""
        rows = self.rows
        if after is None:
            return rows[-limit:] if self.floor is None or len(rows) >= limit else None
        if self.floor is None or self.floor <= (after + 1, ""):
            first = bisect_left(rows, after + 1, key=lambda row: self.place(row)[0])
            return rows[first : first + limit]
        return None


class Tails:
    """The tails of the groups used last.

    Args:
        limit: bytes that all of them may take, about.
    """

    def __init__(self, limit: int = 32_000_000) -> None:
        self._tails: OrderedDict[tuple[str, str], Tail] = OrderedDict()
        self._limit = limit
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._tails)

    def get(self, table: str, group: str) -> Tail | None:
        tail = self._tails.get((table, group))
        if tail is not None:
            self._tails.move_to_end((table, group))
        return tail

    def put(self, table: str, group: str, tail: Tail) -> None:
        """Keep a group's tail, unless it is too large by itself."""
        self._drop((table, group))
        if tail.bytes > self._limit // 2:
            return
        self._tails[table, group] = tail
        self._bytes += tail.bytes
        self._shrink()

    def follow(self, table: Table, change: RowChange) -> None:
        """Do to the tails what happened to a row."""
        column = table.group or ""
        if change.before is not None:
            self._change(table, change.before[column], change.before, add=False)
        if change.after is not None:
            self._change(table, change.after[column], change.after, add=True)

    def clear(self) -> None:
        self._tails.clear()
        self._bytes = 0

    def _change(self, table: Table, group: str | None, row: Row, *, add: bool) -> None:
        tail = self._tails.get((table.name, group or ""))
        if tail is None or group is None:
            return
        before = tail.bytes
        (tail.add if add else tail.remove)(row)
        self._bytes += tail.bytes - before
        if self._bytes > self._limit:
            self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._limit and self._tails:
            self._drop(next(iter(self._tails)))

    def _drop(self, place: tuple[str, str]) -> None:
        tail = self._tails.pop(place, None)
        if tail is not None:
            self._bytes -= tail.bytes


def _bytes(row: Row) -> int:
    return _ROW_BYTES + sum(sys.getsizeof(value) for value in row.values() if type(value) is str)
