"""One DuckDB instance for many files: attaching, detaching, cursors.

What belongs here: only what log and tables both need of DuckDB. Measured on 2 cores, an instance of its own costs
each store 16 ms to open, 4.6 MB and 8 threads; attaching a file to a shared one costs 0.9 ms and almost nothing.
A file can be detached only when none of its cursors is open (a later attach fails otherwise), so an instance hands
out every cursor itself and closes them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_MAX_SPILL = "4GB"  # on disk, for the queries of users; DuckDB would take nine tenths of what is free


def alias_of(store_id: str) -> str:
    """The catalog name of a store: ``s_`` and a hash of its id without regard to case.

    Ids themselves will not do: ``temp``, ``main`` and ``system`` are taken, and ``S1`` beside ``s1`` fails.
    """
    return "s_" + hashlib.sha256(store_id.casefold().encode()).hexdigest()[:24]


def literal(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


_warm = threading.Event()


def _warm_up() -> None:
    """Have Arrow make its first array: it looks for pandas then, which takes as long as a thousand commits."""
    with suppress(RuntimeError):  # Python is ending, and takes no further modules
        import pyarrow

        pyarrow.array([""])


class Instance:
    """An in-memory DuckDB instance to which database files are attached.

    Args:
        folder: with ``locked``, the only folder whose files it can attach.
        threads: worker threads of the instance.
        memory_limit: such as ``"2GB"``; None for DuckDB's default.
        locked: no access to anything outside ``folder``, no extensions, settings frozen, little spilled to disk.
        settings: further DuckDB settings.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        threads: int = 2,
        memory_limit: str | None = None,
        locked: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        import duckdb

        config: dict[str, str | bool | int | float | list[str]] = {"threads": threads}
        config["autoinstall_known_extensions"] = False
        config["autoload_known_extensions"] = False
        # Without a file of its own, DuckDB would spill into a folder of whatever the current directory is.
        config["temp_directory"] = str((folder or Path(tempfile.gettempdir())) / f".spill-{os.getpid()}")
        if memory_limit:
            config["memory_limit"] = memory_limit
        if locked:
            config["max_temp_directory_size"] = _MAX_SPILL
        config.update(settings or {})
        self._connection = duckdb.connect(":memory:", config=config)
        if not _warm.is_set():
            _warm.set()
            threading.Thread(target=_warm_up, name="agentstore-warm", daemon=True).start()
        self._cursors: dict[str, list[DuckDBPyConnection]] = {}
        self._guard = threading.Lock()
        # The same days and hours wherever the server stands.
        self._connection.execute("set global TimeZone = 'UTC'")
        if locked:
            if folder is not None:
                self._connection.execute(f"set allowed_directories = [{literal(str(folder.resolve()))}]")
            self._connection.execute("set enable_external_access = false")
            self._connection.execute("set lock_configuration = true")

    def attach(self, path: Path | None, alias: str, *, read_only: bool = False) -> None:
        """Attach a database file, made if it is not there; None attaches one in memory.

        Raises:
            duckdb.Error: the file is no DuckDB database, or another process has it.
        """
        with self._guard:
            how = " (read_only)" if read_only else ""
            self._connection.execute(f"attach {literal(str(path) if path else ':memory:')} as {alias}{how}")
            self._cursors[alias] = []

    def cursor(self, alias: str) -> DuckDBPyConnection:
        """A new connection whose default catalog is the attached file; closed by :meth:`detach`."""
        with self._guard:
            cursor = self._connection.cursor()
            self._cursors[alias].append(cursor)
        cursor.execute(f"use {alias}")
        return cursor

    def release(self, alias: str, cursor: DuckDBPyConnection) -> None:
        """Close one cursor before its file is detached."""
        with self._guard:
            if cursor in self._cursors.get(alias, ()):
                self._cursors[alias].remove(cursor)
        cursor.close()

    def detach(self, alias: str) -> None:
        """Close the file's cursors and let go of the file.

        A checkpoint that fails meanwhile, for example because the disk is full, is no error: the WAL has all of it.
        """
        import duckdb

        with self._guard:
            for cursor in self._cursors.pop(alias, ()):
                cursor.close()
            try:
                self._connection.execute(f"detach {alias}")
            except duckdb.Error:
                attached = self._connection.execute("select database_name from duckdb_databases()").fetchall()
                if (alias,) in attached:
                    raise

    def close(self) -> None:
        """Close every cursor and the instance."""
        with self._guard:
            for cursors in self._cursors.values():
                for cursor in cursors:
                    cursor.close()
            self._cursors.clear()
            self._connection.close()
