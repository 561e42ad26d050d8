"""The tables as they stand after the last applied event: what is in the file, and over it what is not yet.

What belongs here: applying events, and answering what a row is. Nothing is written; rows that only the file has come
from a function.  Not safe by itself: its owner's lock is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..core.events import Event
from ..core.operations import Insert, Operation, Row, RowChange, Upsert, apply
from ..core.schema import Schema
from .keys import KeyIndex
from .overlay import Batch, Counters, RowCache
from .reading import Reading, failure, read
from .tables import COMMITS, Layout, commit_key
from .tails import KEEP, Tail, Tails

Fetch = Callable[[str, Sequence[str]], list[Row]]
"""``(table, keys) -> rows`` of the file."""


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
        self.counters = counters
        self.open = Batch(layouts)
        self.sealed: Batch | None = None
        self.sealed_counters = counters.dump()
        self._file = file
        self._cache = RowCache(layouts)
        self._tails = Tails()
        self._indexes: dict[str, KeyIndex] = {}
        if empty:
            self._indexes = {name: KeyIndex() for name in layouts}
        self._fetched: dict[tuple[str, str], Row | None] = {}

    # ---- applying

    def apply(self, events: Sequence[Event], refused: Mapping[int, str]) -> list[RowChange]:
        """Apply events in order.

        Args:
            events: they follow the ones applied before.
            refused: by ``seq``, why an event is an anomaly whatever it says.
        """
        readings = [read(event, self.schema) for event in events]
        self._prefetch(readings)
        changes: list[RowChange] = []
        batch = self.open
        for reading in readings:
            event = reading.event
            batch.events.append(event)
            batch.twins.append(reading.twin)
            reason = refused.get(event.seq) or reading.reason
            if not reason and reading.operations is not None:
                done = self._operate(reading.operations, event.seq)
                if isinstance(done, str):
                    reason = done
                else:
                    changes += done
            if reason:
                batch.anomalies.append((event.seq, reading.twin[3], reason, reading.twin[1]))
            if reading.twin[5] == "server" and reading.twin[6].startswith("commit:"):
                self._note_commit(reading.twin[2], reading.twin[6][7:], event.seq)
        self._fetched.clear()
        return changes

    def _operate(self, operations: Sequence[Operation], seq: int) -> list[RowChange] | str:
        """Do an event's operations; the changes, or why it is an anomaly."""
        try:
            changes = apply(operations, self.schema, self.find, seq)
            sizes = [
                (
                    self.layouts[change.table].size(change.before) if change.before else 0,
                    self.layouts[change.table].size(change.after) if change.after else 0,
                )
                for change in changes
            ]
            if not changes and operations and not apply(operations[:1], self.schema, self.find, seq):
                return self._no_effect(operations[0])
        except UnicodeEncodeError:
            return "The materializer made text that is not Unicode (a lone surrogate)."
        except Exception as error:
            return failure(error)
        for change, (old, new) in zip(changes, sizes, strict=True):
            self._record(change, new - old)
        return changes

    def _no_effect(self, operation: Operation) -> str:
        table = operation.table
        if isinstance(operation, (Insert, Upsert)):
            key = operation.row[self.schema.tables[table].key]
            return f"The table {table} has a row {key[:80]!r} already."
        if self.find(table, operation.key) is None:
            return f"The table {table} has no row {operation.key[:80]!r}."
        return f"The row {operation.key[:80]!r} of the table {table} does not meet the condition."

    def _record(self, change: RowChange, growth: int) -> None:
        table = self.schema.tables[change.table]
        before, after = change.before, change.after
        if before is None:
            self.counters.counts[table.name] += 1
        elif after is None:
            self.counters.counts[table.name] -= 1
        if table.tally:
            self.counters.tally(table, before, after)
        if table.sized:
            self.counters.sizes[table.name] += growth
        if table.group:
            self._tails.follow(table, change)
        self._put(table.name, change.key, before, after)

    def _put(self, table: str, key: str, before: Row | None, after: Row | None) -> None:
        rows = self.open.rows[table]
        if key not in rows and before is not None:
            self.open.stale[table].add(key)
        rows[key] = after
        index = self._indexes.get(table)
        if index is not None:
            if before is None:
                index.add(key)
            elif after is None:
                index.remove(key)

    def _note_commit(self, actor: str, commit_id: str, seq: int) -> None:
        """Count an event to its commit, whose events follow each other without a gap."""
        key = commit_key(actor, commit_id)
        before = self.find(COMMITS, key)
        if before is None:
            after = {"id": key, "actor": actor, "commitId": commit_id, "seq": seq, "count": 1}
            self.counters.counts[COMMITS] += 1
        elif before["seq"] + before["count"] == seq:
            after = {**before, "count": before["count"] + 1}
        else:
            return
        self._put(COMMITS, key, before, after)

    # ---- rows

    def find(self, table: str, key: str) -> Row | None:
        """The row as of the last applied event."""
        rows = self.open.rows[table]
        if key in rows:
            return rows[key]
        if self.sealed is not None:
            rows = self.sealed.rows[table]
            if key in rows:
                return rows[key]
        place = (table, key)
        if place in self._fetched:
            return self._fetched[place]
        row = self._cache.get(table, key)
        if row is not None or key not in self._index(table):
            return row
        found = self._file.fetch(table, [key])
        if found:
            self._cache.put(table, key, found[0])
            return found[0]
        return None

    def has(self, table: str, key: str) -> bool:
        """Whether the row is there (in error once in 10^13 times, then true)."""
        for batch in (self.open, self.sealed):
            if batch is not None and key in batch.rows[table]:
                return batch.rows[table][key] is not None
        return key in self._index(table)

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

    def _index(self, table: str) -> KeyIndex:
        index = self._indexes.get(table)
        if index is None:
            index = self._indexes[table] = KeyIndex(self._file.keys(table))
            for batch in (self.sealed, self.open):
                for key, row in batch.rows[table].items() if batch else ():
                    there = key in index
                    if row is None and there:
                        index.remove(key)
                    elif row is not None and not there:
                        index.add(key)
        return index

    def _prefetch(self, readings: Iterable[Reading]) -> None:
        """Fetch the rows that the events name and only the file has, with one query a table."""
        wanted: dict[str, set[str]] = {name: set() for name in self.layouts}
        for reading in readings:
            for operation in reading.operations or ():
                try:
                    if isinstance(operation, (Insert, Upsert)):
                        key = operation.row[self.schema.tables[operation.table].key]
                    else:
                        key = operation.key
                    if type(key) is str:
                        wanted[operation.table].add(key)
                except Exception:  # noqa: S112 -- it is judged when it is applied
                    continue
            if reading.twin[5] == "server" and reading.twin[6].startswith("commit:"):
                wanted[COMMITS].add(commit_key(reading.twin[2], reading.twin[6][7:]))
        for table, keys in wanted.items():
            missing = [key for key in keys if not self._is_near(table, key)]
            there = self._index(table).among(missing) if missing else []
            if there:
                self._fetched.update(dict.fromkeys(((table, key) for key in there), None))
                name = self.layouts[table].table.key
                for row in self._file.fetch(table, there):
                    self._fetched[table, row[name]] = row

    def _is_near(self, table: str, key: str) -> bool:
        if key in self.open.rows[table] or (self.sealed is not None and key in self.sealed.rows[table]):
            return True
        row = self._cache.get(table, key)
        if row is not None:
            self._fetched[table, key] = row  # so that it is at hand even if the cache lets go of it
        return row is not None

    # ---- writing

    def seal(self) -> Batch | None:
        """Set apart what is to be written next; None if nothing is. What was sealed before goes first."""
        if self.sealed is None and self.open.events:
            self.sealed = self.open
            self.sealed_counters = self.counters.dump()
            self.open = Batch(self.layouts)
        return self.sealed

    def written(self) -> None:
        """What was sealed is in the file."""
        sealed = self.sealed
        if sealed is None:
            return
        for name, rows in sealed.rows.items():
            layout = self.layouts[name]
            for key, row in rows.items():
                if layout.table.group is None or self._cache.get(name, key) is not None:
                    self._cache.put(name, key, row)
        self.sealed = None

    def reset(self, counters: Counters) -> list[Event]:
        """Forget everything that is not in the file; the events whose effect that was."""
        events = [*(self.sealed.events if self.sealed else ()), *self.open.events]
        self.counters = counters
        self.open = Batch(self.layouts)
        self.sealed = None
        self._cache.clear()
        self._tails.clear()
        self._indexes.clear()
        return events
