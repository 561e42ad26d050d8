"""One table's part of the memory: what has changed in it, what is known of it without looking.

What belongs here: bookkeeping for one table. What an event does, and where rows come from, is decided elsewhere.
"""

from __future__ import annotations

from typing import Any

from ..core.operations import Row, RowChange
from .keys import KeyIndex
from .overlay import Changes, Counters, RowCache
from .tables import Layout


class Place:
    """A table's part of the memory.

    Attributes:
        layout: of the table.
        changes: what has become of its rows since the last seal.
        rows: the same by key; None where one is gone.
        near: while events are applied: the rows that they name as they were before.
        cache: rows that are in the file.
        index: the keys of the rows in the file; made when first needed.
        count: how many rows there are.
        size: the bytes of these as JSON.
        tally: how many of them have each value of the tally column.
        come, gone: rows that :meth:`settle` has yet to reckon with.
    """

    def __init__(self, layout: Layout, counters: Counters, index: KeyIndex | None) -> None:
        self.name = name = layout.table.name
        self.layout = layout
        self.table = layout.table
        self.key = layout.table.key
        self.tally_by = layout.table.tally
        self.sized = layout.table.sized
        self.grouped = layout.table.group is not None
        self.changes = Changes()
        self.rows = self.changes.rows
        self.near: dict[str, Row] = {}
        self.cache = RowCache()
        self.index = index
        self.count = counters.counts.get(name, 0)
        self.tally = counters.tallies.get(name, {})
        self.come: list[Row] = []
        self.gone: list[Row] = []
        self.size = counters.sizes.get(name, 0)

    def record(self, key: str, before: Row | None, after: Row | None) -> None:
        """Note what has become of a row."""
        changes = self.changes
        if key in changes.rows:
            changes.repeat()
        else:
            if before is not None:
                changes.stale.add(key)
            if changes.fresh is not None and after is not None:
                changes.fresh.append(after.values())
        changes.rows[key] = after
        self._reckon(before, after)

    def _reckon(self, before: Row | None, after: Row | None) -> None:
        """Count a row that has changed."""
        if before is None:
            self.count += 1
        if after is None:
            self.count -= 1
        if after is not None:
            self.come.append(after)
        if before is not None and self.sized:
            self.gone.append(before)
        if self.tally_by:
            _count(self.tally, before and before[self.tally_by], -1)
            _count(self.tally, after and after[self.tally_by], 1)

    def shed(self, change: RowChange, *, changed: bool) -> None:
        """Forget a change that is in the file now; the first one of its row that has not been forgotten.

        Args:
            change: as it was recorded.
            changed: whether the row changes again, later.
        """
        changes, key = self.changes, change.key
        changes.repeat()
        changes.stale.discard(key)
        if not changed:
            changes.rows.pop(key, None)
        elif change.after is not None:
            changes.stale.add(key)
        self._reckon(change.after, change.before)

    def settle(self) -> None:
        """Reckon with the rows that have come and gone: it is cheaper for many at once.

        Raises:
            UnicodeEncodeError: there is text that no file takes.
        """
        growth = self.layout.size(self.come) - self.layout.size(self.gone)
        if self.sized:
            self.size += growth
        self.come.clear()
        self.gone.clear()


def _count(tally: dict[str, int], value: Any, by: int) -> None:
    if value is not None:
        count = tally.get(value, 0) + by
        if count:
            tally[value] = count
        else:
            del tally[value]
