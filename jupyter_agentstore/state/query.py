"""Running user SQL: checked, read-only, and stopped at its limits.

What belongs here: the transaction, the clock and the caps around one statement, and DuckDB's errors in the package's
own words. What a statement may be is decided by ``statement``; its answer as JSON is made by ``answer``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..core.errors import AgentStoreError, QueryFailed, QueryTimeout, QueryTooLarge
from .answer import to_json, unique
from .statement import check

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection

__all__ = ["Limits", "check", "run", "to_json"]

_BATCH = 1_024  # rows that are fetched at once
_AGAIN = 0.05  # seconds between interrupts: one that comes between two statements is lost
_MESSAGE = 2_000  # characters; a failed conversion quotes the whole value


@dataclass(frozen=True)
class Limits:
    """What one query may cost.

    Args:
        seconds: of time, until it is interrupted.
        rows: of the answer.
        bytes: of the answer, as Arrow holds it.
    """

    seconds: float = 10.0
    rows: int = 100_000
    bytes: int = 64_000_000


def run(
    cursor: DuckDBPyConnection,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    tables: frozenset[str],
    limits: Limits,
) -> pyarrow.Table:
    """Run one read-only statement.

    Args:
        cursor: a connection to the tables, of a locked instance, with neither transaction nor open result. It is
            left so.
        sql: the statement.
        params: a list for ``?`` and ``$1``, or a mapping for ``$name``.
        tables: the names of the tables and views that it may read.
        limits: what it may cost.

    Returns:
        The rows; columns of the same name are told apart by a number.

    Raises:
        QueryRefused: the statement does something that is not allowed, or its values could grow without bound.
        QueryFailed: DuckDB could not run it.
        QueryTimeout: it ran too long.
        QueryTooLarge: its answer, or its work in memory, is too large.
    """
    import duckdb
    import pyarrow

    watch = _Watch(cursor, limits.seconds)
    try:
        check(cursor, sql, tables).check(_named(params))
        cursor.execute("begin transaction read only").fetchall()
        try:
            with watch:
                return _fetch(cursor, sql, params, limits)
        finally:
            with suppress(duckdb.Error):
                cursor.rollback()
    except AgentStoreError:
        raise
    except (duckdb.Error, pyarrow.ArrowException, OSError, MemoryError) as error:
        raise _translated(error, watch, limits) from None
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise QueryFailed(f"A parameter or a value cannot be converted: {_cleaned(str(error))}") from None


def _fetch(
    cursor: DuckDBPyConnection, sql: str, params: Sequence[Any] | Mapping[str, Any] | None, limits: Limits
) -> pyarrow.Table:
    import pyarrow

    values = dict(params) if isinstance(params, Mapping) else list(params or ())
    # `sql` gives what it finds part by part; `execute` would first gather it all.
    reader = cursor.sql(sql, params=values or None).to_arrow_reader(_BATCH)
    try:
        batches, rows, size = [], 0, 0
        for batch in reader:
            batches.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
            if rows > limits.rows:
                raise QueryTooLarge(
                    f"The answer has more than {limits.rows:,} rows. Add a LIMIT, or count and group in SQL."
                )
            if size > limits.bytes:
                raise QueryTooLarge(
                    f"The answer has more than {limits.bytes:,} bytes. Add a LIMIT, or select fewer columns."
                )
        table = pyarrow.Table.from_batches(batches, reader.schema)
    finally:
        reader.close()
    return table.rename_columns(unique(table.column_names))


def _named(params: Sequence[Any] | Mapping[str, Any] | None) -> dict[str, Any]:
    """Parameters by their names; those of a list are called ``"1"``, ``"2"``, …"""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        if not all(isinstance(name, str) for name in params):
            raise QueryFailed("The names of parameters are texts.")
        return dict(params)
    if isinstance(params, str | bytes) or not isinstance(params, Sequence):
        raise QueryFailed("Parameters are a list, for ? and $1, or a mapping, for $name.")
    return {str(index): value for index, value in enumerate(params, 1)}


class _Watch:
    """Interrupts a connection when its time is up, and never after it was left."""

    def __init__(self, cursor: DuckDBPyConnection, seconds: float) -> None:
        self.expired = False
        self._cursor = cursor
        self._seconds = seconds
        self._guard = threading.Lock()
        self._left = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._wait, name="agentstore-query-limit", daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self._left.set()

    def _wait(self) -> None:
        pause = self._seconds
        while not self._left.wait(pause):
            with self._guard:
                if self._left.is_set():
                    return
                self.expired = True
                with suppress(Exception):  # closed meanwhile
                    self._cursor.interrupt()
            pause = _AGAIN


# DuckDB's errors in our words

_ALIAS = re.compile(r'"?\bs_[0-9a-f]{1,64}(_n)?\b"?(\.("?main"?\.)?)?')
_FILE = re.compile(r"[^\s\"'`]*\.(duckdb|wal|tmp|py)\b[^\s\"'`]*")


def _cleaned(message: str) -> str:
    """A message without the names of files and catalogs, and of a length that can be read."""
    message = message.partition("\nStack Trace")[0].partition("\n\nPossible solutions")[0]
    if len(message) > _MESSAGE:  # before the patterns see it: they take quadratic time
        message = message[:_MESSAGE] + " …"
    return _FILE.sub("(a file)", _ALIAS.sub("", message))


def _translated(error: Exception, watch: _Watch, limits: Limits) -> AgentStoreError:
    text = str(error)
    if watch.expired and "INTERRUPT" in text.upper():
        return QueryTimeout(f"The query ran longer than {limits.seconds:g} seconds and was stopped.")
    if isinstance(error, MemoryError) or "Out of Memory" in text or "bad_alloc" in text:
        return QueryTooLarge(
            "The query needs more memory than a query may have. Filter earlier, select fewer columns, "
            "or join fewer rows at once."
        )
    return QueryFailed(_cleaned(text) or "The query failed.")
