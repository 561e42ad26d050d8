"""Rows that change, one by one: the quickest way to hear what happens in a store.

What belongs here: which changes somebody wants to see, and the thread that calls them. A way to a store that cannot
tell which rows changed is asked for all of them again, and what differs is told.
"""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.agent_schema import agent_schema
from ..core.errors import AgentStoreError, NotFound, StoreClosed
from ..core.operations import RowChange
from ..core.rows import jsonable
from . import frames

if TYPE_CHECKING:
    from .link import Link


@dataclass(frozen=True)
class Change:
    """A row looks different now.

    Attributes:
        table: its table.
        key: its primary key.
        before: as it was; None if it was not there. Times are ISO-8601 text.
        after: as it is; None if it is no longer there.
        seq: the event that did it; of an event that is pending, a number that may still change. 0 if not known.
    """

    table: str
    key: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    seq: int


class Watch:
    """Calls back with each change until :meth:`close`. An exception in a callback is printed and ends nothing.

    Changes of a moment in which the process that has an embedded store's files is replaced by another, or in which a
    store was restored, may not be told one by one; a :class:`~jupyter_agentstore.client.subscription.Subscription`
    misses nothing.

    Args:
        link: the way to the store.
        table: whose rows.
        where: what columns of a row, before or after, must equal.
        callback: called with each change, in a thread of the watch's own.
        forget: called once at the end.

    Raises:
        NotFound: there is no such table, or no such column.
    """

    def __init__(
        self,
        link: Link,
        table: str,
        where: Mapping[str, Any],
        callback: Callable[[Change], object],
        forget: Callable[[Watch], None],
    ) -> None:
        kind = agent_schema.tables.get(table)
        if kind is None:
            raise NotFound(
                f"There is no table {table!r} to watch; there are {', '.join(agent_schema.tables)}."
            )
        for name in where.keys() - {column.name for column in kind.columns}:
            raise NotFound(f"The table {table!r} has no column {name!r}.")
        self.table = table
        self.where = dict(where)
        self._kind = kind
        self._link = link
        self._callback = callback
        self._forget = forget
        self._closed = threading.Event()
        self._news: queue.SimpleQueue[Sequence[RowChange] | None] = queue.SimpleQueue()
        self._rows: dict[str, dict[str, Any]] | None = (
            None  # as they were last seen, where they are asked for anew
        )
        self._unlisten = link.watch(self._heard)
        if link.tables_of(f'select * from "{table}"') is None and link.state != "embedded":
            self._rows = self._ask()
        self._thread = threading.Thread(target=self._run, name="agentstore-watch", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "active"
        return f"<Watch of {self.table!r}, {state}; .close() ends it>"

    @property
    def active(self) -> bool:
        """Whether it still calls back."""
        return not self._closed.is_set()

    def close(self) -> None:
        """End it. Again is harmless."""
        if not self._closed.is_set():
            self._closed.set()
            self._unlisten()
            self._news.put(())
            self._forget(self)

    def _heard(self, changes: Sequence[RowChange] | None) -> None:
        """In a thread of the link's."""
        if changes is None:
            self._news.put(None)
            return
        mine = [change for change in changes if change.table == self.table]
        if mine:
            self._news.put(mine)

    def _run(self) -> None:
        while not self._closed.is_set():
            changes = self._news.get()
            if self._closed.is_set():
                return
            try:
                for change in self._differing() if changes is None else map(self._shown, changes):
                    if self._wanted(change) and not self._closed.is_set():
                        self._callback(change)
            except StoreClosed:
                return
            except AgentStoreError:  # the server is away; its coming back is told
                continue
            except Exception:
                print(f"The callback of {self!r} failed:", file=sys.stderr)  # noqa: T201
                traceback.print_exc()

    def _wanted(self, change: Change) -> bool:
        return any(
            row is not None and all(row[name] == value for name, value in self.where.items())
            for row in (change.before, change.after)
        )

    def _shown(self, change: RowChange) -> Change:
        before, after = (
            None if row is None else jsonable(self._kind, row) for row in (change.before, change.after)
        )
        return Change(change.table, change.key, before, after, change.seq)

    # ---- where it is not told which rows changed

    def _ask(self) -> dict[str, dict[str, Any]]:
        marks = " and ".join(f'"{name}" = ${name}' for name in self.where)
        sql = f'select * from "{self.table}"' + (f" where {marks}" if marks else "")
        rows = frames.to_rows(self._link.query(sql, self.where or None).table)
        for row in rows:
            for column in self._kind.columns:
                if column.type == "timestamp" and row[column.name] is not None:
                    at = row[column.name].isoformat(timespec="milliseconds")
                    row[column.name] = at.replace("+00:00", "Z")
        return {row[self._kind.key]: row for row in rows}

    def _differing(self) -> list[Change]:
        before, now = self._rows, self._ask()
        if before is None:  # of this way to the store it is always told
            return []
        self._rows = now
        keys = [*now, *(key for key in before if key not in now)]
        return [
            Change(self.table, key, before.get(key), now.get(key), int((now.get(key) or {}).get("seq", 0)))
            for key in keys
            if before.get(key) != now.get(key)
        ]
