"""A store's tables: applied in memory at once, written behind, rebuilt from the log whenever that is safer.

What belongs here: when things happen, and which lock holds meanwhile. What an event does is in ``memory.py``, what
DuckDB does is in ``file.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NotFound, Rebuilding, StoreClosed
from ..core.events import Event
from ..core.operations import Row, RowChange
from ..core.schema import Schema
from ..duck import Instance
from .file import Readers, StateFile, discard, is_of_the_file
from .memory import Memory
from .overlay import Batch, Counters
from .rebuild import catch_up, choose, replace, take
from .tables import COMMITS, Layout, check_document, commit_key, layouts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class State:
    """The tables of one store.

    One thread applies events; everything else may be called from any thread. Rows that are handed out are not to be
    changed.

    Make one with :meth:`open`.

    Attributes:
        schema: whose tables these are.
        applied: the last event applied in memory.
        flushed: the last event whose effect is in the file.
        rebuilding: a new file is being filled while an older one, of another schema, answers readers.
    """

    def __init__(
        self, schema: Schema, tables: dict[str, Layout], file: StateFile, old: StateFile | None
    ) -> None:
        self.schema = schema
        self._layouts = tables
        self._file = file
        self._old = old
        self._lock = threading.RLock()  # the memory, and the file's reading cursor
        self._flushing = threading.RLock()  # the file's writing cursor; taken before the other one
        self._closed = False
        self._broken = False
        self._saved = file.meta.counters
        self._refused: dict[int, str] = {}
        self._document = file.document() if old is None else old.document()
        self._document_changed = old is not None
        if self._document["isThinking"]:  # it was killed at it
            self._document.update(isThinking=False, currentTask=None)
            self._document_changed = True
        self.applied = self.flushed = file.meta.applied
        self._memory = Memory(schema, tables, file, Counters.load(self._saved), empty=file.meta.applied == 0)
        reads = old or file
        self._readers = Readers(reads.instance, reads.alias)

    @classmethod
    def open(
        cls, instance: Instance, folder: Path | None, alias: str, schema: Schema, backend_id: str, head: int
    ) -> State:
        """Open the tables of a store.

        Tables that are missing, damaged, of another log or ahead of it are thrown away, and begin at event 0.
        Tables of another schema answer readers until new ones, built beside them, take their place: see
        :meth:`finish`.

        Args:
            instance: the DuckDB instance that states share.
            folder: the store's folder; None keeps the tables in memory.
            alias: catalog name, from :func:`~jupyter_agentstore.duck.alias_of`.
            schema: of the tables.
            backend_id: of the log.
            head: of the log.

        Raises:
            StoreLocked: another process has the file.
            OSError: it can neither be used nor replaced.
        """
        tables = layouts(schema)
        file, old = choose(instance, folder, alias, schema, tables, backend_id, head)
        return cls(schema, tables, file, old)

    @classmethod
    def take(cls, instance: Instance, folder: Path, alias: str, schema: Schema) -> State | None:
        """Take up the tables that a folder has, of whatever log: a copy's, which has no log of its own to ask.

        Returns:
            None if there are none that were made with this schema; others are gone.

        Raises:
            StoreLocked: another process has the file.
            OSError: it cannot be opened.
        """
        tables = layouts(schema)
        file = take(instance, folder, alias, schema, tables)
        return None if file is None else cls(schema, tables, file, None)

    @property
    def backend_id(self) -> str:
        """Of the log that the tables follow."""
        return self._file.meta.backend_id

    @property
    def rebuilding(self) -> bool:
        return self._old is not None

    @property
    def catalog(self) -> str:
        """The name that DuckDB has for the tables, in front of theirs."""
        return self._readers.alias

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """How each table is laid out."""
        return self._layouts

    @property
    def readable(self) -> int:
        """The last event whose effect :meth:`reader` shows."""
        old = self._old
        return self.flushed if old is None else old.meta.applied

    # ---- in

    def apply(self, events: Sequence[Event]) -> list[RowChange]:
        """Apply events in memory.

        Args:
            events: they go on from ``applied + 1`` without a gap. Whatever they hold, they are applied; those that
                have no effect are in the table ``anomalies``.

        Returns:
            The rows that changed, in order.

        Raises:
            ValueError: there is a gap.
            StoreClosed: the state is closed.
            OSError: rows that they touch cannot be read.
        """
        try:
            with self._lock:
                self._check_open()
                for seq, event in enumerate(events, self.applied + 1):
                    if event.seq != seq:
                        raise ValueError(f"Event {event.seq} comes where event {seq} should be.")
                changes = self._memory.apply(events, self._refused)
                self.applied += len(events)
                return changes
        except BaseException as error:
            if not self._memory.torn:
                raise
            with self._flushing, self._lock:
                before = [event for event in self._start_over() if event.seq < events[0].seq]
                if not isinstance(error, UnicodeEncodeError):
                    raise
                return self._apply_carefully(before, events)

    def _apply_carefully(self, before: Sequence[Event], events: Sequence[Event]) -> list[RowChange]:
        """Apply events of which one makes text that no file takes, after those before them that are in none."""
        self._memory.careful = True
        try:
            self.apply(before)
            return self.apply(events)
        finally:
            self._memory.careful = False

    def document(self, values: Mapping[str, Any]) -> None:
        """Set what the view ``agentState`` says of the agent; written with the next flush.

        Args:
            values: ``isThinking``, ``currentTask`` (text or None), ``lastActivity`` (milliseconds or None).

        Raises:
            ValueError: another name, or a value of another type.
        """
        with self._lock:
            self._check_open()
            self._document.update(check_document(values))
            self._document_changed = True

    def flush(self) -> None:
        """Write what has been applied, in one transaction.

        An event that DuckDB will not take becomes an anomaly, and everything after it is applied again.

        Raises:
            OSError: the file cannot be written; nothing is lost, and the next flush tries again.
            StoreClosed: the state is closed.
        """
        with self._flushing:
            self._check_open()
            if self._broken:
                self._recover()
            goal = self.applied
            while True:
                with self._lock:
                    self._check_open()
                    if self._memory.torn:  # whoever applies is about to start over
                        return
                    batch = self._memory.seal()
                    if batch is None and not self._document_changed:
                        return
                    document = dict(self._document) if self._document_changed else None
                    self._document_changed = False
                    last = self.flushed + (len(batch.events) if batch else 0)
                    counters = batch.counters if batch else self._saved
                self._write(batch, last, counters, document)
                if self.flushed >= min(goal, self.applied):
                    return

    def _write(self, batch: Batch | None, last: int, counters: str, document: Row | None) -> None:
        try:
            self._file.write(batch, last, counters, document)
        except Exception as error:
            self._document_changed = self._document_changed or document is not None
            if is_of_the_file(error):
                self._broken = True
                raise OSError(f"{self._file.path or 'The tables'} cannot be written: {error}") from error
            self._settle(error)
        else:
            self._written(last, counters)

    def _written(self, last: int, counters: str) -> None:
        with self._lock:
            self._memory.written()
            self._saved = counters
            self.flushed = last

    def _start_over(self) -> list[Event]:
        """Forget what is not in the file; the events whose effect that was."""
        events = self._memory.reset(Counters.load(self._saved))
        self.applied = self.flushed
        return events

    def _settle(self, error: Exception) -> None:
        """Something that was applied cannot be written: find out what, and make anomalies of it."""
        with self._lock:
            self._bisect(self._start_over(), error)

    def _bisect(self, events: Sequence[Event], error: Exception | None) -> None:
        """Apply and write events in as large groups as can be written.

        Args:
            events: they follow those in the file.
            error: why they cannot be written all at once; None if that is not known.
        """
        if error is None:
            error = self._try(events)
            if error is None:
                return
        if len(events) == 1:
            said = str(error).partition("\n")[0][:300]
            self._refused[events[0].seq] = f"It cannot be written: {said}"
            error = self._try(events)
            self._refused.clear()
            if error is not None:
                self._broken = True
                raise OSError(f"{self._file.path or 'The tables'} cannot be written: {error}") from error
            return
        half = len(events) // 2
        self._bisect(events[:half], None)
        self._bisect(events[half:], None)

    def _try(self, events: Sequence[Event]) -> Exception | None:
        """Apply and write events; the error if that fails because of what they are."""
        self.apply(events)
        batch = self._memory.seal()
        counters = batch.counters if batch else self._saved
        try:
            self._file.write(batch, self.applied, counters, None)
        except Exception as error:
            self._start_over()
            if is_of_the_file(error):
                self._broken = True
                raise OSError(f"{self._file.path or 'The tables'} cannot be written: {error}") from error
            return error
        self._written(self.applied, counters)
        return None

    def _recover(self) -> None:
        """Make the file usable after an error, and see what of the last transaction is in it."""
        with self._readers.barred(), self._lock:
            self._file.reattach()
            cursor = self._file.cursor()
            sealed = self._memory.sealed
            if sealed is not None and cursor == self.flushed + len(sealed.events):
                self._written(cursor, sealed.counters)
            elif cursor != self.flushed:
                raise OSError(f"{self._file.path} is not what was written.")
            self._broken = False

    def catch_up(
        self, pages: Iterable[Sequence[Event]], progress: Callable[[int], None] | None = None
    ) -> None:
        """Apply and write many events, the one while the other is under way.

        Args:
            pages: from ``applied + 1`` on.
            progress: called with ``applied`` after each page, in this thread.

        Raises:
            What :meth:`apply` and :meth:`flush` raise.
        """
        catch_up(self, pages, progress)

    def finish(self) -> None:
        """Put rebuilt tables in the place of the older ones, between readers. Does nothing when there are none.

        Raises:
            OSError: the files cannot be swapped.
        """
        with self._flushing:
            self.flush()
            old = self._old
            if old is None:
                return
            self._file.checkpoint()
            with self._readers.barred(), self._lock:
                try:
                    replace(self._file, old)
                except BaseException:
                    self._closed = True  # opened again, it sees what there is
                    raise
                self._old = None

    def checkpoint(self) -> None:
        """Bring what was written into its final place, so that opening is fast."""
        with self._flushing:
            self._check_open()
            self._file.checkpoint()

    def copy(self, path: Path) -> int:
        """Make a copy of the tables' file that is whole without a WAL. Readers go on; nothing is written meanwhile.

        Args:
            path: of the copy, which DuckDB must be allowed to attach: in the folder of the stores.

        Returns:
            The last event whose effect is in it.

        Raises:
            NotFound: the tables are in memory.
            Rebuilding: they are being rebuilt.
            OSError: the file cannot be written or read.
            StoreClosed: the state is closed.
        """
        with self._flushing:
            self._check_open()
            if self._file.path is None:
                raise NotFound("The tables are in memory; there is no file to copy.")
            if self._old is not None:
                raise Rebuilding(
                    "The tables are being rebuilt for a changed schema; a copy is to be had afterwards."
                )
            self.flush()
            self._file.copy(path)
            return self.flushed

    def close(self) -> None:
        """Write what has been applied and let go of everything. A second call does nothing."""
        with self._flushing:
            if self._closed:
                return
            with ExitStack() as stack:
                stack.callback(self._let_go)
                self.flush()

    def _let_go(self) -> None:
        with self._readers.barred(for_good=True), self._lock:
            self._closed = True
            self._start_over()
            try:
                self._file.detach()
                if self._file.damaged and self._file.path is not None:
                    discard(self._file.path)  # the next time it is made anew
            finally:
                if self._old is not None:
                    self._old.detach()

    # ---- out

    def row(self, table: str, key: str) -> Row | None:
        """The row as of the last applied event; times are milliseconds."""
        with self._lock:
            self._check_open()
            row = self._memory.find(table, key)
            return dict(row) if row else None

    def fetch(self, table: str, keys: Sequence[str]) -> list[Row]:
        """Those of many rows that are there, as of the last applied event, by one query at most; see :meth:`row`."""
        with self._lock:
            self._check_open()
            return self._memory.gather(table, keys)

    def has(self, table: str, key: str) -> bool:
        """Whether the row is there as of the last applied event."""
        with self._lock:
            self._check_open()
            return self._memory.has(table, key)

    def count(self, table: str) -> int:
        """How many rows the table has."""
        with self._lock:
            return self._memory.count(table)

    def tally(self, table: str) -> dict[str, int]:
        """How many rows have each value of the table's tally column."""
        with self._lock:
            return self._memory.tally(table)

    def size(self, table: str) -> int:
        """The bytes of the table's rows as JSON; of a table that is declared ``sized``."""
        with self._lock:
            return self._memory.size(table)

    def commit_of(self, actor: str, commit_id: str) -> tuple[int, int] | None:
        """Where the commit with this id of this actor is in the log: first ``seq``, number of events."""
        with self._lock:
            self._check_open()
            row = self._memory.find(COMMITS, commit_key(actor, commit_id))
            return (row["seq"], row["count"]) if row else None

    def tail(self, table: str, group: str, *, after: int | None = None, limit: int = 200) -> list[Row]:
        """Rows of a group in the order of ``seq``, as of the last applied event.

        Args:
            table: one that is declared with a group.
            group: value of the group's column.
            after: None for the last ``limit`` rows; otherwise the first ``limit`` rows with a greater ``seq``.
            limit: how many at most.
        """
        if limit < 1:
            return []
        with self._lock:
            self._check_open()
            return [dict(row) for row in self._memory.tail(table, group, after, limit)]

    def rows(
        self,
        table: str,
        where: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Rows of a table, all applied events included.

        Args:
            table: its name.
            where: what columns must equal; times in milliseconds.
            order: a column, or ``"column desc"``.
            limit: how many at most.

        Raises:
            ValueError: a column that the table does not have.
        """
        layout = self._layouts[table]
        query, values = layout.query(where or {}, order, limit)
        self.flush()
        if self._old is None:
            with self._readers.lease() as cursor:
                found = cursor.execute(query, values).fetchall()
        else:
            with self._lock:
                found = self._file.query(query, values)
        return [layout.row(row) for row in found]

    @contextmanager
    def reader(self) -> Iterator[DuckDBPyConnection]:
        """A cursor on the tables as they are in the file, up to event :attr:`readable`, for one reader.

        It waits while the tables are swapped. Whoever has one must not ask for another, nor have the state write or
        close.
        """
        with self._readers.lease() as cursor:
            yield cursor

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("The tables are closed.")
