"""What events have done that no file holds yet: changed rows, their twins, their anomalies, and the counters.

What belongs here: plain containers. Who fills and who writes them is decided elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.events import Event
from ..core.operations import Row
from .tables import EVENTS, Layout

if TYPE_CHECKING:
    import pyarrow

_PACK_AT = 500
"""Rows that are turned into Arrow while more are coming."""

Twin = tuple[int, int, str, str, str, str, str]
Anomaly = tuple[int, str, str, int]


class Counters(msgspec.Struct):
    """What is known of tables without looking; tables that are not named have no rows.

    Attributes:
        counts: rows of each table.
        tallies: for tables with a tally, how many rows have each of the column's values.
        sizes: for sized tables, the bytes of their rows as JSON.
    """

    counts: dict[str, int] = {}
    tallies: dict[str, dict[str, int]] = {}
    sizes: dict[str, int] = {}

    @classmethod
    def load(cls, text: str) -> Counters:
        return msgspec.json.decode(text, type=cls)

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()


class Changes:
    """What has become of a table's rows.

    Rows that come in great numbers are turned into Arrow soon, while they are in the processor's cache: later it
    takes several times as long. That holds for as long as none of them changes again.

    Attributes:
        rows: by key, the row as it is now; None where it is gone.
        stale: the keys whose row is in the file as it was before.
        packed: the first of the rows as Arrow.
        fresh: the values of the rows after these; None when a row has changed twice.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row | None] = {}
        self.stale: set[str] = set()
        self.packed: list[pyarrow.RecordBatch] = []
        self.fresh: list[ValuesView[Any]] | None = []

    def repeat(self) -> None:
        """A row changes that has changed already: what was made of these rows no longer holds."""
        if self.fresh is not None:
            self.fresh = None
            self.packed.clear()

    def pack(self, layout: Layout) -> None:
        """Turn what has come since the last time into Arrow, if it is much."""
        if self.fresh is not None and len(self.fresh) >= _PACK_AT:
            self.packed.append(layout.arrow(self.fresh))
            self.fresh.clear()

    def rest(self) -> list[ValuesView[Any]]:
        """The values of the rows that are not packed."""
        if self.fresh is not None:
            return self.fresh
        return [row.values() for row in self.rows.values() if row is not None]


class Batch:
    """Changes that are written together.

    Attributes:
        tables: what has become of each table's rows.
        twins: rows of the table ``events``.
        packed: more of them, as Arrow.
        anomalies: rows of the table ``anomalies``.
        events: what caused all this, to do it again.
        counters: as they are after it, as JSON text; set when nothing more is added.
    """

    def __init__(self, tables: Iterable[str]) -> None:
        self.tables = {name: Changes() for name in tables}
        self.twins: list[Twin] = []
        self.packed: list[pyarrow.RecordBatch] = []
        self.anomalies: list[Anomaly] = []
        self.events: list[Event] = []
        self.counters = ""

    def pack(self, layouts: Mapping[str, Layout]) -> None:
        """Turn what has come into Arrow where there is much of it; see :class:`Changes`."""
        if len(self.twins) >= _PACK_AT:
            self.packed.append(EVENTS.arrow(self.twins))
            self.twins = []
        for name, changes in self.tables.items():
            changes.pack(layouts[name])

    def shed(self, number: int, seq: int) -> None:
        """Forget the twins of the first events, so many of them, and the anomalies up to a ``seq``."""
        del self.events[:number]
        while number and self.packed:
            first = self.packed.pop(0)
            if first.num_rows > number:
                self.packed.insert(0, first.slice(number))
            number -= min(number, first.num_rows)
        del self.twins[:number]
        self.anomalies = [anomaly for anomaly in self.anomalies if anomaly[0] > seq]


class RowCache:
    """Rows of one table that are in the file, the least recently used ones forgotten.

    Args:
        limit: rows at most.
    """

    _MAX_CHARS = 8192  # of a row's text: a few long ones must not fill the memory

    def __init__(self, limit: int = 4096) -> None:
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self.limit = limit

    def keys(self) -> KeysView[str]:
        return self._rows.keys()

    def get(self, key: str) -> Row | None:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: str, row: Row | None) -> None:
        """Keep a row; None forgets it."""
        if row is None or sum(len(v) for v in row.values() if type(v) is str) > self._MAX_CHARS:
            self._rows.pop(key, None)
            return
        self._rows[key] = row
        self._rows.move_to_end(key)
        if len(self._rows) > self.limit:
            self._rows.popitem(last=False)
