"""A store as its users hold it: commits in, events and tables out, asleep or awake.

What belongs here: the calls, and waking and sleeping around them. A store is awake while somebody uses or holds it;
asleep it keeps its listeners, its head and its ``backendId``, and no files. All of it may be called from any thread;
what waits says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..core.errors import (
    AgentStoreError,
    Conflict,
    InvalidRequest,
    NotFound,
    Rebuilding,
    StoreClosed,
    TooLarge,
)
from ..core.events import Event, Wire
from ..core.limits import MAX_COMMIT_BYTES, MAX_COMMIT_EVENTS
from ..core.operations import Row, RowChange
from ..core.rows import iso
from ..core.schema import Schema
from ..eventlog import MemoryLog
from ..state.query import Limits, run
from .awake import Awake, Place
from .commits import Commit, Draft, Push, Receipt
from .snapshots import Snapshot, Snapshots

if TYPE_CHECKING:
    import pyarrow

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

BESIDE = frozenset({"events", "anomalies", "agentState"})
"""Tables that every store has beside its schema's."""

DEFAULT_LIMITS = Limits()

_FAR = 20_000  # events that tables may be behind for a commit, or the end of a store, to wait for them


class Answer(msgspec.Struct, frozen=True):
    """What a query gave.

    Attributes:
        table: the rows, a ``pyarrow.Table``.
        seq: the tables were as of this event.
        stale: they are being rebuilt, and this is from the old ones.
    """

    table: pyarrow.Table
    seq: int
    stale: bool


class Store:
    """One agent's memory. Get one from :class:`~jupyter_agentstore.store.registry.Registry`.

    Attributes:
        id: as it was first spelled.
        schema: what its events mean.
    """

    def __init__(self, place: Place, store_id: str, schema: Schema, on_wake: Callable[[Store], None]) -> None:
        self.id = store_id
        self.schema = schema
        self._place = place
        self._on_wake = on_wake
        self._memory_log = MemoryLog() if place.folder is None else None
        self._snapshots = Snapshots(place.folder / store_id) if place.folder else None
        self._guard = threading.Condition()
        self._listening = threading.Lock()  # of its own: the store's threads take it, which others wait for
        self._falling_asleep = False
        self._awake: Awake | None = None
        self._users = 0
        self._used = time.monotonic()
        self._closed = False
        self._backend_id = ""
        self._head = 0
        self._event_listeners: tuple[Callable[[Sequence[Event]], None], ...] = ()
        self._row_listeners: tuple[Callable[[Sequence[RowChange]], None], ...] = ()
        self._agent_listeners: tuple[Callable[[Mapping[str, Any]], None], ...] = ()
        self._message_listeners: tuple[Callable[[bytes], None], ...] = ()
        self._agent: dict[str, Any] = {"isThinking": False, "currentTask": None, "lastActivity": None}

    def __repr__(self) -> str:
        asleep = "" if self._awake else ", asleep"
        return f"<Store {self.id!r} at event {self.head}{asleep}>"

    @property
    def backend_id(self) -> str:
        """Names the log; a log made anew or restored has another."""
        return self._backend_id

    @property
    def head(self) -> int:
        """The last event's number."""
        awake = self._awake
        return awake.log.head if awake else self._head

    @property
    def asleep(self) -> bool:
        """Whether the store's files are closed."""
        return self._awake is None

    @property
    def progress(self) -> tuple[int, int] | None:
        """While the tables are rebuilt: ``(done, total)`` events; otherwise None."""
        awake = self._awake
        if awake is None or not awake.state.rebuilding:
            return None
        return awake.state.applied, awake.log.head

    # ---- in

    def commit(self, drafts: Sequence[Draft], *, actor: str, commit_id: str | None = None) -> Future[Receipt]:
        """Write events, all or none.

        Args:
            drafts: 1 to 10,000 of them, from :func:`~jupyter_agentstore.store.commits.draft`.
            actor: who does it.
            commit_id: the same one with the same events is written once, however often it comes.

        Returns:
            A future: the receipt once they are durable; or ``Conflict`` (an id is taken), ``NotFound`` (a
            conversation is not there), ``TooLarge``, ``Rebuilding``, ``OSError`` (the disk).

        Raises:
            InvalidRequest: there are no events.
            TooLarge: there are too many.
            StoreClosed: the store was closed.
        """
        if not drafts:
            raise InvalidRequest("A commit needs at least one event.", field="events")
        if len(drafts) > MAX_COMMIT_EVENTS:
            raise TooLarge(f"A commit may have {MAX_COMMIT_EVENTS:,} events; this one has {len(drafts):,}.")
        size = sum(len(draft.args) for draft in drafts)
        if size > MAX_COMMIT_BYTES:
            raise TooLarge(f"A commit may have {MAX_COMMIT_BYTES:,} bytes; this one has {size:,}.")
        entry = Commit(drafts, actor, commit_id)
        with self._use() as awake:
            far = awake.projector.resuming and awake.log.head - awake.state.applied > _FAR
            if awake.state.rebuilding or far:
                self._refuse_rebuilding(awake)
            awake.writer.put(entry)
        return entry.future

    def push(self, batch: Sequence[Wire], *, actor: str, backend_id: str | None) -> Future[int]:
        """Write a sync client's events as they are, in its order, if they follow the head.

        Args:
            batch: a chain of at least one event.
            actor: who pushes.
            backend_id: which log the client believes this to be; None if it does not know yet.

        Returns:
            A future: the new head once they are durable; or ``HeadMoved``, ``BackendIdMismatch`` (also for a parent
            above the head), ``InvalidRequest`` (no chain), ``TooLarge``, ``OSError``.

        Raises:
            InvalidRequest: the batch is empty.
            StoreClosed: the store was closed.
        """
        if not batch:
            raise InvalidRequest("A push needs at least one event.", field="batch")
        entry = Push(batch, actor, backend_id)
        with self._use() as awake:
            awake.writer.put(entry)
        return entry.future

    def set_agent(self, *, isThinking: bool, currentTask: str | None) -> None:
        """Say what the agent is doing: the server session's ``agentState``."""
        now = time.time_ns() // 1_000_000
        document = {"isThinking": isThinking, "currentTask": currentTask, "lastActivity": now}
        self._agent = document
        _tell(self._agent_listeners, document)
        with self._use() as awake:
            awake.state.document(document)
            awake.projector.touch()

    # ---- out

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        """Events after a cursor; see :meth:`~jupyter_agentstore.eventlog.contract.EventLog.read`."""
        with self._use() as awake:
            return awake.log.read(after, limit, max_bytes)

    def row(self, table: str, key: str) -> Row | None:
        """One row by its key, or None; times are milliseconds."""
        self._check_table(table)
        with self._current() as awake:
            return awake.state.row(table, key)

    def tail(self, table: str, group: str, *, after: int | None = None, limit: int = 200) -> list[Row]:
        """The last rows of a group (a conversation's messages), or with ``after`` the first ones past that ``seq``.

        In the order of ``seq``, at most ``limit``.
        """
        self._check_table(table)
        with self._current() as awake:
            return awake.state.tail(table, group, after=after, limit=limit)

    def rows(
        self,
        table: str,
        where: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Rows whose columns equal ``where``; times are milliseconds."""
        self._check_table(table)
        with self._current() as awake:
            return awake.state.rows(table, where, order=order, limit=limit)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        self._check_table(table)
        with self._current() as awake:
            return awake.state.count(table)

    def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        *,
        at_least: int | None = None,
    ) -> Answer:
        """Run one read-only statement over the store's tables.

        Args:
            sql: the statement.
            params: for its ``?`` or ``$name``.
            limits: of time, rows and bytes.
            at_least: the tables must hold the events up to here; None for the head.

        Raises:
            QueryRefused, QueryFailed, QueryTimeout, QueryTooLarge: as they say.
            Rebuilding: the tables are being rebuilt, and the old ones do not reach ``at_least``.
            InvalidRequest: there is no event ``at_least`` yet.
        """
        with self._use() as awake:
            seq, stale = self._written(awake, at_least)
            with awake.state.reader() as cursor:
                return Answer(run(cursor, sql, params, self._visible(), limits), seq, stale)

    def table(self, name: str) -> pyarrow.Table:
        """A whole table by Arrow, in the order of ``seq`` where it has one.

        Raises:
            NotFound: there is no such table.
        """
        found = {table.casefold(): table for table in self._visible()}.get(name.casefold())
        if found is None:
            raise NotFound(
                f"There is no table {name[:80]!r}; there are {', '.join(sorted(self._visible()))}."
            )
        with self._use() as awake:
            self._written(awake, None)
            with awake.state.reader() as cursor:
                return cursor.sql(f'select * from "{found}"').to_arrow_table()

    def snapshot(self) -> Snapshot:
        """A copy of the tables in a file, for a client to begin with; it may be some events behind.

        Several callers share it. It is removed when it has not been asked for in an hour, and when the store goes to
        sleep; whoever has it open reads on.

        Raises:
            Conflict: the store is in memory: there is no file.
            Rebuilding: the tables are being rebuilt.
            OSError: it cannot be written.
        """
        if self._snapshots is None:
            raise Conflict("A store that is kept in memory has no file to copy: pull its events.")
        with self._current() as awake:
            return self._snapshots.get(awake.state, awake.log.backend_id, awake.log.head)

    def status(self) -> dict[str, Any]:
        """What ``GET agent/status`` answers, in constant time."""
        with self._current() as awake:
            state = awake.state
            tables = self.schema.tables
            conversations = state.count("conversations") if "conversations" in tables else 0
            messages = state.count("messages") if "messages" in tables else 0
            active = state.tally("conversations").get("active", 0) if "conversations" in tables else 0
            size = sum(state.size(name) for name in ("conversations", "messages") if name in tables)
            last = max(self._agent["lastActivity"] or 0, awake.log.last_recorded_at)
        return {
            "isThinking": self._agent["isThinking"],
            "currentTask": self._agent["currentTask"],
            "lastActivity": iso(last) if last else None,
            "totalMessages": messages,
            "activeConversations": active,
            "conversationCount": conversations,
            "messageCount": messages,
            "memoryUsage": size,
        }

    def on_events(self, listener: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call the listener with events once they are durable, before whoever wrote them has the answer.

        It is called in the writer's thread, and must return at once. The result ends it.
        """
        with self._listening:
            self._event_listeners = (*self._event_listeners, listener)

        def end() -> None:
            with self._listening:
                self._event_listeners = _without(self._event_listeners, listener)

        return end

    def on_rows(self, listener: Callable[[Sequence[RowChange]], None]) -> Callable[[], None]:
        """Call the listener with rows that changed, as soon as they are known, in the order of events.

        It is called in the projector's thread, and must return at once. The result ends it.
        """
        with self._listening:
            self._row_listeners = (*self._row_listeners, listener)

        def end() -> None:
            with self._listening:
                self._row_listeners = _without(self._row_listeners, listener)

        return end

    @property
    def agent(self) -> Mapping[str, Any]:
        """What :meth:`set_agent` said last; times are milliseconds."""
        return self._agent

    def on_agent(self, listener: Callable[[Mapping[str, Any]], None]) -> Callable[[], None]:
        """Call the listener with :attr:`agent` whenever that is said.

        It is called in any thread, and must return at once. The result ends it.
        """
        with self._listening:
            self._agent_listeners = (*self._agent_listeners, listener)

        def end() -> None:
            with self._listening:
                self._agent_listeners = _without(self._agent_listeners, listener)

        return end

    def tell(self, message: bytes) -> None:
        """Send a message to everyone who listens to this store; it is kept nowhere, and may be lost.

        It returns at once, whether the store is awake or not.
        """
        _tell(self._message_listeners, message)

    def on_told(self, listener: Callable[[bytes], None]) -> Callable[[], None]:
        """Call the listener with every message of :meth:`tell`, one's own included.

        It is called in any thread, and must return at once. The result ends it.
        """
        with self._listening:
            self._message_listeners = (*self._message_listeners, listener)

        def end() -> None:
            with self._listening:
                self._message_listeners = _without(self._message_listeners, listener)

        return end

    # ---- waking and sleeping

    @property
    def ready(self) -> bool:
        """Whether a commit or push is taken without waiting for files that are opened or closed."""
        return self._awake is not None and not self._falling_asleep

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the store awake meanwhile."""
        with self._use():
            yield

    def wake(self) -> None:
        """Open the store's files, if they are not.

        Raises:
            StoreLocked, DamagedLog, ForeignFile, OSError: they cannot be opened.
            StoreClosed: the store was closed.
        """
        with self._use():
            pass

    def sleep(self, idle_seconds: float = 0.0) -> bool:
        """Close the store's files if nobody has used them for a while; whether they are closed."""
        if self._snapshots is not None:
            self._snapshots.sweep()
        with self._guard:
            self._guard.wait_for(lambda: not self._falling_asleep)
            awake = self._awake
            if awake is None:
                return True
            if self._users or not awake.writer.idle or time.monotonic() - self._used < idle_seconds:
                return False
            self._falling_asleep = True
        self._put_to_sleep(awake)
        return True

    def close(self) -> None:
        """Write what waits and close; every later call raises :class:`StoreClosed`."""
        with self._guard:
            self._closed = True
            self._guard.wait_for(lambda: not self._falling_asleep)
            awake = self._awake
            if awake is None:
                return
            self._falling_asleep = True
        self._put_to_sleep(awake)

    def _put_to_sleep(self, awake: Awake) -> None:
        """Close the files. Others wait meanwhile, without holding what the store's own threads may need."""
        try:
            if self._snapshots is not None:
                with suppress(OSError):
                    self._snapshots.clear()
            awake.writer.close()
            self._backend_id, self._head = awake.log.backend_id, awake.log.head
            awake.close(work_waiting=self._owes(awake))
        finally:
            with self._guard:
                self._awake = None
                self._falling_asleep = False
                self._guard.notify_all()

    def _owes(self, awake: Awake) -> bool:
        """Whether replies wait in the store; yes if that cannot be told."""
        if "pendingReplies" not in self.schema.tables:
            return False
        if awake.state.rebuilding or self._head - awake.state.applied > _FAR:
            return True
        try:
            awake.projector.wait_applied(self._head)
            return awake.state.count("pendingReplies") > 0
        except (AgentStoreError, OSError):
            return True

    @contextmanager
    def _use(self) -> Iterator[Awake]:
        """The open store; opened if it sleeps, kept open meanwhile."""
        woken = False
        with self._guard:
            self._guard.wait_for(lambda: not self._falling_asleep or self._closed)
            if self._closed:
                raise StoreClosed(f"The store {self.id!r} is closed.")
            awake = self._awake
            if awake is None:
                awake = self._awake = self._open()
                woken = True
            self._users += 1
        try:
            if woken:
                self._on_wake(self)
            yield awake
        finally:
            with self._guard:
                self._users -= 1
                self._used = time.monotonic()

    def _open(self) -> Awake:
        awake = Awake(self._place, self.id, self.schema, self._memory_log, self._tell_events, self._tell_rows)
        self._backend_id, self._head = awake.log.backend_id, awake.log.head
        return awake

    @contextmanager
    def _current(self) -> Iterator[Awake]:
        """The open store with all events of the log applied in memory."""
        with self._use() as awake:
            if awake.state.rebuilding:
                self._refuse_rebuilding(awake)
            awake.projector.wait_applied(awake.log.head)
            yield awake

    def _written(self, awake: Awake, at_least: int | None) -> tuple[int, bool]:
        """Have the tables hold what a reader must see; as of which event they are, and whether they are old ones."""
        head = awake.log.head
        wanted = head if at_least is None else at_least
        if wanted > head:
            raise InvalidRequest(
                f"The log ends with event {head:,}; there is no {wanted:,}.", field="atLeast"
            )
        if awake.state.rebuilding:
            seq = awake.state.readable
            if at_least is not None and seq < wanted:
                self._refuse_rebuilding(awake)
            return seq, True
        awake.projector.wait_written(wanted)
        return awake.state.flushed, False

    def _refuse_rebuilding(self, awake: Awake) -> None:
        done, total = awake.state.applied, awake.log.head
        raise Rebuilding(f"The tables are being rebuilt for a changed schema: {done:,} of {total:,} events.")

    def _visible(self) -> frozenset[str]:
        return BESIDE | self.schema.tables.keys()

    def _check_table(self, name: str) -> None:
        if name not in self.schema.tables:
            raise NotFound(f"There is no table {name[:80]!r}; there are {', '.join(self.schema.tables)}.")

    def _tell_events(self, events: Sequence[Event]) -> None:
        _tell(self._event_listeners, events)

    def _tell_rows(self, changes: Sequence[RowChange]) -> None:
        _tell(self._row_listeners, changes)


def _tell(listeners: Sequence[Callable[[_Item], None]], item: _Item) -> None:
    for listener in listeners:
        try:
            listener(item)
        except Exception:
            _log.exception("A listener failed.")


def _without(
    listeners: tuple[Callable[[_Item], None], ...], listener: Callable[[_Item], None]
) -> tuple[Callable[[_Item], None], ...]:
    kept = list(listeners)
    if listener in kept:
        kept.remove(listener)
    return tuple(kept)
