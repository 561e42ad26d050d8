"""Pending events over a state's tables: what they do is kept in memory, and dropped when the log has moved.

What belongs here: what is visible where confirmed rows and pending ones meet. What an event does is said by
:mod:`~jupyter_agentstore.state.memory`, here as in a state; the difference is that what lies beneath is no file but
another state, which goes on meanwhile. Not safe by itself: its owner's lock is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..core.events import Event
from ..core.operations import Row, RowChange
from .keys import KeyIndex
from .memory import Effect, File, Memory
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
        effects: list[Effect] = []
        memory = None
        if events:
            memory = self._new_memory()
            memory.apply(events, {}, effects)
        self.events = list(events)
        self._memory = memory
        self._effects: list[Effect] = []
        self._changed: dict[Place, int] = {}  # by which event last
        self._named: dict[Place, int] = {}
        self._note(effects)

    def _new_memory(self) -> Memory:
        layouts, beneath = self._state.layouts, _Beneath(self._state)
        memory = Memory(self._state.schema, layouts, beneath, Counters(), empty=False)
        memory.careful = True
        return memory

    def _note(self, effects: Sequence[Effect]) -> None:
        """Note what further events did."""
        self._views: Views | None = None
        self._effects += effects
        changed = self._changed
        for effect in effects:
            for change in effect.changes:
                place = (change.table, change.key)
                changed.pop(place, None)
                changed[place] = effect.seq  # in the order of events
            for place in effect.named:
                self._named[place] = effect.seq

    def add(self, events: Sequence[Event]) -> list[RowChange]:
        """Lay further events over those that are pending.

        Returns:
            The rows that changed, in order.

        Raises:
            OSError: rows that they touch cannot be read; nothing has changed.
        """
        if not events:
            return []
        memory = self._memory or self._new_memory()
        effects: list[Effect] = []
        try:
            changes = memory.apply(events, {}, effects)
        except BaseException:
            if memory.torn:
                self.reset(self.events)
            raise
        self._memory = memory
        self.events += events
        self._note(effects)
        return changes

    def follow(
        self, changes: Sequence[RowChange], confirmed: int = 0, events: Sequence[Event] | None = None
    ) -> list[RowChange]:
        """What becomes visible when the state has changed beneath.

        Args:
            changes: what :meth:`State.apply` said.
            confirmed: how many of the first pending events are in the state now.
            events: what is pending from now on; None for the rest, numbered as before.

        Returns:
            Each row that looks different now, once, as it was seen and as it is seen; in the order of events.

        Raises:
            OSError: rows cannot be read.
        """
        if events is None and self._memory is None:
            return list(changes)
        first: dict[Place, RowChange] = {}
        last: dict[Place, RowChange] = {}
        for change in changes:
            place = (change.table, change.key)
            first.setdefault(place, change)
            last[place] = change
        effects = self._effects[:confirmed]
        if events is None and self._stands(first, last, effects):
            own = {(change.table, change.key) for effect in effects for change in effect.changes}
            asked = [*first, *sorted(own - first.keys())]
            hid = self._rows(asked)
            self._shed(effects)
            hides = self._rows(asked)
        else:
            hid = self._rows()
            self.reset(self.events[confirmed:] if events is None else events)
            hides = self._rows()
            asked = [place for place in first if place not in self._changed]
            asked += self._changed
            asked += hid
        visible = []
        for place in dict.fromkeys(asked):
            beneath = now = None
            seq = self._changed.get(place, self._state.applied)
            if place in first:
                beneath, now = first[place].before, last[place].after
                seq = self._changed.get(place, last[place].seq)
            elif place not in hid or place not in hides:
                beneath = now = self._state.row(*place)
            before, after = hid.get(place, beneath), hides.get(place, now)
            if before != after:
                visible.append(RowChange(*place, before, after, seq))
        visible.sort(key=lambda change: change.seq)
        return visible

    def _stands(
        self, first: Mapping[Place, RowChange], last: Mapping[Place, RowChange], effects: Sequence[Effect]
    ) -> bool:
        """Whether the other events do what they did before these: nothing that they go by looks different.

        Args:
            first: by row, the first change beneath.
            last: likewise, the last one.
            effects: of the events that are confirmed.
        """
        seq = effects[-1].seq if effects else -1
        before = {place: change.before for place, change in first.items()}
        now = {place: change.after for place, change in last.items()}
        for effect in effects:
            for change in effect.changes:
                place = (change.table, change.key)
                now.setdefault(place, change.before)
                before[place] = change.after
        return all(before[place] == row for place, row in now.items() if self._named.get(place, -1) > seq)

    def _shed(self, effects: Sequence[Effect]) -> None:
        """Forget the first events, whose effect is in the state now."""
        if self._memory is None:
            return
        self._views = None
        seq = effects[-1].seq if effects else -1
        for effect in effects:
            for noted, places in (
                (self._changed, [(change.table, change.key) for change in effect.changes]),
                (self._named, effect.named),
            ):
                for place in places:
                    if noted.get(place, seq + 1) <= seq:
                        del noted[place]
        self._memory.shed(effects, self._changed)
        del self.events[: len(effects)]
        del self._effects[: len(effects)]
        if not self.events:
            self._memory = None

    def _rows(self, places: Collection[Place] | None = None) -> dict[Place, Row | None]:
        """What pending events have made of rows: of all, or of these."""
        if self._memory is None:
            return {}
        tables = self._memory.open.tables
        if places is not None:
            return {(name, key): tables[name].rows[key] for name, key in places if key in tables[name].rows}
        return {
            (name, key): row
            for name, changes in tables.items()
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


class _Beneath(File):
    """The confirmed tables, as memory asks for them."""

    def __init__(self, state: State) -> None:
        self._state = state

    def fetch(self, table: str, keys: Sequence[str]) -> list[Row]:
        return self._state.fetch(table, keys)

    def index(self, table: str) -> KeyIndex:
        return _Keys(self._state, table)

    def tail(self, table: str, group: str, limit: int) -> list[Row]:
        return self._state.tail(table, group, limit=limit)[::-1]

    def after(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        return self._state.tail(table, group, after=after, limit=limit)


class _Keys(KeyIndex):
    """The keys of a confirmed table."""

    def __init__(self, state: State, table: str) -> None:
        super().__init__()
        self._state = state
        self._table = table

    def __contains__(self, key: str) -> bool:
        return self._state.has(self._table, key)

    def among(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if self._state.has(self._table, key)]
