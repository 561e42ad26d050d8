"""What events have done that no file holds yet: changed rows, their twins, their anomalies, and the counters.

What belongs here: plain containers. Who fills and who writes them is decided elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, KeysView

import msgspec

from ..core.events import Event
from ..core.operations import Row

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


class Batch:
    """Changes that are written together.

    Attributes:
        rows: by table and key, the row as it is now; None where it is gone.
        stale: by table, the keys whose row is in the file as it was before.
        twins: rows of the table ``events``.
        anomalies: rows of the table ``anomalies``.
        events: what caused all this, to do it again.
        counters: as they are after it, as JSON text; set when nothing more is added.
    """

    def __init__(self, tables: Iterable[str]) -> None:
        self.rows: dict[str, dict[str, Row | None]] = {name: {} for name in tables}
        self.stale: dict[str, set[str]] = {name: set() for name in self.rows}
        self.twins: list[Twin] = []
        self.anomalies: list[Anomaly] = []
        self.events: list[Event] = []
        self.counters = ""


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
