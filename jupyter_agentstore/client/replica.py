"""A store's tables on the client's side: what the log has confirmed, and over it what this client has yet to push.

What belongs here: which log the tables are of, and what is visible of them. When events come and go, and who is told,
is decided by the connection.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.agent_schema import agent_schema
from ..core.errors import NotFound, QueryFailed, StoreClosed
from ..core.events import Event
from ..core.operations import Row, RowChange
from ..core.schema import Schema
from ..duck import Instance, alias_of
from ..state.pending import Pending
from ..state.query import Limits, check, run
from ..state.rebuild import install, put_in_place
from ..state.state import State
from ..state.status import status
from ..state.views import underlying
from ..store.commits import Draft
from ..store.door import fit
from ..store.store import BESIDE, DEFAULT_LIMITS

if TYPE_CHECKING:
    import pyarrow

_ALIAS = alias_of("replica")
_FLUSH_EVENTS = 10_000
_FLUSH_CHARS = 32_000_000
_MEMORY = "2GB"


class Replica:
    """The tables of one store, as this client sees them.

    All of it may be called from any thread. Rows that are handed out are not to be changed. A call raises
    :class:`StoreClosed` after :meth:`close`, and :class:`OSError` where the file cannot be read or written.

    Args:
        folder: its own, made if it is not there; what it held of this schema is taken up. None: nothing is kept.
        schema: of the store. Tables are the server's own only if this is exactly the server's.

    Raises:
        StoreLocked: another process has the folder's file.
        OSError: it cannot be made or opened.

    Attributes:
        schema: of the store.
        backend_id: the log that the tables follow; None as long as that is not known.
    """

    def __init__(self, folder: Path | None, schema: Schema = agent_schema) -> None:
        self.schema = schema
        self.backend_id: str | None = None
        self._lock = threading.RLock()
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._closed = False
        self._agent: dict[str, Any] = {"isThinking": False, "currentTask": None, "lastActivity": None}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._instance = self._new_instance(folder)
        try:
            taken = None if folder is None else State.take(self._instance, folder, _ALIAS, schema)
            self._take(taken or self._new_state(""))
        except BaseException:
            self._instance.close()
            raise

    def _new_instance(self, folder: Path | None) -> Instance:
        return Instance(folder, locked=True, memory_limit=_MEMORY)

    def _new_state(self, backend_id: str) -> State:
        return State.open(self._instance, self._folder, _ALIAS, self.schema, backend_id, 0)

    def _take(self, state: State, pending: Sequence[Event] = ()) -> None:
        """Have these tables from now on."""
        self._state = state
        self._pending = Pending(state)
        self._pending.reset(pending)
        self.backend_id = state.backend_id or None
        self._unwritten = 0
        self._last_recorded: int | None = None if state.applied else 0
        if any(self._agent.values()):
            state.document(self._agent)

    @property
    def applied(self) -> int:
        """The last event of the log whose effect the tables have."""
        return self._state.applied

    # ---- in

    def begin(self, backend_id: str, *, anew: bool = False) -> None:
        """Say which log the events to come are of.

        Tables of another log are thrown away, with what was pending over them; ``applied`` is then 0. What was
        pending while the log was not known stays.

        Args:
            backend_id: of the log.
            anew: throw the tables away even if they are of this log: it has lost events that are in them.
        """
        with self._lock:
            self._check_open()
            if backend_id == self.backend_id and not anew:
                return
            pending = self._pending.events if self.backend_id is None else []
            self._state.close()
            self._take(self._new_state(backend_id), pending)

    def install(self, file: Path, backend_id: str) -> None:
        """Take a copy of the server's tables in place of these; ``applied`` is then its own.

        Args:
            file: from :meth:`State.copy`; it is moved, or gone if it is refused.
            backend_id: of the log. What is pending stays, unless it is another one than before.

        Raises:
            ForeignFile: it is damaged, of another log or made with another schema. Nothing has changed.
        """
        with self._lock:
            self._check_open()
            pending = self._pending.events if self.backend_id in (None, backend_id) else []
            if self._folder is None:
                self._install_apart(file, backend_id)
            else:
                install(file, self._instance, self._folder, _ALIAS, self.schema, backend_id)
                self._state.close()
            folder = self._folder
            assert folder is not None
            put_in_place(folder)
            taken = State.take(self._instance, folder, _ALIAS, self.schema)
            self._take(taken or self._new_state(backend_id), pending)

    def _install_apart(self, file: Path, backend_id: str) -> None:
        """Give a replica in memory a folder for as long as it is open: its instance opens no other file."""
        temporary = tempfile.TemporaryDirectory(prefix="agentstore-replica-", ignore_cleanup_errors=True)
        folder = Path(temporary.name)
        instance = self._new_instance(folder)
        try:
            install(file, instance, folder, _ALIAS, self.schema, backend_id)
        except BaseException:
            instance.close()
            temporary.cleanup()
            raise
        self._state.close()
        self._instance.close()
        self._temporary, self._folder, self._instance = temporary, folder, instance

    def confirm(
        self, events: Sequence[Event], confirmed: int, pending: Sequence[Event], rebased: bool
    ) -> list[RowChange]:
        """Apply events of the log.

        Args:
            events: they go on from ``applied + 1``; those before it are passed over.
            confirmed: how many of the pending ones are among them.
            pending: what is pending from now on.
            rebased: whether these were given other numbers than before.

        Returns:
            The rows that look different now, in order; with something pending each of them once.

        Raises:
            ValueError: there is a gap.
        """
        with self._lock:
            self._check_open()
            if events and events[0].seq <= self._state.applied:
                events = [event for event in events if event.seq > self._state.applied]
            changes = self._state.apply(events)
            if events:
                self._last_recorded = events[-1].recorded_at
            if self._pending.events or pending:
                same = not rebased and len(pending) == len(self._pending.events) - confirmed
                changes = self._pending.follow(changes, confirmed, None if same else pending)
            self._unwritten += sum(len(event.body) for event in events)
            if self._state.applied - self._state.flushed >= _FLUSH_EVENTS or self._unwritten >= _FLUSH_CHARS:
                self.flush()
            return changes

    def add(self, events: Sequence[Event]) -> list[RowChange]:
        """Lay further pending events over what is visible.

        Args:
            events: as this client believes the log will have them, with its own time and user.

        Returns:
            The rows that changed, in order.
        """
        with self._lock:
            self._check_open()
            return self._pending.add(events)

    def set_agent(self, values: Mapping[str, Any]) -> None:
        """Note what the agent is doing, for :meth:`status` and the view ``agentState``.

        Args:
            values: ``isThinking``, ``currentTask`` (text or None), ``lastActivity`` (milliseconds or None).

        Raises:
            ValueError: another name, or a value of another type.
        """
        with self._lock:
            self._check_open()
            self._state.document(values)
            self._agent.update(values)

    def check(self, drafts: Sequence[Draft]) -> None:
        """Whether a strict door would take these events after all that is visible.

        Raises:
            Conflict: an id is taken.
            NotFound: they refer to what is not there.
        """
        with self._lock:
            self._check_open()
            pending = self._pending
            fit(
                self.schema,
                drafts,
                pending.has,
                lambda table, key: pending.has(table, key) and pending.row(table, key) is not None,
            )

    # ---- out

    def row(self, table: str, key: str) -> Row | None:
        """See :meth:`Store.row`."""
        self._check_table(table)
        with self._lock:
            return self._pending.row(table, key)

    def tail(self, table: str, group: str, *, after: int | None = None, limit: int = 200) -> list[Row]:
        """See :meth:`Store.tail`."""
        self._check_table(table)
        with self._lock:
            return self._pending.tail(table, group, after=after, limit=limit)

    def count(self, table: str) -> int:
        """See :meth:`Store.count`."""
        self._check_table(table)
        with self._lock:
            self._check_open()
            return self._pending.count(table)

    def rows(
        self,
        table: str,
        where: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """See :meth:`Store.rows`."""
        self._check_table(table)
        layout = self._state.layouts[table]
        query, values = layout.query(where or {}, order, limit)
        with ExitStack() as stack:
            cursor, lay = self._reader(stack)
            if lay is not None:
                lay((table,))
            return [layout.row(row) for row in cursor.execute(query, values).fetchall()]

    def status(self, agent: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See :meth:`Store.status`.

        Args:
            agent: what the agent is doing; None for what :meth:`set_agent` was told.
        """
        agent = self._agent if agent is None else {**self._agent, **agent}
        with self._lock:
            self._check_open()
            return status(self._pending, self.schema.tables, agent, self._last())

    def _last(self) -> int:
        """When the last visible event was recorded."""
        if self._last_recorded is None:
            with self._state.reader() as cursor:
                query = 'select epoch_ms("recordedAt") from events where seq = ?'
                found = cursor.execute(query, [self._state.applied]).fetchall()
            self._last_recorded = found[0][0] if found else 0
        events = self._pending.events
        return max(self._last_recorded, events[-1].recorded_at if events else 0)

    def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> pyarrow.Table:
        """Run one read-only statement over what is visible; it holds up nobody.

        Raises:
            QueryRefused, QueryFailed, QueryTimeout, QueryTooLarge: as they say.
        """
        with ExitStack() as stack:
            cursor, lay = self._reader(stack)
            return run(cursor, sql, params, self._visible(), limits, lay)

    def table(self, name: str) -> pyarrow.Table:
        """See :meth:`Store.table`."""
        found = {table.casefold(): table for table in self._visible()}.get(name.casefold())
        if found is None:
            raise NotFound(
                f"There is no table {name[:80]!r}; there are {', '.join(sorted(self._visible()))}."
            )
        with ExitStack() as stack:
            cursor, lay = self._reader(stack)
            if lay is not None:
                lay((found,))
            return cursor.sql(f'select * from "{found}"').to_arrow_table()

    def tables_of(self, sql: str) -> frozenset[str]:
        """The tables that a statement reads; with ``agentState``, also those that it counts.

        Raises:
            QueryRefused, QueryFailed: it could not be run.
        """
        import duckdb

        with self._lock:
            self._check_open()
            state = self._state
        with state.reader() as cursor:
            try:
                checked = check(cursor, sql, self._visible())
            except duckdb.Error as error:
                raise QueryFailed(str(error)) from None
        return underlying(checked.tables) & self._visible()

    def _reader(
        self, stack: ExitStack
    ) -> tuple[Any, Callable[[Sequence[str] | frozenset[str]], None] | None]:
        """A cursor on what is visible now; see :meth:`Pending.reader`."""
        with suppress(StoreClosed):
            self._write()  # most of it before others have to wait
        with self._lock:
            self._check_open()
            self._write()
            return stack.enter_context(self._pending.reader())

    def flush(self) -> None:
        """Write what was confirmed. Whatever is lost without it, the log brings again."""
        with suppress(StoreClosed):
            self._write()  # most of it before others have to wait
        with self._lock:
            self._check_open()
            self._write()
            self._unwritten = 0

    def _write(self) -> None:
        """Write in a thread that Ctrl-C does not reach: DuckDB would take it for an error of what is written."""
        state = self._state
        if threading.current_thread() is not threading.main_thread():
            state.flush()
            return
        done = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                state.flush()
            except BaseException as error:
                failed.append(error)
            finally:
                done.set()

        try:
            threading.Thread(target=work, name="agentstore-write", daemon=True).start()
        except RuntimeError:  # Python is ending
            work()
        done.wait()
        if failed:
            raise failed[0]

    def close(self) -> None:
        """Write what was confirmed and let go of everything. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with ExitStack() as stack:
                if self._temporary is not None:
                    stack.callback(self._temporary.cleanup)
                stack.callback(self._instance.close)
                self._state.close()

    def _visible(self) -> frozenset[str]:
        return BESIDE.union(self.schema.tables)

    def _check_table(self, name: str) -> None:
        if name not in self.schema.tables:
            raise NotFound(f"There is no table {name[:80]!r}; there are {', '.join(self.schema.tables)}.")

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("The replica is closed.")
