"""A store with its files open: lock, log, tables and the two threads, from opening to closing.

What belongs here: the order in which they come and go. Who keeps a store awake, and for how long, is the business of
``store``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.events import Event
from ..core.operations import RowChange
from ..core.schema import Schema
from ..duck import Instance, alias_of
from ..eventlog import DuckDBLog, EventLog, MemoryLog
from ..eventlog.lock import Lock
from ..state.state import State
from .door import Door
from .projector import Projector
from .writer import Writer


@dataclass(frozen=True)
class Place:
    """Where stores are kept: the folder of all of them (None: in memory) and the DuckDB instances they share."""

    folder: Path | None
    logs: Instance
    states: Instance
    owner: dict[str, object]


class Awake:
    """An open store.

    Args:
        place: where it is kept.
        store_id: its id, as it was first spelled.
        schema: what its events mean.
        memory_log: its log, if stores are kept in memory.
        on_events: called by the writer thread with events that have become durable.
        on_rows: called by the projector thread with rows that have changed.

    Raises:
        StoreLocked: another process has it.
        DamagedLog, ForeignFile: its log cannot be read.
        OSError: its folder cannot be made or written.
    """

    def __init__(
        self,
        place: Place,
        store_id: str,
        schema: Schema,
        memory_log: MemoryLog | None,
        on_events: Callable[[Sequence[Event]], None],
        on_rows: Callable[[Sequence[RowChange]], None],
    ) -> None:
        alias = alias_of(store_id)
        folder = place.folder / store_id if place.folder else None
        self._lock: Lock | None = None
        self._keeps_log = memory_log is not None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = Lock.take(folder, place.owner)
        try:
            self.log: EventLog = memory_log or DuckDBLog.open(place.logs, _known(folder), alias, create=True)
            try:
                self.state = State.open(
                    place.states, folder, alias, schema, self.log.backend_id, self.log.head
                )
            except BaseException:
                self._close_log()
                raise
        except BaseException:
            if self._lock:
                self._lock.release(work_waiting=self._lock.unclean)
            raise

        def publish(events: Sequence[Event]) -> None:
            self.projector.put(events)
            on_events(events)

        self.writer = Writer(self.log, publish, f"agentstore-log-{store_id}")
        self.projector = Projector(
            self.state, self.log, on_rows, lambda: not self.writer.idle, f"agentstore-tables-{store_id}"
        )
        self.writer.start(Door(schema, self.log, self.projector), self.projector.writer_rests)

    def close(self, *, work_waiting: bool) -> None:
        """Write what waits and let go of everything.

        Args:
            work_waiting: replies are owed; noted in the lock file, so that the next server wakes this store.
        """
        try:
            self.writer.close()
            self.projector.close()
            try:
                self.state.close()
            finally:
                self._close_log()
        finally:
            if self._lock:
                self._lock.release(work_waiting=work_waiting)

    def _close_log(self) -> None:
        if not self._keeps_log:
            self.log.close()


def _known(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("A store on disk needs a folder.")
    return folder
