"""A store as its users hold it: commits in, events and tables out, asleep or awake, here or in another process.

What belongs here: the calls, and who is told of what. Whose files it has at a moment is the business of ``life``.
All of it may be called from any thread; what waits says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..core.errors import AgentStoreError, InvalidRequest, NotFound, StoreClosed, TooLarge
from ..core.events import Event, Wire
from ..core.limits import MAX_COMMIT_BYTES, MAX_COMMIT_EVENTS
from ..core.operations import Row, RowChange
from ..core.schema import Schema
from ..state.query import Limits
from .awake import BESIDE, Awake, Place
from .backing import Answer, Backing
from .commits import Commit, Draft, Push, Receipt
from .guest import Guest
from .life import Deleted, Life
from .listeners import Listeners
from .snapshots import Snapshot

if TYPE_CHECKING:
    import pyarrow

__all__ = ["BESIDE", "DEFAULT_LIMITS", "Answer", "Deleted", "Store"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

DEFAULT_LIMITS = Limits()

_PAGE = 1_000  # events told at once to listeners that have missed some
_PAGE_BYTES = 8_000_000


class Store:
    """One agent's memory. Get one from :class:`~jupyter_agentstore.store.registry.Registry`.

    Attributes:
        id: as it was first spelled.
        schema: what its events mean.
        told: the last event that listeners have heard of.
    """

    def __init__(self, place: Place, store_id: str, schema: Schema, on_wake: Callable[[Store], None]) -> None:
        self.id = store_id
        self.schema = schema
        self.told = 0
        self._on_wake = on_wake
        self._telling = threading.Lock()  # of its own: the store's threads take it, which others wait for
        self._backend_id = ""
        self._events: Listeners[Sequence[Event]] = Listeners()
        self._rows: Listeners[Sequence[RowChange] | None] = Listeners()
        self._own_rows: Listeners[Sequence[RowChange]] = Listeners()
        self._was_own = False
        self._agents: Listeners[Mapping[str, Any]] = Listeners()
        self._messages: Listeners[bytes] = Listeners()
        self._replaced: Listeners[bool] = Listeners()
        self._agent: Mapping[str, Any] = {"isThinking": False, "currentTask": None, "lastActivity": None}
        self._life = Life(place, store_id, schema, self)

    def __repr__(self) -> str:
        backing = self._life.backing
        state = ", asleep" if backing is None else "" if backing.own else ", in another process"
        return f"<Store {self.id!r} at event {self.head}{state}>"

    @property
    def backend_id(self) -> str:
        """Names the log; a log made anew or restored has another."""
        return self._backend_id

    @property
    def head(self) -> int:
        """The last event's number. Of a store in another process, as of the last call or news."""
        return self._life.head

    @property
    def asleep(self) -> bool:
        """Whether nothing is open for the store."""
        return self._life.backing is None

    @property
    def own(self) -> bool:
        """Whether its files are open in this process."""
        backing = self._life.backing
        return backing is not None and backing.own

    @property
    def ended(self) -> bool:
        """Whether it was deleted."""
        return self._life.ended

    @property
    def mine(self) -> bool:
        """Whether this process has the store, be it asleep."""
        return self._life.mine

    @property
    def ready(self) -> bool:
        """Whether a commit or push is taken without waiting for files that are opened or closed."""
        return self._life.ready

    @property
    def progress(self) -> tuple[int, int] | None:
        """While the tables are rebuilt in this process: ``(done, total)`` events; otherwise None."""
        backing = self._life.backing
        return None if backing is None else backing.progress

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
            StoreClosed: the store was closed. In the future, if the process that had the store went away and there is
                no commit id: the events may have been written, or not.
        """
        if not drafts:
            raise InvalidRequest("A commit needs at least one event.", field="events")
        if len(drafts) > MAX_COMMIT_EVENTS:
            raise TooLarge(f"A commit may have {MAX_COMMIT_EVENTS:,} events; this one has {len(drafts):,}.")
        size = sum(len(draft.args) for draft in drafts)
        if size > MAX_COMMIT_BYTES:
            raise TooLarge(f"A commit may have {MAX_COMMIT_BYTES:,} bytes; this one has {size:,}.")
        entry = Commit(drafts, actor, commit_id)
        self._life.put(entry)
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
        self._life.put(entry)
        return entry.future

    def set_agent(self, *, isThinking: bool, currentTask: str | None) -> None:
        """Say what the agent is doing: the server session's ``agentState``."""
        now = time.time_ns() // 1_000_000
        document = {"isThinking": isThinking, "currentTask": currentTask, "lastActivity": now}

        def set_(backing: Backing) -> None:
            if backing.own:  # otherwise the news come back from the process that has the store
                self._agent = document
                self._agents.tell(document)
            backing.set_agent(document)

        self._life.call(set_)

    # ---- out

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        """Events after a cursor; see :meth:`~jupyter_agentstore.eventlog.contract.EventLog.read`."""
        return self._life.call(lambda backing: backing.read(after, limit, max_bytes))

    def row(self, table: str, key: str) -> Row | None:
        """One row by its key, or None; times are milliseconds."""
        self._check_table(table)
        return self._life.call(lambda backing: backing.row(table, key))

    def tail(self, table: str, group: str, *, after: int | None = None, limit: int = 200) -> list[Row]:
        """The last rows of a group (a conversation's messages), or with ``after`` the first ones past that ``seq``.

        In the order of ``seq``, at most ``limit``.
        """
        self._check_table(table)
        return self._life.call(lambda backing: backing.tail(table, group, after, limit))

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
        return self._life.call(lambda backing: backing.rows(table, where, order, limit))

    def count(self, table: str) -> int:
        """How many rows a table has."""
        self._check_table(table)
        return self._life.call(lambda backing: backing.count(table))

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
        return self._life.call(lambda backing: backing.query(sql, params, limits, at_least))

    def table(self, name: str) -> pyarrow.Table:
        """A whole table by Arrow, in the order of ``seq`` where it has one.

        Raises:
            NotFound: there is no such table.
        """
        visible = BESIDE.union(self.schema.tables)
        found = {table.casefold(): table for table in visible}.get(name.casefold())
        if found is None:
            raise NotFound(f"There is no table {name[:80]!r}; there are {', '.join(sorted(visible))}.")
        return self._life.call(lambda backing: backing.table(found))

    def snapshot(self) -> Snapshot:
        """A copy of the tables in a file, for a client to begin with; it may be some events behind.

        Several callers share it. It is removed when it has not been asked for in an hour, and when the store goes to
        sleep; whoever has it open reads on.

        Raises:
            Conflict: the store is in memory: there is no file.
            Rebuilding: the tables are being rebuilt.
            OSError: it cannot be written.
        """
        return self._life.call(lambda backing: backing.snapshot())

    def status(self) -> dict[str, Any]:
        """What ``GET agent/status`` answers, in constant time."""
        return self._life.call(lambda backing: backing.status(self._agent))

    # ---- listening

    def on_events(self, listener: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call the listener with events once they are durable, each once and in order.

        It is called in a thread of the store's, must return at once, and may not ask the store for anything. In the
        process that has the files it is called before whoever wrote the events has the answer. The result ends it.
        """
        if not self._events:
            self.told = self.head
        return self._attended_by(self._events.add(listener))

    def on_rows(self, listener: Callable[[Sequence[RowChange] | None], None]) -> Callable[[], None]:
        """Call the listener with rows that changed, as soon as they are known, in the order of events.

        It is called with None when some may have changed that it was not told of, because the store went to another
        process. It is called in a thread of the store's, and must return at once. The result ends it.
        """
        return self._attended_by(self._rows.add(listener))

    def on_own_rows(self, listener: Callable[[Sequence[RowChange]], None]) -> Callable[[], None]:
        """As :meth:`on_rows`, but only while the files are open in this process."""
        return self._own_rows.add(listener)

    @property
    def agent(self) -> Mapping[str, Any]:
        """What :meth:`set_agent` said last; times are milliseconds."""
        return self._agent

    def on_agent(self, listener: Callable[[Mapping[str, Any]], None]) -> Callable[[], None]:
        """Call the listener with :attr:`agent` whenever that is said.

        It is called in any thread, and must return at once. The result ends it.
        """
        return self._attended_by(self._agents.add(listener))

    def tell(self, message: bytes) -> None:
        """Send a message to everyone who listens to this store; it is kept nowhere, and may be lost.

        It returns at once, whether the store is awake or not.
        """
        backing = self._life.backing
        if isinstance(backing, Guest):
            backing.tell(message)  # and it comes back with the news
        else:
            self._messages.tell(message)

    def on_told(self, listener: Callable[[bytes], None]) -> Callable[[], None]:
        """Call the listener with every message of :meth:`tell`, one's own included.

        It is called in any thread, and must return at once. The result ends it.
        """
        return self._attended_by(self._messages.add(listener))

    def on_replaced(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call the listener when the store's log is no longer the one it was: reset, restored or deleted.

        It is called with whether the store is no more, in any thread, and must return at once. The result ends it.
        """
        return self._replaced.add(listener)

    @property
    def attended(self) -> bool:
        """Whether somebody listens who must hear of everything, wherever it is done."""
        return bool(self._events or self._rows or self._agents or self._messages)

    def _attended_by(self, end: Callable[[], None]) -> Callable[[], None]:
        self._life.attend()

        def leave() -> None:
            end()
            backing = self._life.backing
            if isinstance(backing, Guest) and not self.attended:
                backing.ignore()

        return leave

    # ---- waking and sleeping

    def hold(self) -> AbstractContextManager[object]:
        """Keep the store awake meanwhile."""
        return self._life.use()

    def wake(self) -> None:
        """Open the store's files, or find who has them.

        Raises:
            StoreLocked, DamagedLog, ForeignFile, OSError: they cannot be opened.
            StoreClosed: the store was closed.
        """
        self._life.call(lambda backing: backing.refresh())

    def sleep(self, idle_seconds: float = 0.0) -> bool:
        """Close the store's files if nobody has used them for a while; whether they are closed."""
        backing = self._life.backing
        if isinstance(backing, Awake):
            backing.tidy()
        return self._life.sleep(idle_seconds)

    def abandon(self) -> bool:
        """End it if nothing is open for it: later calls raise ``Abandoned``; whether that is so."""
        return self._life.abandon()

    def close(self) -> None:
        """Write what waits and close; every later call raises :class:`StoreClosed`."""
        self._life.close()

    def renew(self, work: Callable[[Path], _T], *, ends: bool = False) -> _T:
        """Do something to the store's folder while nobody has its files open.

        Args:
            work: called with the folder; the log may be another one afterwards.
            ends: the store is no more afterwards.

        Raises:
            NotFound: it has no files.
            StoreLocked: another process has them.
        """
        done = self._life.renew(work, ends=ends)
        if ends:
            self._replaced.tell(True)
        elif self.attended:
            self.wake()
        return done

    @contextmanager
    def _use(self) -> Iterator[Awake]:
        """The open files, for tests and benchmarks that look into them."""
        with self._life.use() as backing:
            yield cast("Awake", backing)

    def _check_table(self, name: str) -> None:
        if name not in self.schema.tables:
            raise NotFound(f"There is no table {name[:80]!r}; there are {', '.join(self.schema.tables)}.")

    # ---- what life and guests say

    def opened(self, backing: Backing) -> None:
        """There is something new behind the store: listeners hear of what they have missed."""
        replaced = bool(self._backend_id) and self._backend_id != backing.backend_id
        if not self._backend_id:
            self.told = backing.head
        elif replaced:
            self.told = 0
        missed = replaced or not (self._was_own and backing.own) or backing.head > self.told
        self._was_own = backing.own
        self._backend_id = backing.backend_id
        if backing.own:
            self._on_wake(self)
        if replaced:
            self._replaced.tell(False)
        if self.attended:
            if isinstance(backing, Guest):
                self.listen_to(backing)
            else:
                self._tell_missed(cast("Awake", backing), backing.head)
            if missed:
                self._rows.tell(None)

    def heard(self, events: Sequence[Event]) -> None:
        """Events are durable."""
        if not self._events:
            self.told = events[-1].seq
            return
        first = events[0].seq
        backing = self._life.backing
        if first > self.told + 1 and isinstance(backing, Awake):
            self._tell_missed(backing, first - 1)
        with self._telling:
            news = events if first > self.told else [event for event in events if event.seq > self.told]
            if news:
                self._events.tell(news)
                self.told = news[-1].seq

    def _tell_missed(self, awake: Awake, end: int) -> None:
        """Tell of the events up to ``end`` that were written elsewhere."""
        while True:
            with self._telling:
                if self.told >= end or not self._events:
                    return
                try:
                    events = awake.read(self.told, min(_PAGE, end - self.told), _PAGE_BYTES)
                except (AgentStoreError, OSError) as error:
                    if not isinstance(error, StoreClosed):
                        _log.error("%s: listeners have missed events: %s", self.id, error)
                    return
                self._events.tell(events)
                self.told = events[-1].seq

    def vanished(self) -> None:
        """Its files are gone."""
        self._replaced.tell(True)

    def listen_to(self, guest: Guest) -> None:
        """Have listeners hear of what is done in the process that has the store."""
        guest.listen(rows=bool(self._rows))

    def heard_rows(self, changes: Sequence[RowChange]) -> None:
        """Rows have changed."""
        self._own_rows.tell(changes)
        self._rows.tell(changes)

    def heard_of_rows(self, changes: Sequence[RowChange] | None) -> None:
        """Rows have changed where the store is; None: it is not known which."""
        self._rows.tell(changes)

    def heard_agent(self, document: Mapping[str, Any]) -> None:
        """The agent does something else, where the store is."""
        if document != self._agent:
            self._agent = document
            self._agents.tell(document)

    def heard_message(self, message: bytes) -> None:
        """Somebody has told something, where the store is."""
        self._messages.tell(message)

    def lost(self, guest: Guest, entries: Sequence[Commit | Push], *, ended: bool) -> None:
        """The process that had the store is gone, or the store is."""
        if ended:
            self._life.end(guest)
            self.vanished()
        else:
            self._life.lost(guest, entries)
