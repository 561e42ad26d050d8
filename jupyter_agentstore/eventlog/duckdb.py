"""The event log in a DuckDB file: one narrow table, one transaction and one fsync for each append.

What belongs here: the file, its transactions, and the reading of it. What the events mean, and who may write them,
is decided elsewhere; the folder's lock is held by whoever opens the log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DamagedLog, ForeignFile, NotFound, StoreClosed
from ..core.events import Event
from ..duck import Instance
from .check import verify_pages
from .contract import EventLog, Progress, check, check_cursor
from .file import BACKUP, FILE, LOG, Meta, attach, make, new_meta, read_meta, wal_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ARROW_ROWS = 2000
_PAGE = "select seq, recorded_at, actor, event from events where seq > $1 and seq <= $2 order by seq"
_PAGE_WITHIN = """
select seq, recorded_at, actor, event
from (select *, sum(strlen(event)) over (order by seq) as total from events where seq > $1 and seq <= $2)
where total <= $3 or seq = $1 + 1 order by seq
"""
_SUMMARY = """
select count(*), coalesce(min(seq), 1), coalesce(max(seq), 0), coalesce(sum(seq), 0),
       coalesce(max(recorded_at), 0), coalesce(arg_max(recorded_at, seq), 0) from events
"""


_INVALIDATED = "has been invalidated"
_WRONG_KIND = {
    LOG: "{} is a backup; restore it instead of copying it.",
    BACKUP: "{} is a store's event log, not a backup of one.",
}


class _NotUsable(OSError):
    """DuckDB lets nobody use a file after a failed checkpoint until it is attached anew."""


class DuckDBLog(EventLog):
    """A log in ``folder/eventlog.duckdb``; see :class:`~jupyter_agentstore.eventlog.contract.EventLog`.

    Make one with :meth:`open`; the caller holds the folder's lock. One of :meth:`open_backup` can only be read.
    """

    def __init__(self, instance: Instance, path: Path, alias: str, meta: Meta) -> None:
        self._instance = instance
        self._path = path
        self._alias = alias
        self._meta = meta
        self._writing = threading.RLock()
        self._reading = threading.Condition()
        self._idle: list[DuckDBPyConnection] = []
        self._busy = 0
        self._barred = False
        self._closed = False
        self._broken = False
        self._head = 0
        self._last = 0
        self._connect()

    @classmethod
    def open(cls, instance: Instance, folder: Path, alias: str, *, create: bool) -> DuckDBLog:
        """Open the log of a store, attached to ``instance`` as ``alias``.

        It checks that the numbers are gapless from 1 and the last time is the greatest (5 ms for 1,000,000 events);
        :meth:`verify` checks the rest.

        Args:
            instance: the DuckDB instance that logs share.
            folder: the store's folder.
            alias: catalog name, from :func:`~jupyter_agentstore.duck.alias_of`.
            create: make folder and log if they are not there.

        Raises:
            NotFound: there is no log, and ``create`` is false.
            ForeignFile: the file is not an event log of this package, or of a newer version, or a backup.
            DamagedLog: the file cannot be read, or events are missing.
            StoreLocked: another process has the file.
            OSError: folder or file cannot be made.
        """
        path = folder / FILE
        if not os.path.lexists(path):
            if not create:
                raise NotFound(f"There is no event log in {folder}.")
            if os.path.lexists(wal_of(path)):
                raise DamagedLog(f"{path} is missing, but its {wal_of(path).name} is there.")
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            make(instance, path, alias, new_meta())
        return cls._attach(instance, path, alias, LOG)

    @classmethod
    def open_backup(cls, instance: Instance, path: Path, alias: str) -> DuckDBLog:
        """Open a backup file to read it; it is not written to. Raises what :meth:`open` raises."""
        if not os.path.lexists(path):
            raise NotFound(f"There is no file {path}.")
        return cls._attach(instance, path, alias, BACKUP)

    @classmethod
    def _attach(cls, instance: Instance, path: Path, alias: str, kind: str) -> DuckDBLog:
        attach(instance, path, alias, read_only=kind == BACKUP)
        try:
            cursor = instance.cursor(alias)
            meta = read_meta(cursor, path)
            if meta.kind != kind:
                raise ForeignFile(_WRONG_KIND[kind].format(path))
            instance.release(alias, cursor)
            return cls(instance, path, alias, meta)
        except BaseException:
            instance.detach(alias)
            raise

    @property
    def backend_id(self) -> str:
        return self._meta.backend_id

    @property
    def head(self) -> int:
        return self._head

    @property
    def last_recorded_at(self) -> int:
        return self._last

    def append(self, events: Sequence[Event]) -> None:
        with self._writing:
            self._check_open()
            if not events:
                return
            if self._meta.kind == BACKUP:
                raise OSError(f"{self._path} is a backup: nothing can be added to it.")
            if self._broken:
                self._reattach()
            check(events, self._head, self._last)
            rows = [(event.seq, event.recorded_at, event.actor, event.body) for event in events]
            try:
                self._insert(rows)
            except Exception as error:
                if not self._is_kept(events[-1].seq):
                    raise OSError(f"{self._path} could not take the events: {error}") from error
            # In this order, so that whoever reads the head finds a time that belongs to it or to a later event.
            self._last = events[-1].recorded_at
            self._head = events[-1].seq

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        check_cursor(after, limit)
        try:
            return self._read(after, limit, max_bytes)
        except _NotUsable:
            with self._writing:  # whoever failed to write may be attaching the file again
                if self._broken:
                    self._reattach()
                return self._read(after, limit, max_bytes)

    def verify(self, progress: Progress | None = None) -> int:
        self._check_open()
        total = self._head
        return verify_pages(self.scan(end=total), total, progress)

    def checkpoint(self) -> None:
        import duckdb

        with self._writing:
            self._check_open()
            if self._broken:
                self._reattach()
            try:
                self._writer.execute(f"checkpoint {self._alias}").fetchall()
            except duckdb.Error as error:
                self._reattach()
                raise OSError(f"{self._path} could not be brought up to date: {error}") from error

    def close(self) -> None:
        with self._writing:
            if self._closed:
                return
            with self._no_readers():
                self._closed = True
                if not self._broken:
                    self._instance.detach(self._alias)

    def _insert(self, rows: list[tuple[int, int, str, str]]) -> None:
        """One statement, so one transaction: DuckDB commits by itself."""
        if len(rows) < _ARROW_ROWS:
            self._appender.append_rows(rows)
            self._appender.flush()
        else:
            insert(self._writer, rows)

    def _is_kept(self, last: int) -> bool:
        """After an error: make the log usable again, and see whether the events are in the file all the same.

        An error after the commit (of the checkpoint that DuckDB makes by itself) leaves them there; only the file
        itself can tell.
        """
        try:
            self._reattach()
        except Exception:
            return False
        return self._head == last

    def _reattach(self) -> None:
        with self._no_readers():
            if not self._broken:
                self._broken = True
                self._instance.detach(self._alias)
            attach(self._instance, self._path, self._alias)
            try:
                self._connect()
            except BaseException:
                self._instance.detach(self._alias)
                raise
            self._broken = False

    def _connect(self) -> None:
        """Cursors for a file just attached, and the head it has."""
        import duckdb

        self._idle.clear()
        self._writer = self._instance.cursor(self._alias)
        try:
            [row] = self._writer.execute(_SUMMARY).fetchall()
            if self._meta.kind == LOG:
                self._appender = self._writer.appender("events")
        except duckdb.Error as error:
            raise DamagedLog(f"{self._path} cannot be read: {error}") from error
        count, first, head, total, latest, last = row
        if count != head or first != 1 or total != head * (head + 1) // 2:
            raise DamagedLog(
                f"{self._path} has {count} events, numbered from {first} to {head}: some are missing."
            )
        if latest != last:
            raise DamagedLog(f"{self._path}: the last event is not the latest ({last} before {latest}).")
        self._head = head
        self._last = last

    def _read(self, after: int, limit: int, max_bytes: int | None) -> list[Event]:
        with self._reader() as cursor:
            end = min(after + limit, self._head)
            return self._page(cursor, after, end, max_bytes) if after < end else []

    def _page(self, cursor: DuckDBPyConnection, after: int, end: int, max_bytes: int | None) -> list[Event]:
        import duckdb

        try:
            if max_bytes is None:
                rows = cursor.execute(_PAGE, (after, end)).fetchall()
            else:
                rows = cursor.execute(_PAGE_WITHIN, (after, end, max_bytes)).fetchall()
        except duckdb.Error as error:
            if _INVALIDATED in str(error):
                raise _NotUsable(str(error)) from error
            raise DamagedLog(f"{self._path}: events after {after} cannot be read: {error}") from error
        page = list(starmap(Event, rows))
        whole = bool(page) and page[0].seq == after + 1 and page[-1].seq == after + len(page)
        if not whole or (max_bytes is None and page[-1].seq != end):
            raise DamagedLog(f"{self._path}: events are missing after {after}.")
        return page

    @contextmanager
    def _reader(self) -> Iterator[DuckDBPyConnection]:
        """A cursor for one query; two readers at once get two."""
        import duckdb

        with self._reading:
            self._reading.wait_for(lambda: not self._barred)
            self._check_open()
            if self._broken:
                raise _NotUsable(f"{self._path} is not usable since a write failed.")
            self._busy += 1
            cursor = self._idle.pop() if self._idle else None
        try:
            if cursor is None:
                try:
                    cursor = self._instance.cursor(self._alias)
                except duckdb.Error as error:
                    raise _NotUsable(f"{self._path} cannot be read: {error}") from error
            yield cursor
        finally:
            with self._reading:
                self._busy -= 1
                if cursor is not None:
                    self._idle.append(cursor)
                self._reading.notify_all()

    @contextmanager
    def _no_readers(self) -> Iterator[None]:
        """Wait for reads under way and keep others out: a file with open cursors cannot be let go."""
        with self._reading:
            self._barred = True
            self._reading.wait_for(lambda: not self._busy)
        try:
            yield
        finally:
            with self._reading:
                self._barred = False
                self._reading.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("The event log is closed.")


def insert(cursor: DuckDBPyConnection, rows: Sequence[tuple[int, int, str, str]]) -> None:
    """Write many rows of ``events`` at once."""
    import pyarrow

    columns = [pyarrow.array(column) for column in zip(*rows, strict=True)]
    cursor.register("incoming", pyarrow.table(columns, names=["seq", "recorded_at", "actor", "event"]))
    try:
        cursor.execute("insert into events select * from incoming").fetchall()
    finally:
        cursor.unregister("incoming")
