"""The log's DuckDB file as a file: making one, attaching it, and seeing whether it is ours.

Nothing but DuckDB opens a database file that may be in use: its lock is a POSIX one and vanishes when the process
opens and closes the same file by other means. Events are not read or written here.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DamagedLog, ForeignFile, StoreLocked
from ..duck import Instance

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FILE = "eventlog.duckdb"
FORMAT = "jupyter_agentstore event log"
VERSION = 1
LOG, BACKUP = "log", "backup"

_TABLES = (
    "create table meta (format varchar not null, version integer not null, kind varchar not null, "
    '"backendId" varchar not null, "createdAt" bigint not null)',
    "create table events (seq bigint not null, recorded_at bigint not null, actor varchar not null, "
    "event varchar not null)",
)


@dataclass(frozen=True)
class Meta:
    """What a file says of itself: ``kind`` is LOG or BACKUP, ``created_at`` milliseconds since 1970 UTC."""

    kind: str
    backend_id: str
    created_at: int


def new_meta(kind: str = LOG, backend_id: str | None = None) -> Meta:
    """For a file made now; with a new ``backend_id`` unless one is given."""
    return Meta(kind, backend_id or str(uuid.uuid4()), time.time_ns() // 1_000_000)


def wal_of(path: Path) -> Path:
    """Where DuckDB keeps what is not yet in the file."""
    return path.with_name(path.name + ".wal")


def attach(instance: Instance, path: Path, alias: str, *, read_only: bool = False) -> None:
    """Attach a file that is there.

    Raises:
        ForeignFile: it is no DuckDB database, or one that this DuckDB cannot read.
        StoreLocked: another process has it.
        DamagedLog: it, or its WAL, cannot be read.
    """
    import duckdb

    if not path.is_file():
        raise ForeignFile(f"{path} is not a regular file.")
    try:
        instance.attach(path, alias, read_only=read_only)
    except duckdb.Error as error:
        raise _attach_error(path, str(error)) from error


def _attach_error(path: Path, said: str) -> Exception:
    """DuckDB gives one class for all of these; only its words tell them apart."""
    if "not a valid DuckDB database" in said or "extension" in said:
        return ForeignFile(f"{path} is not a DuckDB database.")
    if "version number" in said:
        return ForeignFile(f"{path} is a database of another version of DuckDB: {said}")
    if "lock on file" in said:
        return StoreLocked(f"Another process has {path}: {said}")
    if "ermission denied" in said:
        return PermissionError(f"{path} cannot be opened: {said}")
    return DamagedLog(f"{path} cannot be read: {said}")


def read_meta(cursor: DuckDBPyConnection, path: Path, schema: str = "main") -> Meta:
    """What the file says of itself.

    Raises:
        ForeignFile: it is not an event log of this package, or of a newer version.
        DamagedLog: it cannot be read.
    """
    import duckdb

    try:
        query = f'select format, version, kind, "backendId", "createdAt" from {schema}.meta'
        rows = cursor.execute(query).fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        rows = []
    except duckdb.Error as error:
        raise DamagedLog(f"{path} cannot be read: {error}") from error
    if len(rows) != 1 or rows[0][0] != FORMAT:
        raise ForeignFile(f"{path} is a DuckDB database, but not an event log of jupyter_agentstore.")
    _, version, kind, backend_id, created_at = rows[0]
    if version != VERSION:
        raise ForeignFile(
            f"{path} is an event log of version {version}; this program reads version {VERSION}."
        )
    return Meta(kind, backend_id, created_at)


def make(instance: Instance, path: Path, alias: str, meta: Meta) -> None:
    """Make a log without events, complete or not at all: under another name first, then renamed.

    Args:
        instance: where it is attached meanwhile, as ``alias``.
        path: what it is called in the end; what is there already is replaced.
        alias: its catalog name meanwhile.
        meta: what it says of itself.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.new")
    discard(temporary)
    build(instance, temporary, alias, meta)
    put(temporary, path)


def put(temporary: Path, path: Path) -> None:
    """Give a file that :func:`build` made its name, in place of what has it, and have the disk hold that."""
    try:
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        discard(temporary)
        raise


def build(
    instance: Instance,
    path: Path,
    alias: str,
    meta: Meta,
    fill: Callable[[DuckDBPyConnection], None] | None = None,
) -> None:
    """Make a file under a name that nothing has yet, detached and on the disk; after an error there is none.

    Args:
        instance: where it is attached meanwhile, as ``alias``.
        path: what it is called.
        alias: its catalog name meanwhile.
        meta: what it says of itself.
        fill: writes the events.

    Raises:
        OSError: it cannot be written.
    """
    import duckdb

    try:
        try:
            instance.attach(path, alias)
            try:
                _fill(instance.cursor(alias), alias, meta, fill)
            finally:
                instance.detach(alias)
        except duckdb.Error as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        if wal_of(path).exists():
            raise OSError(f"{path} cannot be written: {wal_of(path).name} was left over.")
        sync(path)
    except BaseException:
        discard(path)
        raise


def _fill(
    cursor: DuckDBPyConnection, alias: str, meta: Meta, fill: Callable[[DuckDBPyConnection], None] | None
) -> None:
    cursor.begin()
    for table in _TABLES:
        cursor.execute(table)
    row = (FORMAT, VERSION, meta.kind, meta.backend_id, meta.created_at)
    cursor.execute("insert into meta values (?, ?, ?, ?, ?)", row)
    cursor.commit()
    if fill:
        fill(cursor)
    cursor.execute(f"checkpoint {alias}").fetchall()


def discard(path: Path) -> None:
    """Remove a file that is no longer, or not yet, a database, and its WAL."""
    path.unlink(missing_ok=True)
    wal_of(path).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk hold a file or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
