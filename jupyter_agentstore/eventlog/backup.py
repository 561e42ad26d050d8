"""Copies of logs: making one, making a store's log from one, and checking either.

What belongs here: whole files and folders, for those who look after stores. A log's events pass through the full
check on their way, so that a backup is never of something broken. Tables are not copied: they are made from events.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import AgentStoreError, Conflict, DamagedLog, NotFound
from ..core.events import Event
from ..duck import Instance
from .check import verify_pages
from .contract import EventLog, Progress
from .duckdb import DuckDBLog, insert
from .file import BACKUP, FILE, LOG, build, discard, new_meta, put, sync, wal_of
from .lock import Lock

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SOURCE, _TARGET = "source", "target"
_STATE = ("state.duckdb", "state.duckdb.wal", "state.new.duckdb", "state.new.duckdb.wal")


@dataclass(frozen=True)
class Report:
    """What was found in a log or a backup, or written to one.

    Attributes:
        path: of the file.
        backend_id: its log's.
        count: how many events it has.
        head: its last event's ``seq``.
        last_recorded_at: its last event's time, milliseconds since 1970 UTC; 0 when there is none.
        faults: sentences about what is wrong with its events; empty when they are sound.
        kept: where a log that was replaced is now.
    """

    path: Path
    backend_id: str
    count: int
    head: int
    last_recorded_at: int
    faults: tuple[str, ...] = ()
    kept: Path | None = None


def backup(
    source: EventLog | Path, to: Path, progress: Progress | None = None, *, force: bool = False
) -> Report:
    """Write a log's events, up to the head at the start, to one file; the log goes on meanwhile.

    Args:
        source: an open log, or the folder of a store that nobody has open.
        to: the file, whose folder is there.
        progress: called with numbers of events.
        force: replace an older backup of that name. Nothing else is ever replaced.

    Raises:
        Conflict: something of that name is there.
        ForeignFile: with ``force``: and it is not a backup; or the source is no event log.
        NotFound: the folder has no log.
        StoreLocked: somebody has the store.
        DamagedLog: the log is damaged; no file is written.
        OSError: the file cannot be written.
    """
    _check_target(to, force)
    if isinstance(source, Path):
        with _closed_log(source) as log:
            return backup(log, to, progress, force=force)
    end = source.head
    temporary = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}.new")
    with _instance() as instance:
        build(
            instance,
            temporary,
            _TARGET,
            new_meta(BACKUP, source.backend_id),
            _copied(source, end, progress),
        )
    put(temporary, to)
    time = source.read(end - 1, 1)[0].recorded_at if end else 0
    return Report(to, source.backend_id, end, end, time)


def restore(from_: Path, folder: Path, progress: Progress | None = None, *, force: bool = False) -> Report:
    """Make a store's log from a backup, complete or not at all. It has a new ``backend_id``.

    Args:
        from_: the backup; it is only read.
        folder: the store's, made if it is not there.
        progress: called with numbers of events.
        force: replace the log that is there; it is kept beside, as :attr:`Report.kept` says.

    Raises:
        Conflict: the store has a log.
        NotFound: there is no such backup.
        ForeignFile: the file is not a backup.
        DamagedLog: the backup is damaged; the store is as it was.
        StoreLocked: somebody has the store.
        OSError: the log cannot be written.
    """
    path = folder / FILE
    with _instance() as instance:
        source = DuckDBLog.open_backup(instance, from_, _SOURCE)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with Lock.take(folder, {"doing": "restore"}) as lock:
            if not force and _lexists(path):
                raise Conflict(f"There is an event log in {folder}; nothing was restored.")
            temporary = path.with_name(f"{path.name}.new")
            discard(temporary)
            meta = new_meta(LOG)
            build(instance, temporary, _TARGET, meta, _copied(source, source.head, progress))
            kept = _set_aside(instance, path) if _lexists(path) else None
            for name in _STATE:
                (folder / name).unlink(missing_ok=True)
            put(temporary, path)
            lock.unclean = True  # replies may be owed: the next server looks
        return Report(path, meta.backend_id, source.head, source.head, source.last_recorded_at, kept=kept)


def renew(folder: Path, *, keep: bool) -> Report:
    """Give a store an empty log with a new ``backend_id``, complete or not at all.

    Args:
        folder: the store's, whose lock the caller holds and whose files nobody has open.
        keep: keep the old log beside it, as :attr:`Report.kept` says.

    Raises:
        OSError: the log cannot be written; the old one is as it was.
    """
    path = folder / FILE
    with _instance() as instance:
        temporary = path.with_name(f"{path.name}.new")
        discard(temporary)
        meta = new_meta(LOG)
        build(instance, temporary, _TARGET, meta)
        kept = _set_aside(instance, path) if _lexists(path) else None
        for name in _STATE:
            (folder / name).unlink(missing_ok=True)
        put(temporary, path)
        if kept is not None and not keep:
            discard(kept)
            kept = None
        return Report(path, meta.backend_id, 0, 0, 0, kept=kept)


def remove(folder: Path) -> None:
    """Remove a store's folder with everything in it; at no moment is it there in part.

    Args:
        folder: the store's, whose lock the caller holds and whose files nobody has open.

    Raises:
        OSError: it cannot be removed.
    """
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.deleted")
    folder.rename(aside)
    sync(folder.parent)
    shutil.rmtree(aside)


def count(folder: Path) -> Report:
    """What a log that nobody has open says of itself, without reading every event. Raises as :func:`verify`."""
    with _closed_log(folder) as log:
        return Report(folder / FILE, log.backend_id, log.head, log.head, log.last_recorded_at)


def verify(path: Path, progress: Progress | None = None) -> Report:
    """Read a whole log and check it.

    Args:
        path: the folder of a store that nobody has open, or a backup file.
        progress: called with numbers of events.

    Raises:
        NotFound: there is no log.
        ForeignFile: the file is neither log nor backup.
        DamagedLog: the file cannot be opened as one; a fault in its events is in the report instead.
        StoreLocked: somebody has the store.
    """
    if not _lexists(path):
        raise NotFound(f"There is no file or folder {path}.")
    with _closed_log(path) if path.is_dir() else _backup_file(path) as log:
        faults: tuple[str, ...] = ()
        try:
            log.verify(progress)
        except DamagedLog as error:
            faults = (error.message,)
        file = path / FILE if path.is_dir() else path
        return Report(file, log.backend_id, log.head, log.head, log.last_recorded_at, faults)


def _copied(log: EventLog, end: int, progress: Progress | None) -> Callable[[DuckDBPyConnection], None]:
    """What fills a file with a log's events as it checks them."""

    def fill(cursor: DuckDBPyConnection) -> None:
        def pages() -> Iterator[list[Event]]:
            for page in log.scan(end=end):
                insert(cursor, [(event.seq, event.recorded_at, event.actor, event.body) for event in page])
                yield page

        verify_pages(pages(), end, progress)

    return fill


def _check_target(to: Path, force: bool) -> None:
    if not _lexists(to):
        return
    for path in (wal_of(to), to):
        if os.path.lexists(path) and (not force or path != to):
            raise Conflict(f"{path} is there already.")
    try:
        with _backup_file(to):
            pass
    except DamagedLog as error:
        raise Conflict(f"{to} is there already, and cannot be read: {error}") from error


def _set_aside(instance: Instance, path: Path) -> Path:
    """Give a log a second name, under which it stays when the first is taken from it.

    A WAL must not be there when another file takes the name. Only a log that cannot be opened still has one then;
    it, too, is kept under the second name.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    kept = path.with_name(f"{path.name}.{stamp}")
    if path.exists():
        with suppress(AgentStoreError, OSError):
            DuckDBLog.open(instance, path.parent, _TARGET, create=False).close()
    wal = wal_of(path)
    for old, new in ((path, kept), (wal, wal_of(kept))):
        if not os.path.lexists(old):
            continue
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError:  # a file system without links: for a moment there is no log
            old.rename(new)
    wal.unlink(missing_ok=True)
    sync(path.parent)
    return kept


def _lexists(path: Path) -> bool:
    """Whether a file, or a WAL without one, is there."""
    return os.path.lexists(path) or os.path.lexists(wal_of(path))


@contextmanager
def _instance() -> Iterator[Instance]:
    instance = Instance()
    try:
        yield instance
    finally:
        instance.close()


@contextmanager
def _closed_log(folder: Path) -> Iterator[DuckDBLog]:
    """The log of a store that nobody has open."""
    if not _lexists(folder / FILE):
        raise NotFound(f"There is no event log in {folder}.")
    with Lock.take(folder, {"doing": "maintenance"}), _instance() as instance:
        log = DuckDBLog.open(instance, folder, _SOURCE, create=False)
        try:
            yield log
        finally:
            log.close()


@contextmanager
def _backup_file(path: Path) -> Iterator[DuckDBLog]:
    with _instance() as instance:
        yield DuckDBLog.open_backup(instance, path, _SOURCE)
