"""Running user SQL: checked, read-only, and stopped at its limits.

What belongs here: the transaction, the clock and the caps around one statement, and DuckDB's errors in the package's
own words. What a statement may be is decided by ``statement``; its answer as JSON is made by ``answer``.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..core.errors import AgentStoreError, QueryFailed, QueryTimeout, QueryTooLarge
from .answer import to_json, unique
from .statement import Checked, check

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

__all__ = ["Limits", "check", "run", "to_json"]

_BATCH, _BULKY_BATCH = 256, 4  # rows that are fetched at once
_LOOK = 0.05  # seconds between looks at the clock and at the process's memory
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096
_MESSAGE = 2_000  # characters; a failed conversion quotes the whole value


@dataclass(frozen=True)
class Limits:
    """What one query may cost.

    Args:
        seconds: of time, until it is interrupted.
        rows: of the answer.
        bytes: of the answer, as Arrow holds it.
        memory: bytes by which the whole process may grow meanwhile, until the query is interrupted. It stands behind
            DuckDB's ``memory_limit``, which does not count everything; others in the process grow too, so it is wide.
    """

    seconds: float = 10.0
    rows: int = 100_000
    bytes: int = 64_000_000
    memory: int = 4_000_000_000


def run(
    cursor: DuckDBPyConnection,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    tables: frozenset[str],
    limits: Limits,
    lay: Callable[[frozenset[str]], None] | None = None,
) -> pyarrow.Table:
    """Run one read-only statement.

    Args:
        cursor: a connection to the tables, of a locked instance, with neither transaction nor open result. It is
            left so.
        sql: the statement.
        params: a list for ``?`` and ``$1``, or a mapping for ``$name``.
        tables: the names of the tables and views that it may read.
        limits: what it may cost.
        lay: puts views over the tables that the statement reads, before it is run. The cursor is then in a read-only
            transaction already, and its end is the caller's business.

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

    watch = _Watch(cursor, limits)
    try:
        checked = _checked(cursor, sql, tables)
        checked.patterns.check(_named(params))
        if lay is not None:
            lay(checked.tables)
            with watch:
                return _fetch(cursor, sql, params, checked, limits)
        cursor.execute("begin transaction read only").fetchall()
        try:
            with watch:
                return _fetch(cursor, sql, params, checked, limits)
        finally:
            with suppress(duckdb.Error):
                cursor.rollback()
    except AgentStoreError:
        raise
    except (duckdb.Error, pyarrow.ArrowException, OSError, MemoryError) as error:
        raise _translated(error, watch, limits) from None
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Query interrupted" in str(
            error
        ):  # what DuckDB makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise QueryFailed(f"A parameter or a value cannot be converted: {_cleaned(str(error))}") from None


def _fetch(
    cursor: DuckDBPyConnection,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    checked: Checked,
    limits: Limits,
) -> pyarrow.Table:
    import pyarrow

    values = dict(params) if isinstance(params, Mapping) else list(params or ())
    # `sql` gives what it finds part by part; `execute` would first gather it all.
    found = cursor.sql(sql, params=values or None)
    if found is None:
        raise QueryFailed("The statement has no answer.")
    names = unique(found.columns)
    if checked.repeating:
        found = _counted(found)
    reader = found.to_arrow_reader(_BULKY_BATCH if checked.bulky else _BATCH)
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
    return table.rename_columns(names)


def _counted(found: DuckDBPyRelation) -> DuckDBPyRelation:
    """The same rows by way of a sort, in which DuckDB counts their bytes against its ``memory_limit``.

    Without one it copies 2,048 rows at a time where nothing counts them, each with its own copy of a value that a
    join only pointed to.
    """
    order = '"agentstore row"'
    return found.project(f"*, row_number() over () as {order}").order(order).project(f"* exclude ({order})")


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


_KEPT_STATEMENTS = 256
_SHORT = 10_000  # characters of a statement that is worth being kept
_statements: dict[tuple[str, frozenset[str]], Checked] = {}


def _checked(cursor: DuckDBPyConnection, sql: str, tables: frozenset[str]) -> Checked:
    """What :func:`check` says, which depends on nothing else; that of the last statements is kept."""
    key = sql, frozenset(tables)
    found = _statements.pop(key, None)
    if found is None:
        found = check(cursor, sql, tables)
        if len(sql) > _SHORT:
            return found
        while len(_statements) >= _KEPT_STATEMENTS:
            with suppress(KeyError, StopIteration, RuntimeError):  # others do the same
                del _statements[next(iter(_statements))]
    _statements[key] = found
    return found


class _Watch:
    """Interrupts a connection when its time is up or the process has grown, and never after it was left.

    Attributes:
        expired: its time was up.
        swollen: the process had grown.
    """

    def __init__(self, cursor: DuckDBPyConnection, limits: Limits) -> None:
        self.expired = False
        self.swollen = False
        self._cursor = cursor
        self._limits = limits
        self._guard = threading.Lock()
        self._left = False

    def __enter__(self) -> None:
        self._ends = time.monotonic() + self._limits.seconds
        self._resident = _resident()
        _watchman.take(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self._left = True
        _watchman.leave(self)

    def look(self) -> None:
        """Interrupt the connection if a limit was passed; again and again: one between two statements is lost."""
        self.expired = self.expired or time.monotonic() >= self._ends
        self.swollen = self.swollen or _resident() - self._resident > self._limits.memory
        if self.expired or self.swollen:
            with self._guard:
                if not self._left:
                    with suppress(Exception):  # closed meanwhile
                        self._cursor.interrupt()

    @property
    def seconds(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, min(_LOOK, self._ends - time.monotonic())) if not self.expired else _LOOK


class _Watchman:
    """The one thread that looks after all queries that run; a thread for each would cost a millisecond each."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: set[_Watch] = set()
        self._thread: threading.Thread | None = None
        self._waiting = False

    def take(self, watch: _Watch) -> None:
        """Look after a query from now on."""
        with self._changed:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():  # as in a forked child
                self._thread = threading.Thread(target=self._run, name="agentstore-query-limit", daemon=True)
                self._thread.start()
            elif self._waiting or watch.seconds < _LOOK:
                self._changed.notify()

    def leave(self, watch: _Watch) -> None:
        """It has ended."""
        with self._changed:
            self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._waiting = not self._watches
                self._changed.wait(min((watch.seconds for watch in self._watches), default=None))
                self._waiting = False
                watches = tuple(self._watches)
            for watch in watches:
                watch.look()


_watchman = _Watchman()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watchman.__init__)  # type: ignore[misc]


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


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
    interrupted = text.startswith("INTERRUPT")
    if interrupted and watch.expired:
        return QueryTimeout(f"The query ran longer than {limits.seconds:g} seconds and was stopped.")
    no_memory = (
        text.startswith(("Out of Memory", "Invalid Input Error: Arrow Appender")) or "std::bad_alloc" in text
    )
    if isinstance(error, MemoryError) or no_memory or (interrupted and watch.swollen):
        return QueryTooLarge(
            "The query needs more memory than a query may have. Filter earlier, select fewer columns, "
            "or join fewer rows at once."
        )
    return QueryFailed(_cleaned(text) or "The query failed.")
