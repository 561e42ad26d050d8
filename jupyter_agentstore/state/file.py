"""A state's DuckDB file: attaching and judging it, reading it, and writing a batch in one transaction.

What belongs here: everything that touches DuckDB. What is read or written, and when, is decided elsewhere. No file is
worth keeping at any price: one that is damaged, foreign or of another log is removed and made anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import StoreClosed, StoreLocked
from ..core.operations import Row
from ..core.schema import Schema
from ..duck import Instance
from .memory import File
from .overlay import Batch, Counters
from .tables import ANOMALIES, EVENTS, Layout, Meta, make, quote, read_document, read_meta, save_meta

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection

_ARROW_ROWS = 300  # from here on Arrow is faster than the appender
_CHUNK = 1 << 20  # bytes
_PARAMETERS = 100  # keys that are named one by one in a statement


class StateFile(File):
    """An attached file and the cursors of its one writer.

    Args:
        instance: to which it is attached.
        path: of the file; None in memory.
        alias: its catalog name.
        layouts: of its tables.
        meta: what it says of itself.

    Attributes:
        damaged: something in it could not be read.
    """

    def __init__(
        self, instance: Instance, path: Path | None, alias: str, layouts: dict[str, Layout], meta: Meta
    ) -> None:
        self.instance = instance
        self.path = path
        self.alias = alias
        self.meta = meta
        self.damaged = False
        self._layouts = layouts
        self._bytes: int | None = None  # a descriptor, for copies
        self.connect()

    def connect(self) -> None:
        """Make the cursors, after the file has been attached."""
        self._writer = self.instance.cursor(self.alias)
        self._reader = self.instance.cursor(self.alias)
        self._appenders: dict[str, Any] = {}
        self._attached = True

    @classmethod
    def find(
        cls,
        instance: Instance,
        path: Path,
        alias: str,
        layouts: dict[str, Layout],
        backend_id: str | None,
        head: int | None,
    ) -> StateFile | None:
        """The file, if it is there and belongs to this log; otherwise it is gone afterwards.

        Args:
            instance: to attach it to.
            path: of the file.
            alias: the catalog name that it gets.
            layouts: of its tables.
            backend_id: of the log; None takes the tables of any.
            head: of the log; None if it is not known.

        Raises:
            StoreLocked: another process has it.
            OSError: it cannot be opened or removed.
        """
        import duckdb

        if not os.path.lexists(path):
            discard(path)
            return None
        try:
            instance.attach(path, alias)
        except duckdb.Error as error:
            if "lock on file" in str(error):
                raise StoreLocked(f"Another process has {path}: {error}") from error
            if "ermission denied" in str(error):
                raise PermissionError(f"{path} cannot be opened: {error}") from error
            if _will_pass(error):
                raise OSError(f"{path} cannot be opened: {error}") from error
            discard(path)
            return None
        meta = None
        try:
            meta = read_meta(instance.cursor(alias))
        except duckdb.Error as error:
            if _will_pass(error):
                instance.detach(alias)
                raise OSError(f"{path} cannot be read: {error}") from error
        fits = meta is not None and (
            backend_id in (None, meta.backend_id)
            and meta.applied >= 0
            and (head is None or meta.applied <= head)
        )
        if meta is None or not fits:
            instance.detach(alias)
            discard(path)
            return None
        return cls(instance, path, alias, layouts, meta)

    @classmethod
    def make(
        cls,
        instance: Instance,
        path: Path | None,
        alias: str,
        schema: Schema,
        layouts: dict[str, Layout],
        backend_id: str,
    ) -> StateFile:
        """A new file with empty tables.

        Raises:
            OSError: it cannot be made.
        """
        import duckdb

        meta = Meta(schema.hash, backend_id, 0, Counters().dump())
        try:
            instance.attach(path, alias)
            try:
                make(instance.cursor(alias), schema, meta)
            except BaseException:
                instance.detach(alias)
                raise
        except duckdb.Error as error:
            raise OSError(f"{path or 'The tables'} cannot be made: {error}") from error
        return cls(instance, path, alias, layouts, meta)

    # ---- reading; callers hold the memory's lock

    @contextmanager
    def _reads(self) -> Iterator[DuckDBPyConnection]:
        import duckdb

        try:
            yield self._reader
        except duckdb.Error as error:
            self._note_damage(error)
            raise OSError(f"{self.path or 'The tables'} cannot be read: {error}") from error

    def _note_damage(self, error: Exception) -> None:
        if "orrupt" in str(error) or "checksum" in str(error):
            self.damaged = True

    def fetch(self, table: str, keys: Sequence[str]) -> list[Row]:
        layout = self._layouts[table]
        query = f"select {layout.select} from {layout.name}"
        with self._reads() as cursor:
            if len(keys) <= _PARAMETERS:
                marks = ", ".join("?" * len(keys))
                rows = cursor.execute(f"{query} where {layout.key} in ({marks})", list(keys)).fetchall()
            else:
                with _registered(cursor, keys):
                    query += f" where {layout.key} in (select key from wanted_keys)"
                    rows = cursor.execute(query).fetchall()
        return [layout.row(values) for values in rows]

    def keys(self, table: str) -> Iterator[Sequence[str]]:
        layout = self._layouts[table]
        with self._reads() as cursor:
            result = cursor.sql(f"select {layout.key} as key from {layout.name}")
            for batch in result.to_arrow_reader(100_000):
                yield batch.column(0).to_pylist()

    def tail(self, table: str, group: str, limit: int) -> list[Row]:
        layout = self._layouts[table]
        query = (
            f"select {layout.select} from {layout.name} where {quote(layout.table.group or '')} = ? "
            f"order by seq desc nulls last, {layout.key} desc limit {int(limit)}"
        )
        with self._reads() as cursor:
            return [layout.row(values) for values in cursor.execute(query, [group]).fetchall()]

    def after(self, table: str, group: str, after: int, limit: int) -> list[Row]:
        layout = self._layouts[table]
        query = (
            f"select {layout.select} from {layout.name} where {quote(layout.table.group or '')} = ? "
            f"and seq > ? order by seq, {layout.key} limit {int(limit)}"
        )
        with self._reads() as cursor:
            return [layout.row(values) for values in cursor.execute(query, [group, after]).fetchall()]

    def query(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """What a statement finds."""
        with self._reads() as cursor:
            return cursor.execute(query, list(values)).fetchall()

    def document(self) -> Row:
        """The agent's document as it was last written."""
        return read_document(self._reader)

    def cursor(self) -> int:
        """The last event whose effect is in the file, as it says now."""
        meta = read_meta(self._reader)
        return meta.applied if meta else -1

    @property
    def whole(self) -> bool:
        """Whether the file is as long as it says; DuckDB looks only when it reads what is missing."""
        assert self.path is not None
        query = "select block_size * total_blocks from pragma_database_size() where database_name = ?"
        [(size,)] = self.query(query, [self.alias])
        return bool(size <= self.path.stat().st_size)

    # ---- writing

    def write(self, batch: Batch | None, applied: int, counters: str, document: Row | None) -> None:
        """Write a batch, the cursor and the counters, all or nothing.

        Raises:
            duckdb.Error, pyarrow.ArrowException, UnicodeEncodeError: the tables are as before, unless it says that
                the file is unusable.
        """
        writer = self._writer
        writer.begin()
        try:
            if batch is not None:
                for name, changes in batch.tables.items():
                    if changes.stale:
                        self._delete(self._layouts[name], changes.stale)
                    self._insert(self._layouts[name], changes.rest(), changes.packed)
                self._insert(EVENTS, batch.twins, batch.packed)
                self._insert(ANOMALIES, batch.anomalies)
            save_meta(writer, applied, counters, document)
            writer.commit()
        except BaseException as error:
            self._appenders.clear()
            with suppress(Exception):
                writer.rollback()
            if isinstance(error, Exception):
                self._note_damage(error)
            raise

    def _delete(self, layout: Layout, keys: set[str]) -> None:
        if len(keys) <= _PARAMETERS:
            marks = ", ".join("?" * len(keys))
            statement = f"delete from {layout.name} where {layout.key} in ({marks})"
            self._writer.execute(statement, list(keys)).fetchall()
        else:
            with _registered(self._writer, list(keys)):
                statement = f"delete from {layout.name} where {layout.key} in (select key from wanted_keys)"
                self._writer.execute(statement).fetchall()

    def _insert(
        self, layout: Layout, rows: Sequence[Iterable[Any]], packed: Sequence[pyarrow.RecordBatch] = ()
    ) -> None:
        if not rows and not packed:
            return
        if len(rows) < _ARROW_ROWS and not packed:
            appender = self._appenders.get(layout.table.name)
            if appender is None:
                appender = self._appenders[layout.table.name] = self._writer.appender(layout.table.name)
            appender.append_rows(layout.plain(rows))
            appender.flush()
            return
        import pyarrow

        table = pyarrow.Table.from_batches([*packed, *([layout.arrow(rows)] if rows else ())])
        self._writer.register("incoming_rows", table.combine_chunks())
        try:
            self._writer.execute(f"insert into {layout.name} select * from incoming_rows").fetchall()
        finally:
            self._writer.unregister("incoming_rows")

    def checkpoint(self) -> None:
        """Bring everything from the WAL into the file."""
        self._writer.execute(f"checkpoint {self.alias}").fetchall()

    def copy(self, path: Path) -> None:
        """Make a copy of the file that needs no WAL; nobody may write to it meanwhile.

        The file is opened once and closed when it is detached: closing it sooner would drop the lock by which DuckDB
        keeps other processes out, because that is one of the process and not of a descriptor.

        Raises:
            OSError: the copy cannot be written; then it is not there.
        """
        import duckdb

        assert self.path is not None
        with suppress(duckdb.TransactionException):  # a reader has been at it since before the last write
            self.checkpoint()
        if self._bytes is None:
            self._bytes = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        discard(path)
        try:
            copy_bytes(self._bytes, path)
            if wal_of(self.path).exists():
                with wal_of(self.path).open("rb") as wal:
                    copy_bytes(wal.fileno(), wal_of(path))
                self._absorb(path)
        except BaseException:
            discard(path)
            raise

    def _absorb(self, path: Path) -> None:
        """Bring into a copy what its WAL holds."""
        import duckdb

        alias = f"{self.alias}_c"
        try:
            self.instance.attach(path, alias)
            try:
                self.instance.cursor(alias).execute(f"checkpoint {alias}").fetchall()
            finally:
                self.instance.detach(alias)
        except duckdb.Error as error:
            raise OSError(f"{path} cannot be made: {error}") from error
        if wal_of(path).exists():
            raise OSError(f"{path} still has a WAL.")

    def reattach(self) -> None:
        """Let go of the file and take it again, after an error that made it unusable; nobody may be reading it.

        Raises:
            OSError: it still is.
        """
        import duckdb

        if self.path is None:
            return
        with suppress(duckdb.Error):
            self.detach()
        try:
            self.instance.attach(self.path, self.alias)
            self.connect()
        except duckdb.Error as error:
            raise OSError(f"{self.path} cannot be opened: {error}") from error

    def detach(self) -> None:
        """Let go of the file; nobody may be reading it. Once it is let go this does nothing."""
        if self._attached:
            self._attached = False
            self._appenders.clear()
            self.instance.detach(self.alias)
            if self._bytes is not None:
                os.close(self._bytes)
                self._bytes = None


def copy_bytes(source: int, path: Path) -> None:
    """Make a file of what an open one holds, in the kernel and by sharing blocks where it can.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb", opener=_private) as target:
        size, place = os.fstat(source).st_size, 0
        if hasattr(os, "copy_file_range"):
            with suppress(OSError):  # not between these two file systems
                while place < size and (
                    copied := os.copy_file_range(source, target.fileno(), size - place, place)
                ):
                    place += copied
        target.seek(place)
        while chunk := os.pread(source, _CHUNK, place):
            place += target.write(chunk)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def discard(path: Path) -> None:
    """Remove a file and its WAL, whichever of them is there."""
    path.unlink(missing_ok=True)
    wal_of(path).unlink(missing_ok=True)


def wal_of(path: Path) -> Path:
    """Where DuckDB keeps what is not yet in the file."""
    return path.with_name(path.name + ".wal")


@contextmanager
def _registered(cursor: DuckDBPyConnection, keys: Sequence[str]) -> Iterator[None]:
    import pyarrow

    cursor.register("wanted_keys", pyarrow.table({"key": pyarrow.array(keys, pyarrow.string())}))
    try:
        yield
    finally:
        cursor.unregister("wanted_keys")


class Readers:
    """Cursors for readers of a file, which can be kept out while it is swapped or let go.

    Attributes:
        alias: the file's catalog name.
    """

    def __init__(self, instance: Instance, alias: str) -> None:
        self._instance = instance
        self.alias = alias
        self._changed = threading.Condition()
        self._idle: list[DuckDBPyConnection] = []
        self._busy = 0
        self._barred = False
        self._closed = False

    @contextmanager
    def lease(self) -> Iterator[DuckDBPyConnection]:
        """A cursor for one reader.

        Raises:
            StoreClosed: the file has been let go.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._barred)
            if self._closed:
                raise StoreClosed("The tables are closed.")
            self._busy += 1
            cursor = self._idle.pop() if self._idle else None
        try:
            if cursor is None:
                cursor = self._instance.cursor(self.alias)
            yield cursor
        except BaseException:
            if cursor is not None:  # nobody knows what state it was left in
                self._instance.release(self.alias, cursor)
                cursor = None
            raise
        finally:
            with self._changed:
                self._busy -= 1
                if cursor is not None:
                    self._idle.append(cursor)
                self._changed.notify_all()

    @contextmanager
    def barred(self, *, for_good: bool = False) -> Iterator[None]:
        """Wait for readers under way and keep others out; their cursors are forgotten."""
        with self._changed:
            self._barred = True
            self._changed.wait_for(lambda: not self._busy)
            self._idle.clear()
        try:
            yield
        finally:
            with self._changed:
                self._barred = False
                self._closed = for_good
                self._changed.notify_all()


def is_of_the_file(error: Exception) -> bool:
    """Whether an error says that the file cannot be written, and nothing of what was to be written."""
    import duckdb

    kinds = (
        OSError,
        MemoryError,
        duckdb.IOException,
        duckdb.FatalException,
        duckdb.InternalException,
        duckdb.OutOfMemoryException,
        duckdb.ConnectionException,
        duckdb.TransactionException,
        duckdb.InterruptException,
    )
    return isinstance(error, kinds)


def _will_pass(error: Exception) -> bool:
    """Whether an error says nothing of the file: too many open files, no memory, a disk that does not answer."""
    said = str(error)
    return any(
        words in said for words in ("Too many open files", "Input/output error", "Cannot allocate memory")
    )
