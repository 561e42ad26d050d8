"""A store with its files open in this process: log, tables and the two threads, from opening to closing.

What belongs here: the order in which they come and go, and what is asked of them. Who has the folder's lock, and who
keeps a store awake for how long, is the business of ``life``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import AgentStoreError, Conflict, InvalidRequest, Rebuilding
from ..core.events import Event
from ..core.operations import Row, RowChange
from ..core.schema import Schema
from ..duck import Instance, alias_of
from ..eventlog import DuckDBLog, EventLog, MemoryLog
from ..state.query import Limits, run
from ..state.state import State
from ..state.status import status
from .backing import Answer, Params
from .commits import Commit, Push
from .door import Door
from .projector import Projector
from .snapshots import Snapshot, Snapshots
from .writer import Writer

if TYPE_CHECKING:
    import pyarrow

    from .peers import Peers

BESIDE = frozenset({"events", "anomalies", "agentState"})
"""Tables that every store has beside its schema's."""

_FAR = 20_000  # events that tables may be behind for a commit, or the end of a store, to wait for them


@dataclass(frozen=True)
class Place:
    """Where stores are kept.

    Attributes:
        folder: of all of them; None: in memory.
        logs: the DuckDB instance that they share.
        states: likewise.
        owner: what lock files say of this process.
        peers: the other processes of the user; None: in memory.
    """

    folder: Path | None
    logs: Instance
    states: Instance
    owner: Callable[[], Mapping[str, object]]
    peers: Peers | None


class Awake:
    """An open store; see :class:`~jupyter_agentstore.store.backing.Backing`.

    Args:
        place: where it is kept.
        folder: its own, whose lock the caller holds; None: in memory.
        store_id: its id, as it was first spelled.
        schema: what its events mean.
        memory_log: its log, if stores are kept in memory.
        on_events: called by the writer thread with events that have become durable.
        on_rows: called by the projector thread with rows that have changed.

    Raises:
        DamagedLog, ForeignFile: its log cannot be read.
        StoreLocked: another process has a file open, against the rules.
        OSError: its files cannot be made or written.
    """

    own = True

    def __init__(
        self,
        place: Place,
        folder: Path | None,
        store_id: str,
        schema: Schema,
        memory_log: MemoryLog | None,
        on_events: Callable[[Sequence[Event]], None],
        on_rows: Callable[[Sequence[RowChange]], None],
    ) -> None:
        alias = alias_of(store_id)
        self._schema = schema
        self._keeps_log = memory_log is not None
        self.log: EventLog = memory_log or DuckDBLog.open(place.logs, _known(folder), alias, create=True)
        try:
            self.state = State.open(place.states, folder, alias, schema, self.log.backend_id, self.log.head)
        except BaseException:
            self._close_log()
            raise
        self._snapshots = Snapshots(folder) if folder is not None else None

        def publish(events: Sequence[Event]) -> None:
            self.projector.put(events)
            on_events(events)

        self.writer = Writer(self.log, publish, f"agentstore-log-{store_id}")
        self.projector = Projector(
            self.state, self.log, on_rows, lambda: not self.writer.idle, f"agentstore-tables-{store_id}"
        )
        self.writer.start(Door(schema, self.log, self.projector), self.projector.writer_rests)

    def close(self) -> bool:
        """Write what waits and let go of the files.

        Returns:
            Whether replies are owed, so that the next server should open this store.
        """
        if self._snapshots is not None:
            with suppress(OSError):
                self._snapshots.clear()
        self.writer.close()
        owes = self._owes()
        self.projector.close()
        try:
            self.state.close()
        finally:
            self._close_log()
        return owes

    def _close_log(self) -> None:
        if not self._keeps_log:
            self.log.close()

    def _owes(self) -> bool:
        """Whether replies wait in the store; yes if that cannot be told."""
        if "pendingReplies" not in self._schema.tables:
            return False
        if self.state.rebuilding or self.log.head - self.state.applied > _FAR:
            return True
        try:
            self.projector.wait_applied(self.log.head)
            return self.state.count("pendingReplies") > 0
        except (AgentStoreError, OSError):
            return True

    @property
    def backend_id(self) -> str:
        return self.log.backend_id

    @property
    def head(self) -> int:
        return self.log.head

    @property
    def progress(self) -> tuple[int, int] | None:
        return (self.state.applied, self.log.head) if self.state.rebuilding else None

    @property
    def idle(self) -> bool:
        return self.writer.idle

    def tidy(self) -> None:
        """Remove what nobody has asked for in a while."""
        if self._snapshots is not None:
            self._snapshots.sweep()

    def refresh(self) -> None:
        """Nothing: it is there."""

    # ---- in

    def put(self, entry: Commit | Push) -> None:
        if isinstance(entry, Commit):
            far = self.projector.resuming and self.log.head - self.state.applied > _FAR
            if self.state.rebuilding or far:
                self._refuse_rebuilding()
        self.writer.put(entry)

    def set_agent(self, document: Mapping[str, Any]) -> None:
        self.state.document(document)
        self.projector.touch()

    # ---- out

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        return self.log.read(after, limit, max_bytes)

    def row(self, table: str, key: str) -> Row | None:
        return self._current().row(table, key)

    def tail(self, table: str, group: str, after: int | None, limit: int) -> list[Row]:
        return self._current().tail(table, group, after=after, limit=limit)

    def rows(
        self, table: str, where: Mapping[str, Any] | None, order: str | None, limit: int | None
    ) -> list[Row]:
        return self._current().rows(table, where, order=order, limit=limit)

    def count(self, table: str) -> int:
        return self._current().count(table)

    def query(self, sql: str, params: Params, limits: Limits, at_least: int | None) -> Answer:
        with self._written(at_least) as (seq, stale), self.state.reader() as cursor:
            visible = BESIDE.union(self._schema.tables)
            return Answer(run(cursor, sql, params, visible, limits), seq, stale)

    def table(self, name: str) -> pyarrow.Table:
        with self._written(None), self.state.reader() as cursor:
            return cursor.sql(f'select * from "{name}"').to_arrow_table()

    def status(self, agent: Mapping[str, Any]) -> dict[str, Any]:
        return status(self._current(), self._schema.tables, agent, self.log.last_recorded_at)

    def snapshot(self) -> Snapshot:
        if self._snapshots is None:
            raise Conflict("A store that is kept in memory has no file to copy: pull its events.")
        return self._snapshots.get(self._current(), self.log.backend_id, self.log.head)

    def _current(self) -> State:
        """The tables, with all events of the log applied in memory."""
        if self.state.rebuilding:
            self._refuse_rebuilding()
        self.projector.wait_applied(self.log.head)
        return self.state

    @contextmanager
    def _written(self, at_least: int | None) -> Iterator[tuple[int, bool]]:
        """Have the tables hold what a reader must see; as of which event they are, and whether they are old ones."""
        head = self.log.head
        wanted = head if at_least is None else at_least
        if wanted > head:
            raise InvalidRequest(
                f"The log ends with event {head:,}; there is no {wanted:,}.", field="atLeast"
            )
        if self.state.rebuilding:
            seq = self.state.readable
            if at_least is not None and seq < wanted:
                self._refuse_rebuilding()
            yield seq, True
        else:
            self.projector.wait_written(wanted)
            yield self.state.flushed, False

    def _refuse_rebuilding(self) -> None:
        done, total = self.state.applied, self.log.head
        raise Rebuilding(f"The tables are being rebuilt for a changed schema: {done:,} of {total:,} events.")


def _known(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("A store on disk needs a folder.")
    return folder
