"""Views that lay pending rows over a state's tables, for the time of one query.

What belongs here: the SQL of it. What is pending, and which query it is, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .overlay import Batch
from .tables import ANOMALIES, EVENTS, Layout, quote

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection

    from .state import State

_ROWS, _GONE = "agentstore_rows_of_", "agentstore_gone_from_"
_FIRST = '"agentstore first"'
"""A column that costs nothing: a count over a union reads its first column, which would be a text of each row."""

_COUNTED = ("messages", "conversations")  # by the view "agentState", which finds the views by their names


def underlying(tables: Collection[str]) -> frozenset[str]:
    """These tables, and those that a view among them counts."""
    return frozenset((*tables, *_COUNTED) if "agentState" in tables else tables)


class Over:
    """What lies over one table.

    Args:
        layout: of the table.
        gone: the keys of its rows that are hidden.
        rows: what is added to those that are left.
    """

    def __init__(self, layout: Layout, gone: pyarrow.Table | None, rows: pyarrow.Table | None) -> None:
        self.layout = layout
        self.gone = gone
        self.rows = rows


class Views:
    """What lies over the tables of a state; a value that does not change.

    Args:
        state: whose tables they are.
        batch: what has become of them.
    """

    def __init__(self, state: State, batch: Batch) -> None:
        import pyarrow

        self._catalog = state.catalog
        self._over: dict[str, Over] = {}
        for name, changes in batch.tables.items():
            layout = state.layouts[name]
            gone = None
            if changes.stale:
                keys = pyarrow.array(sorted(changes.stale), pyarrow.string())
                gone = pyarrow.table({layout.table.key: keys})
            rows = _table(layout, changes.packed, changes.rest())
            if gone is not None or rows is not None:
                self._over[name] = Over(layout, gone, rows)
        for layout, packed, more in ((EVENTS, batch.packed, batch.twins), (ANOMALIES, (), batch.anomalies)):
            rows = _table(layout, packed, more)
            if rows is not None:
                self._over[layout.table.name] = Over(layout, None, rows)

    def lay(self, cursor: DuckDBPyConnection, tables: Collection[str], registered: list[str]) -> None:
        """Have a cursor see them, as far as a statement reads these tables.

        Args:
            cursor: in a read-only transaction, with which the views go.
            tables: names, as they are declared.
            registered: gets the names of what is to be unregistered afterwards.
        """
        for name in sorted(underlying(tables) & self._over.keys()):
            self._lay(cursor, self._over[name], registered)

    def _lay(self, cursor: DuckDBPyConnection, over: Over, registered: list[str]) -> None:
        layout = over.layout
        query = f"select 0 as {_FIRST}, * from {self._catalog}.main.{layout.name}"
        for prefix, rows in ((_GONE, over.gone), (_ROWS, over.rows)):
            if rows is not None:
                name = prefix + layout.table.name
                cursor.register(name, rows)
                registered.append(name)
                query += (
                    f" anti join {quote(name)} using ({layout.key})"
                    if prefix == _GONE
                    else f" union all select 0, * from {quote(name)}"
                )
        query = f"select * exclude ({_FIRST}) from ({query})"
        cursor.execute(f"create temp view {layout.name} as {query}").fetchall()


def _table(
    layout: Layout, packed: Sequence[pyarrow.RecordBatch], more: Sequence[object]
) -> pyarrow.Table | None:
    """Rows as one table; None if there are none."""
    import pyarrow

    batches = [*packed, *([layout.arrow(more)] if more else ())]  # type: ignore[arg-type]
    return pyarrow.Table.from_batches(batches) if batches else None
