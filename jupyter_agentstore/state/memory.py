"""The tables as they stand after the last applied event: what is in the file, and over it what is not yet.

What belongs here: applying events, and answering what a row is. Nothing is written; rows that only the file has come
from a function. Not safe by itself: its owner's lock is.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from ..core.events import Event
from ..core.operations import Delete, Insert, Operation, Row, RowChange, Upsert, apply
from ..core.schema import Schema
from .keys import KeyIndex
from .overlay import Batch, Counters, RowCache
from .place import Place
from .reading import Reading, clean, failure, read
from .tables import COMMITS, Layout
from .tails import KEEP, Tail, Tails

_SLICE = 500
"""Events that are applied together: what they need stays in the processor's cache, which saves much of the time."""


class Effect(msgspec.Struct, gc=False):
    """What an event did.

    Attributes:
        seq: of the event.
        changes: of rows.
        named: the rows by which it went, changed or not: table and key.
    """

    seq: int
    changes: list[RowChange]
    named: list[tuple[str, str]]


class File:
    """What the memory asks of the file."""

    def fetch(self, table: str, keys: Sequence[str]) -> list[Row]:
        """The rows with these keys."""
        raise NotImplementedError

    def keys(self, table: str) -> Iterator[Sequence[str]]:
        """All keys of a table, in chunks."""
        raise NotImplementedError

    def index(self, table: str) -> KeyIndex:
        """Which keys a table has."""
        return KeyIndex(self.keys(table))

    def tail(self, table: str, group: str, limit: int) -> list[Row]:
        """The last rows of a group, the last one first."""
        raise NotImplementedError

    def after(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        """The first rows of a group past a ``seq``."""
        raise NotImplementedError


class Memory:
    """Applies events.

    Args:
        schema: whose tables these are.
        layouts: of the tables, with that of the commits.
        file: what has been written.
        counters: of what has been written.
        empty: whether nothing has.

    Attributes:
        open: changes since the last :meth:`seal`.
        sealed: changes that are being written.
        torn: :meth:`apply` was interrupted in the middle, and only :meth:`reset` helps.
        careful: look at each event by itself for text that no file takes.
    """

    def __init__(
        self, schema: Schema, layouts: Mapping[str, Layout], file: File, counters: Counters, *, empty: bool
    ) -> None:
        self.schema = schema
        self.layouts = layouts
        self._file = file
        self._tails = Tails()
        self.careful = False
        self._forget(counters, empty=empty)

    def _forget(self, counters: Counters, *, empty: bool = False) -> None:
        self.sealed: Batch | None = None
        self._tails.clear()
        self._applying = self.torn = False
        self._places = {
            name: Place(layout, counters, KeyIndex() if empty else None)
            for name, layout in self.layouts.items()
        }
        self._declared = {name: place for name, place in self._places.items() if name != COMMITS}
        self._open()

    def _open(self) -> None:
        self.open = Batch(self.layouts)
        for name, place in self._places.items():
            place.changes = self.open.tables[name]
            place.rows = place.changes.rows

    # ---- applying

    def apply(
        self, events: Sequence[Event], refused: Mapping[int, str], effects: list[Effect] | None = None
    ) -> list[RowChange]:
        """Apply events in order.

        Args:
            events: they follow the ones applied before.
            refused: by ``seq``, why an event is an anomaly whatever it says.
            effects: gets what each event did.

        Raises:
            UnicodeEncodeError: an event makes text that no file takes; not when ``careful``.
        """
        changes: list[RowChange] = []
        for start in range(0, len(events), _SLICE):
            self._apply(events[start : start + _SLICE], refused, changes, effects)
        self.torn = False
        return changes

    def _apply(
        self,
        events: Sequence[Event],
        refused: Mapping[int, str],
        changes: list[RowChange],
        effects: list[Effect] | None,
    ) -> None:
        readings = read(events, self.schema)
        self._approach(readings)
        batch = self.open
        batch.events += events
        batch.twins += [reading.twin for reading in readings]
        self._applying = self.torn = True
        for reading in readings:
            seq = reading.twin[0]
            done = len(changes)
            reason = refused.get(seq, reading.reason) or self._operate(reading.operations, seq, changes)
            if reason:
                batch.anomalies.append((seq, reading.twin[3], clean(reason), reading.twin[1]))
            if reading.commit is not None:
                self._note_commit(reading.commit, seq)
            if effects is not None:
                effects.append(Effect(seq, changes[done:], list(self._named(reading))))
        self._applying = False
        for place in self._places.values():
            if place.come or place.gone:
                place.settle()
        batch.pack(self.layouts)

    def _operate(self, operations: Sequence[Operation], seq: int, changes: list[RowChange]) -> str:
        """Do an event's operations and add the changes to the list; why it is an anomaly, or ''."""
        try:
            made = self._put(operations, seq)
            if made is None:
                made = apply(operations, self.schema, self.find, seq)
                if not made and operations and not apply(operations[:1], self.schema, self.find, seq):
                    return self._no_effect(operations[0])
            if self.careful:
                for change in made:
                    self._places[change.table].layout.size([change.after] if change.after else [])
        except MemoryError:
            raise
        except UnicodeEncodeError:
            return "The materializer made text that is not Unicode (a lone surrogate)."
        except Exception as error:
            return failure(error)
        for change in made:
            place = self._places[change.table]
            place.record(change.key, change.before, change.after)
            if place.grouped and self._tails:
                self._tails.follow(place.table, change)
        changes += made
        return ""

    def _put(self, operations: Sequence[Operation], seq: int) -> list[RowChange] | None:
        """What :func:`~jupyter_agentstore.core.operations.apply` says of the usual event, at a third of the cost.

        That is one whose first operation puts a row, and whose second one, if any, puts or removes one of another
        table. None for every other event.
        """
        if len(operations) > 2 or (len(operations) == 2 and operations[0].table == operations[1].table):
            return None
        made: list[RowChange] = []
        for operation in operations:
            place = self._declared.get(operation.table)
            if place is None:
                return None
            kind = type(operation)
            if kind is Insert or kind is Upsert:
                row = operation.row  # type: ignore[union-attr]
                key = row.get(place.key)
            elif kind is Delete and made and not operation.if_:  # type: ignore[union-attr]
                row, key = None, operation.key  # type: ignore[union-attr]
            else:
                return None
            if type(key) is not str:
                return None
            before = place.rows[key] if key in place.rows else place.near.get(key)
            if row is None:
                if before is not None:
                    made.append(RowChange(place.name, key, before, None, seq))
            elif before is None or kind is Upsert:
                made.append(RowChange(place.name, key, before, place.table.complete(row), seq))
            else:
                return None
        return made

    def _no_effect(self, operation: Operation) -> str:
        table = operation.table
        if isinstance(operation, (Insert, Upsert)):
            key = operation.row[self._places[table].key]
            return f"The table {table} has a row {key[:80]!r} already."
        if self.find(table, operation.key) is None:
            return f"The table {table} has no row {operation.key[:80]!r}."
        return f"The row {operation.key[:80]!r} of the table {table} does not meet the condition."

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
        self._places[COMMITS].record(key, before, after)

    def _approach(self, readings: Iterable[Reading]) -> None:
        """Have at hand all rows that the events name: one query a table for those that only the file has."""
        places = self._places
        wanted: dict[str, set[str]] = {name: set() for name in places}
        for place in places.values():
            place.near.clear()
        for reading in readings:
            for table, key in self._named(reading):
                wanted[table].add(key)
        for table, keys in wanted.items():
            if keys:
                self._bring_near(places[table], keys)

    def _named(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """The rows that an event's operations name."""
        places = self._places
        for operation in reading.operations:
            try:
                kind = type(operation)
                if kind is Insert or kind is Upsert:
                    key = operation.row[places[operation.table].key]  # type: ignore[union-attr]
                else:
                    key = operation.key  # type: ignore[union-attr]
                hash(key)
                known = operation.table in places
            except Exception:  # noqa: S112 -- it is judged when it is applied
                continue
            if known:
                yield operation.table, key
        if reading.commit is not None:
            yield COMMITS, reading.commit[0]

    def _bring_near(self, place: Place, keys: set[str]) -> None:
        far = keys.difference(place.rows)
        if self.sealed is not None:
            rows = self.sealed.tables[place.name].rows
            known = far & rows.keys()
            place.near.update((key, row) for key in known if (row := rows[key]) is not None)
            far -= known
        known = far & place.cache.keys()
        place.near.update((key, row) for key in known if (row := place.cache.get(key)) is not None)
        far -= known
        there = self._index(place).among(list(far)) if far else ()
        if there:
            found = self._file.fetch(place.name, [key for key in there if type(key) is str])
            place.near.update((row[place.key], row) for row in found)

    # ---- rows

    def find(self, table: str, key: str) -> Row | None:
        """The row as of the last applied event."""
        place = self._places[table]
        if key in place.rows:
            return place.rows[key]
        if self._applying:
            return place.near.get(key)
        known, row = self._look(place, key)
        if known or key not in self._index(place):
            return row
        found = self._file.fetch(table, [key])
        if not found:
            return None
        place.cache.put(key, found[0])
        return found[0]

    def gather(self, table: str, keys: Sequence[str]) -> list[Row]:
        """Those of many rows that are there: one query for all that only the file has."""
        place = self._places[table]
        place.near.clear()
        self._bring_near(place, set(keys))
        near, rows = place.near, place.rows
        for key, row in near.items():
            place.cache.put(key, row)
        found = [rows[key] if key in rows else near.get(key) for key in keys]
        return [row for row in found if row is not None]

    def file_changed(self) -> None:
        """What the file said may no longer hold; the rows that events changed here still do."""
        self._tails.clear()
        for place in self._places.values():
            place.cache = RowCache()

    def shed(self, effects: Sequence[Effect], changed: Container[tuple[str, str]]) -> None:
        """Forget the first events, which are in the file now; what later ones did stays.

        Args:
            effects: of these events.
            changed: the rows that later ones have changed.
        """
        for effect in effects:
            for change in effect.changes:
                self._places[change.table].shed(change, changed=(change.table, change.key) in changed)
        for place in self._places.values():
            place.settle()
        self.open.shed(len(effects), effects[-1].seq if effects else 0)
        self.file_changed()

    def _look(self, place: Place, key: str) -> tuple[bool, Row | None]:
        """The row of a key that is not among the changed ones, if it is known without asking the file."""
        if self.sealed is not None:
            rows = self.sealed.tables[place.name].rows
            if key in rows:
                return True, rows[key]
        row = place.cache.get(key)
        return row is not None, row

    def _index(self, place: Place) -> KeyIndex:
        if place.index is None:
            place.index = self._file.index(place.name)
        return place.index

    def has(self, table: str, key: str) -> bool:
        """Whether the row is there (in error once in 10^13 times, then true)."""
        place = self._places[table]
        for rows in (place.rows, self.sealed.tables[table].rows if self.sealed else {}):
            if key in rows:
                return rows[key] is not None
        return key in self._index(place)

    def count(self, table: str) -> int:
        """How many rows there are."""
        return self._places[table].count

    def tally(self, table: str) -> dict[str, int]:
        """How many rows have each value of the tally column."""
        return dict(self._places[table].tally)

    def size(self, table: str) -> int:
        """The bytes of the rows as JSON."""
        return self._places[table].size

    def counters(self) -> Counters:
        """All of these."""
        places = self._places.items()
        return Counters(
            {name: place.count for name, place in places},
            {name: dict(place.tally) for name, place in places if place.tally_by},
            {name: place.size for name, place in places if place.sized},
        )

    def tail(self, table: str, group: str, after: int | None, limit: int) -> list[Row]:
        """See ``State.tail``."""
        if not self._places[table].grouped:
            raise ValueError(f"The table {table} is not read by groups.")
        known = self._tails.get(table, group)
        found = known.read(after, limit) if known else None
        if found is not None:
            return found
        declared = self.schema.tables[table]
        touched = sum(len(batch.tables[table].stale) for batch in (self.open, self.sealed) if batch)
        wanted = (max(limit, KEEP) if after is None else limit) + touched
        if after is None:
            rows = self._file.tail(table, group, wanted)
        else:
            rows = self._file.after(table, group, after, wanted)
        merged = {row[declared.key]: row for row in rows}
        for batch in (self.sealed, self.open):
            for key, row in batch.tables[table].rows.items() if batch else ():
                if row is not None and row[declared.group or ""] == group:
                    merged[key] = row
                else:
                    merged.pop(key, None)
        if after is not None:
            passed = [row for row in merged.values() if row["seq"] is not None and row["seq"] > after]
            return Tail(declared, passed).rows[:limit]
        tail = Tail(declared, list(merged.values()), rows[-1] if len(rows) == wanted else None, limit)
        self._tails.put(table, group, tail)
        return tail.rows[-limit:]

    # ---- writing

    def seal(self) -> Batch | None:
        """Set apart what is to be written next; None if nothing is. What was sealed before goes first."""
        if self.sealed is None and self.open.events:
            self.sealed = self.open
            self.sealed.counters = self.counters().dump()
            self._open()
        return self.sealed

    def written(self) -> None:
        """What was sealed is in the file."""
        sealed, self.sealed = self.sealed, None
        for name, changes in sealed.tables.items() if sealed else ():
            place, rows = self._places[name], changes.rows
            if place.index is not None:
                gone = {key for key, row in rows.items() if row is None}
                place.index.update([key for key in rows if key not in gone] if gone else rows, gone)
            for key in rows.keys() & place.cache.keys():
                place.cache.put(key, rows[key])
            if not place.grouped:  # a group's rows are read by their tails
                for key in islice(reversed(rows), place.cache.limit):
                    place.cache.put(key, rows[key])

    def reset(self, counters: Counters) -> list[Event]:
        """Forget everything that is not in the file; the events whose effect that was."""
        events = [*(self.sealed.events if self.sealed else ()), *self.open.events]
        self._forget(counters)
        return events
