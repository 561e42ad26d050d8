"""The tables as they stand after the last applied event: what is in the file, and over it what is not yet.

What belongs here: applying events, and answering what a row is. Nothing is written; rows that only the file has come
from a function.  Not safe by itself: its owner's lock is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..core.events import Event
from ..core.operations import Insert, Operation, Row, RowChange, Upsert, apply
from ..core.schema import Schema
from .keys import KeyIndex
from .overlay import Batch, Counters, RowCache
from .reading import Reading, failure, read
from .tables import COMMITS, Layout
from .tails import KEEP, Tail, Tails


class File:
    """What the memory asks of the file."""

    def fetch(self, table: str, keys: Sequence[str]) -> list[Row]:
        """The rows with these keys."""
        raise NotImplementedError

    def keys(self, table: str) -> Iterator[Sequence[str]]:
        """All keys of a table, in chunks."""
        raise NotImplementedError

    def tail(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        """The last rows of a group, the last one first; ``after`` says nothing."""
        raise NotImplementedError

    def after(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        """The first rows of a group past a ``seq``."""
        raise NotImplementedError


class _Place:
    """A table's part of the memory.

    Attributes:
        layout: of the table.
        rows: by key, those changed since the last seal; None where one is gone.
        stale: the keys among these whose row is in the file, or will be before these are written.
        near: while events are applied: the rows that they name as they were before; None where there was none.
        cache: rows that are in the file.
        index: the keys of all rows; made when first needed.
    """

    __slots__ = ("cache", "index", "key", "layout", "near", "rows", "stale", "table")

    def __init__(self, layout: Layout, index: KeyIndex | None) -> None:
        self.layout = layout
        self.table = layout.table
        self.key = layout.table.key
        self.rows: dict[str, Row | None] = {}
        self.stale: set[str] = set()
        self.near: dict[str, Row | None] = {}
        self.cache = RowCache()
        self.index = index


class Memory:
    """Applies events.

    Args:
        schema: whose tables these are.
        layouts: of the tables, with that of the commits.
        file: what has been written.
        counters: of what has been written.
        empty: whether nothing has.

    Attributes:
        counters: as of the last applied event.
        open: changes since the last :meth:`seal`.
        sealed: changes that are being written.
        sealed_counters: the counters as of these, as JSON text.
    """

    def __init__(
        self, schema: Schema, layouts: Mapping[str, Layout], file: File, counters: Counters, *, empty: bool
    ) -> None:
        self.schema = schema
        self.layouts = layouts
        self.sealed: Batch | None = None
        self._file = file
        self._tails = Tails()
        self._forget(counters, empty=empty)

    def _forget(self, counters: Counters, *, empty: bool = False) -> None:
        self.counters = counters
        self.sealed_counters = counters.dump()
        self.sealed = None
        self._tails.clear()
        self._places = {
            name: _Place(layout, KeyIndex() if empty else None) for name, layout in self.layouts.items()
        }
        self._open()

    def _open(self) -> None:
        self.open = Batch(self.layouts)
        for name, place in self._places.items():
            place.rows = self.open.rows[name]
            place.stale = self.open.stale[name]

    # ---- applying

    def apply(self, events: Sequence[Event], refused: Mapping[int, str]) -> list[RowChange]:
        """Apply events in order.

        Args:
            events: they follow the ones applied before.
            refused: by ``seq``, why an event is an anomaly whatever it says.
        """
        schema = self.schema
        readings = [read(event, schema) for event in events]
        self._approach(readings)
        changes: list[RowChange] = []
        batch = self.open
        batch.events += events
        batch.twins += [reading.twin for reading in readings]
        for reading in readings:
            seq = reading.twin[0]
            reason = refused.get(seq, reading.reason)
            if not reason:
                reason = self._operate(reading.operations, seq, changes)
            if reason:
                batch.anomalies.append((seq, reading.twin[3], reason, reading.twin[1]))
            if reading.commit is not None:
                self._note_commit(reading.commit, seq)
        for place in self._places.values():
            place.near.clear()
        return changes

    def _operate(self, operations: Sequence[Operation], seq: int, changes: list[RowChange]) -> str:
        """Do an event's operations and add the changes to the list; why it is an anomaly, or ''."""
        places = self._places
        try:
            made = apply(operations, self.schema, self.find, seq)
            if not made and operations and not apply(operations[:1], self.schema, self.find, seq):
                return self._no_effect(operations[0])
            # Of every row, also of those whose size nobody asks for: it says whether the row can be written.
            sizes = [places[c.table].layout.size(c.after) if c.after is not None else 0 for c in made]
        except UnicodeEncodeError:
            return "The materializer made text that is not Unicode (a lone surrogate)."
        except Exception as error:
            return failure(error)
        for change, size in zip(made, sizes, strict=True):
            self._record(places[change.table], change, size)
        changes += made
        return ""

    def _no_effect(self, operation: Operation) -> str:
        table = operation.table
        if isinstance(operation, (Insert, Upsert)):
            key = operation.row[self.schema.tables[table].key]
            return f"The table {table} has a row {key[:80]!r} already."
        if self.find(table, operation.key) is None:
            return f"The table {table} has no row {operation.key[:80]!r}."
        return f"The row {operation.key[:80]!r} of the table {table} does not meet the condition."

    def _record(self, place: _Place, change: RowChange, size: int) -> None:
        """Note a change; ``size`` is that of the row after it."""
        table = place.table
        key, before, after = change.key, change.before, change.after
        if before is None:
            self.counters.counts[table.name] += 1
            if place.index is not None:
                place.index.add(key)
        else:
            if key not in place.rows:
                place.stale.add(key)
            if after is None:
                self.counters.counts[table.name] -= 1
                if place.index is not None:
                    place.index.remove(key)
        place.rows[key] = after
        if table.sized:
            if before is not None:
                size -= place.layout.size(before)
            self.counters.sizes[table.name] += size
        if table.tally:
            self.counters.tally(table, before, after)
        if table.group and self._tails:
            self._tails.follow(table, change)

    def _note_commit(self, commit: tuple[str, str, str], seq: int) -> None:
        """Count an event to its commit, whose events follow each other without a gap."""
        key, actor, commit_id = commit
        before = self.find(COMMITS, key)
        if before is None:
            after = {"id": key, "actor": actor, "commitId": commit_id, "seq": seq, "count": 1}
        elif before["seq"] + before["count"] == seq:
            after = {**before, "count": before["count"] + 1}
        else:
            return
        self._record(self._places[COMMITS], RowChange(COMMITS, key, before, after, seq), 0)

    # ---- rows

    def find(self, table: str, key: str) -> Row | None:
        """The row as of the last applied event."""
        place = self._places[table]
        if key in place.rows:
            return place.rows[key]
        if key in place.near:
            return place.near[key]
        known, row = self._look(place, key)
        if known or key not in self._index(place):
            return row
        found = self._file.fetch(table, [key])
        if found:
            place.cache.put(key, found[0])
            return found[0]
        return None

    def _look(self, place: _Place, key: str) -> tuple[bool, Row | None]:
        """The row of a key that is not among the changed ones, if it is known without asking the file."""
        if self.sealed is not None:
            rows = self.sealed.rows[place.table.name]
            if key in rows:
                return True, rows[key]
        row = place.cache.get(key)
        return row is not None, row

    def has(self, table: str, key: str) -> bool:
        """Whether the row is there (in error once in 10^13 times, then true)."""
        place = self._places[table]
        if key in place.rows:
            return place.rows[key] is not None
        return key in self._index(place)

    def _approach(self, readings: Iterable[Reading]) -> None:
        """Have at hand all rows that the events name: one query a table for those that only the file has."""
        places = self._places
        wanted: dict[str, set[str]] = {name: set() for name in places}
        for reading in readings:
            for operation in reading.operations:
                try:
                    kind = type(operation)
                    of_row = kind is Insert or kind is Upsert
                    key = operation.row[places[operation.table].key] if of_row else operation.key  # type: ignore[union-attr]
                    wanted[operation.table].add(key)
                except Exception:  # noqa: S112 -- it is judged when it is applied
                    continue
            if reading.commit is not None:
                wanted[COMMITS].add(reading.commit[0])
        for table, keys in wanted.items():
            if not keys:
                continue
            place = places[table]
            unknown = []
            for key in keys.difference(place.rows):
                known, row = self._look(place, key)
                if known:
                    place.near[key] = row
                elif type(key) is str:
                    unknown.append(key)
            if unknown:
                place.near.update(dict.fromkeys(unknown))
                there = self._index(place).among(unknown)
                if there:
                    place.near.update((row[place.key], row) for row in self._file.fetch(table, there))

    def _index(self, place: _Place) -> KeyIndex:
        if place.index is None:
            name = place.table.name
            place.index = KeyIndex(self._file.keys(name))
            for batch in (self.sealed, self.open):
                for key, row in batch.rows[name].items() if batch else ():
                    there = key in place.index
                    if row is None and there:
                        place.index.remove(key)
                    elif row is not None and not there:
                        place.index.add(key)
        return place.index

    def tail(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        """See ``State.tail``."""
        known = self._tails.get(table, group)
        found = known.read(after, limit) if known else None
        if found is not None:
            return found
        declared = self.schema.tables[table]
        touched = sum(len(batch.stale[table]) for batch in (self.open, self.sealed) if batch)
        wanted = (limit if after else max(limit, KEEP)) + touched
        fetch = self._file.after if after else self._file.tail
        rows = fetch(table, group, after, wanted)
        merged = {row[declared.key]: row for row in rows}
        for batch in (self.sealed, self.open):
            for key, row in batch.rows[table].items() if batch else ():
                if row is not None and row[declared.group or ""] == group:
                    merged[key] = row
                else:
                    merged.pop(key, None)
        if after:
            passed = [row for row in merged.values() if (row["seq"] or 0) > after]
            return Tail(declared, passed).rows[:limit]
        tail = Tail(declared, list(merged.values()), rows[-1] if len(rows) == wanted else None, limit)
        self._tails.put(table, group, tail)
        return tail.rows[-limit:]

    # ---- writing

    def seal(self) -> Batch | None:
        """Set apart what is to be written next; None if nothing is. What was sealed before goes first."""
        if self.sealed is None and self.open.events:
            self.sealed = self.open
            self.sealed_counters = self.counters.dump()
            self._open()
        return self.sealed

    def written(self) -> None:
        """What was sealed is in the file."""
        sealed, self.sealed = self.sealed, None
        for name, rows in sealed.rows.items() if sealed else ():
            place = self._places[name]
            for key in rows if place.table.group is None else rows.keys() & place.cache.keys():
                place.cache.put(key, rows[key])

    def reset(self, counters: Counters) -> list[Event]:
        """Forget everything that is not in the file; the events whose effect that was."""
        events = [*(self.sealed.events if self.sealed else ()), *self.open.events]
        self._forget(counters)
        return events
