"""Pending events over a state's tables: what they do is kept in memory, and dropped when the log has moved.

What belongs here: what is visible where confirmed rows and pending ones meet. What an event does is said by
:mod:`~jupyter_agentstore.state.memory`, here as in a state; the difference is that what lies beneath is no file but
another state, which goes on meanwhile. Not safe by itself: its owner's lock is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..core.events import Event
from ..core.operations import Row, RowChange
from .keys import KeyIndex
from .memory import File, Memory
from .overlay import Counters
from .state import State
from .tables import META
from .views import Views

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Place = tuple[str, str]
"""A table and a key."""

Lay = Callable[[Collection[str]], None]


class Pending:
    """What is visible of a state with pending events over it.

    Rows that are handed out are not to be changed. With nothing pending, everything is the state's own.

    Args:
        state: the confirmed tables.

    Attributes:
        events: what is pending, in order.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.reset(())

    # ---- in

    def reset(self, events: Sequence[Event]) -> None:
        """Forget what was pending, and lay these events over the state as it stands now.

        Raises:
            OSError: rows that they touch cannot be read; what was pending still is.
        """
        beneath = _Beneath(self._state)
        memory = None
        seqs: dict[Place, int] = {}
        if events:
            memory = Memory(self._state.schema, self._state.layouts, beneath, Counters(), empty=False)
            memory.careful = True
            _note(seqs, memory.apply(events, {}))
        self.events = list(events)
        self._beneath = beneath
        self._memory = memory
        self._seqs = seqs
        self._views: Views | None = None

    def add(self, events: Sequence[Event]) -> list[RowChange]:
        """Lay further events over those that are pending.

        Returns:
            The rows that changed, in order.

        Raises:
            OSError: rows that they touch cannot be read; nothing has changed.
        """
        if not events:
            return []
        if self._memory is None:
            self._memory = Memory(
                self._state.schema, self._state.layouts, self._beneath, Counters(), empty=False
            )
            self._memory.careful = True
        try:
            changes = self._memory.apply(events, {})
        except BaseException:
            if self._memory.torn or not self.events:
                self.reset(self.events)
            raise
        self.events += events
        self._views = None
        _note(self._seqs, changes)
        return changes

    def follow(self, changes: Sequence[RowChange], events: Sequence[Event] | None = None) -> list[RowChange]:
        """What becomes visible when the state has changed beneath.

        Args:
            changes: what :meth:`State.apply` said.
            events: what is pending from now on; None for the same as before.

        Returns:
            Each row that looks different now, once, as it was seen and as it is seen; in the order of events.

        Raises:
            OSError: rows cannot be read.
        """
        if events is None:
            if self._memory is None:
                return list(changes)
            if not self._beneath.asked(changes):  # nothing that pending events go by has changed
                self._memory.file_changed()
                return list(changes)
            events = self.events
        hid = self._rows()
        self.reset(events)
        hides = self._rows()
        first: dict[Place, RowChange] = {}
        last: dict[Place, RowChange] = {}
        for change in changes:
            place = (change.table, change.key)
            first.setdefault(place, change)
            last[place] = change
        visible = []
        confirmed = [place for place in first if place not in self._seqs]
        for place in dict.fromkeys((*confirmed, *self._seqs, *hid)):
            beneath = now = None
            seq = self._seqs.get(place, self._state.applied)
            if place in first:
                beneath, now = first[place].before, last[place].after
                seq = self._seqs.get(place, last[place].seq)
            elif place not in hid or place not in hides:
                beneath = now = self._state.row(*place)
            before = hid.get(place, beneath)
            after = hides.get(place, now)
            if before != after:
                visible.append(RowChange(*place, before, after, seq))
        visible.sort(key=lambda change: change.seq)
        return visible

    def _rows(self) -> dict[Place, Row | None]:
        """What pending events have made of rows."""
        if self._memory is None:
            return {}
        tables = self._memory.open.tables.items()
        return {
            (name, key): row
            for name, changes in tables
            if name in self._state.schema.tables
            for key, row in changes.rows.items()
        }

    # ---- out

    def row(self, table: str, key: str) -> Row | None:
        """See :meth:`State.row`."""
        if self._memory is not None:
            rows = self._memory.open.tables[table].rows
            if key in rows:
                row = rows[key]
                return dict(row) if row else None
        return self._state.row(table, key)

    def has(self, table: str, key: str) -> bool:
        """See :meth:`State.has`."""
        if self._memory is not None:
            rows = self._memory.open.tables[table].rows
            if key in rows:
                return rows[key] is not None
        return self._state.has(table, key)

    def count(self, table: str) -> int:
        """See :meth:`State.count`."""
        count = self._state.count(table)
        return count if self._memory is None else count + self._memory.count(table)

    def tally(self, table: str) -> dict[str, int]:
        """See :meth:`State.tally`."""
        tally = self._state.tally(table)
        if self._memory is None:
            return tally
        total = Counter(tally)
        total.update(self._memory.tally(table))
        return {value: count for value, count in total.items() if count}

    def size(self, table: str) -> int:
        """See :meth:`State.size`."""
        size = self._state.size(table)
        return size if self._memory is None else size + self._memory.size(table)

    def tail(self, table: str, group: str, *, after: int | None = None, limit: int = 200) -> list[Row]:
        """See :meth:`State.tail`."""
        if self._memory is None or limit < 1:
            return self._state.tail(table, group, after=after, limit=limit)
        return [dict(row) for row in self._memory.tail(table, group, after, limit)]

    @contextmanager
    def reader(self) -> Iterator[tuple[DuckDBPyConnection, Lay | None]]:
        """A cursor on what is visible now, for one reader.

        The state must have been flushed. Entering and the flush before it are under the owner's lock; what is done
        with the cursor, and leaving, need not be.

        Returns:
            The cursor; and None if nothing is pending. Otherwise it is in a read-only transaction that sees the
            tables as they are now, whatever is written meanwhile, and the function lays what is pending over tables:
            it is to be called once, with the names of those that will be read.
        """
        if self._memory is None:
            with self._state.reader() as cursor:
                yield cursor, None
            return
        if self._views is None:
            self._views = Views(self._state, self._memory.open)
        views = self._views
        registered: list[str] = []
        with self._state.reader() as cursor:
            cursor.execute("begin transaction read only").fetchall()
            try:
                # DuckDB begins a transaction on a file when it is first read.
                cursor.execute(f"select applied from {self._state.catalog}.main.{META}").fetchall()
                yield cursor, lambda tables: views.lay(cursor, tables, registered)
            finally:
                with suppress(Exception):  # the views go with the transaction
                    cursor.rollback()
                for name in registered:
                    cursor.unregister(name)


def _note(seqs: dict[Place, int], changes: Sequence[RowChange]) -> None:
    """Note which event changed a row last, rows in that order."""
    for change in changes:
        place = (change.table, change.key)
        seqs.pop(place, None)
        seqs[place] = change.seq


class _Beneath(File):
    """The confirmed tables, as memory asks for them; it notes which keys pending events go by."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._indexes = {name: _Keys(state, name) for name in state.layouts}

    def asked(self, changes: Sequence[RowChange]) -> bool:
        """Whether any of these rows has been asked for."""
        return any(change.key in self._indexes[change.table].asked for change in changes)

    def fetch(self, table: str, keys: Sequence[str]) -> list[Row]:
        return self._state.fetch(table, keys)

    def index(self, table: str) -> KeyIndex:
        return self._indexes[table]

    def tail(self, table: str, group: str, limit: int) -> list[Row]:
        return self._state.tail(table, group, limit=limit)[::-1]

    def after(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        return self._state.tail(table, group, after=after, limit=limit)


class _Keys(KeyIndex):
    """The keys of a confirmed table.

    Attributes:
        asked: those that somebody wanted to know of.
    """

    def __init__(self, state: State, table: str) -> None:
        super().__init__()
        self._state = state
        self._table = table
        self.asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self.asked.add(key)
        return self._state.has(self._table, key)

    def among(self, keys: Sequence[str]) -> list[str]:
        self.asked.update(keys)
        return [key for key in keys if self._state.has(self._table, key)]
