"""A store as somebody in a notebook holds it.

What belongs here: the public calls, each a few lines over a ``Link``. They may be made from any thread; each blocks
until it has its answer.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import html
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..core.agent_schema import INSTRUCTIONS, PERSONALITY
from ..core.errors import (
    AgentStoreError,
    Conflict,
    InvalidEvent,
    NotFound,
    StoreClosed,
    TooLarge,
    Unreachable,
)
from ..core.events import encode_args
from ..events import ConversationCreated, new_id
from . import frames
from .conversation import Conversation
from .link import Link, Params, Receipt
from .sql import Query
from .subscription import Callback, Subscription, listen_for
from .sync import Sync
from .values import plain
from .watch import Change, Watch

if TYPE_CHECKING:
    import pandas

BATCH_EVENTS = 1_000
"""Events that :meth:`Store.commit_many` sends at once, and at most this many bytes of them."""
BATCH_BYTES = 8_000_000

CLOSE_SECONDS = 5.0
"""Seconds that closing a store waits for the server to take what is pending."""

T = TypeVar("T", bound="Subscription | Watch")

_PLACE = re.compile(r"Event (\d+): ")
_NAME = re.compile(r"\s*\w+\s*")


class AnyEvent(Protocol):
    """What can be committed: one of :mod:`jupyter_agentstore.events`, or anything with a name and fields."""

    @property
    def name(self) -> str:
        """The event type's name."""

    @property
    def args(self) -> dict[str, Any]:
        """The event's fields."""


class Store:
    """An agent's memory: conversations, messages, facts. Get it from :func:`~jupyter_agentstore.connect`.

    Attributes:
        link: the way to the store; for those who build on this package.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._guard = threading.Lock()
        self._subscriptions: set[Subscription | Watch] = set()
        _open_stores.add(self)
        self._abandoned = weakref.finalize(self, _close_later, link)
        self._abandoned.atexit = False

    @property
    def id(self) -> str:
        """The store's id."""
        return self.link.store_id

    # conversations

    def conversation(
        self,
        id: str | None = None,
        *,
        title: str = "",
        personality: str = PERSONALITY,
        instructions: str = INSTRUCTIONS,
    ) -> Conversation:
        """Begin a conversation, or open one.

        Args:
            id: of the conversation to open; with a title too, it is begun if it is not there. None begins a new one.
            title: what to call a new one.
            personality: how the agent is to be in a new one.
            instructions: what the agent is to do in a new one.

        Raises:
            NotFound: there is no conversation with the id, and no title for a new one.
            TypeError: the id is no text.
        """
        if id is not None and not isinstance(id, str):
            raise TypeError(f"A conversation's id is text, not {type(id).__name__}.")
        if id is not None and self.link.row("conversations", id) is not None:
            return Conversation(self, id)
        if id is not None and not title:
            raise NotFound(
                f"There is no conversation {id!r} in the store {self.id!r}; "
                "give a title to begin it, or see store.conversations."
            )
        created = ConversationCreated(
            id=id or new_id(),
            userId=self.link.user,
            title=title,
            personality=personality,
            instructions=instructions,
        )
        try:
            self.commit(created)
        except Conflict:  # somebody began it just now
            if id is None:
                raise
        return Conversation(self, created.id)

    @property
    def conversations(self) -> Conversations:
        """Every conversation, the one last touched first."""
        return Conversations(self, self.sql("select * from conversations order by updatedAt desc, id").rows())

    # events

    def commit(self, *events: AnyEvent, patience: float | None = None) -> Receipt:
        """Write events, all or none, each of them once.

        A session has them at once and sends them in the background: :meth:`flush` waits until the server has them.
        Embedded, or without a replica, they are durable on return.

        Args:
            events: such as ``agentstore.events.MemoryAdded(…)``.
            patience: without a replica, seconds for which a server that does not answer is tried again; None for the
                usual time.

        Raises:
            InvalidEvent: a field is missing or wrong; ``field`` says which.
            NotFound: a conversation is not there.
            Conflict: an id is taken.
            TooLarge: an event is over its limit, or more events wait for the server than may.
            Unreachable: without a replica, the server did not answer.
        """
        return self.link.commit([_pair(event) for event in events], new_id(), patience=patience)

    def commit_many(self, events: Iterable[AnyEvent], *, progress: bool = False) -> int:
        """Write many events in batches of up to 1,000, each batch all or none.

        A batch's commit id is derived from what it holds, so that the same call with the same events, made again
        after it broke off, writes only what is missing.

        Args:
            events: as for :meth:`commit`.
            progress: show a progress bar.

        Returns:
            How many events are in the store that were not there before.

        Raises:
            AgentStoreError: as :meth:`commit` does; it says which event of all it was, and how many are in the store.
        """
        from tqdm.auto import tqdm

        written = done = size = 0
        total = len(events) if isinstance(events, Sequence) else None
        with tqdm(total=total, unit=" events", disable=not progress) as bar:
            try:
                for batch, key in _batches(events):
                    size = len(batch)
                    receipt = self.link.load(batch, key)
                    written += 0 if receipt.repeated else len(receipt.seqs)
                    done += size
                    bar.update(size)
            except AgentStoreError as error:
                error.message = _of_all(error, done, size)
                error.args = (error.message,)
                raise
        return written

    # answers

    def df(self, name: str) -> pandas.DataFrame:
        """A whole table as a DataFrame; times in UTC with their zone.

        Args:
            name: such as ``messages``, ``conversations``, ``conversationMemory`` or ``events``.
        """
        if not isinstance(name, str):
            raise TypeError(f"A table's name is text, not {type(name).__name__}.")
        return frames.to_frame(self.link.table(name))

    def sql(self, sql: str, params: Params = None, /, **named: Any) -> Query:
        """A question to all tables, asked when its answer is wanted.

        Args:
            sql: one ``SELECT`` in DuckDB's SQL.
            params: for its ``?`` (a list) or ``$name`` (a dict).
            named: for its ``$name``, in place of ``params``.
        """
        return Query(self.link, sql, named or params)

    def subscribe(self, sql: str, callback: Callback, params: Params = None) -> Subscription:
        """Call back with the answer at once, and again whenever a change gives another answer.

        Args:
            sql: a statement, or a table's name.
            callback: gets a DataFrame. Later calls come in a thread of their own.
            params: the statement's.

        Raises:
            TypeError: the callback cannot be called, or the statement is no text.
        """
        if not callable(callback):
            raise TypeError(f"subscribe() calls a function with the answer, not {type(callback).__name__}.")
        if not isinstance(sql, str):
            raise TypeError(f"subscribe() takes a statement or a table's name, not {type(sql).__name__}.")
        if _NAME.fullmatch(sql):
            name = sql.strip()
            ask, reads = lambda: self.df(name), self.link.tables_of(f'select * from "{name}"')
        else:
            ask, reads = self.sql(sql, params).df, self.link.tables_of(sql)
        listen = partial(listen_for, self.link, reads)
        return self._keep(lambda forget: Subscription(sql, ask, callback, listen, forget))

    def watch(self, table: str, callback: Callable[[Change], object], **where: Any) -> Watch:
        """Call back with each row that changes from now on, as soon as that is known.

        Args:
            table: such as ``messages`` or ``conversations``.
            callback: gets a :class:`~jupyter_agentstore.client.watch.Change`: ``key``, and the row ``before`` and
                ``after``, dicts with times as text, None where it was not or is no longer there. It is called in a
                thread of its own, in the order of events.
            where: what columns of the row, before or after, must equal, such as ``conversationId=chat.id``.

        Raises:
            NotFound: there is no such table.
            TypeError: the callback cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"watch() calls a function with each change, not {type(callback).__name__}.")
        return self._keep(lambda forget: Watch(self.link, table, where, callback, forget))

    def _keep(self, make: Callable[[Callable[[Any], None]], T]) -> T:
        """Make something that is to be closed with the store."""

        def forget(one: Any) -> None:
            with self._guard:
                self._subscriptions.discard(one)

        made = make(forget)
        with self._guard:
            self._subscriptions.add(made)
        return made

    # the server

    @property
    def sync(self) -> Sync:
        """How the store stands towards its server: status, what is pending, the last error, what happened."""
        return self.link.sync

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until the server has everything that was committed here, durably.

        Args:
            timeout: seconds to wait.

        Raises:
            Unreachable: it has not, in this time; it is still tried.
            Forbidden, TooLarge: the server refuses it; ``store.sync`` says more.
            StoreClosed: the store was closed.
        """
        self.link.flush(timeout)

    def announce(self, state: Mapping[str, Any] | None) -> None:
        """Tell others who are connected something of this client, such as ``{"typing": chat.id}``.

        It is not kept: it ends with the connection, or with None.

        Args:
            state: a small JSON object.
        """
        self.link.announce(state)

    @property
    def present(self) -> list[dict[str, Any]]:
        """Who else is connected and tells of it: ``actor``, ``clientId``, ``sessionId``, ``state``, ``at``."""
        return self.link.present()

    def status(self) -> dict[str, Any]:
        """Counts, what the agent is doing, and how the connection is."""
        return {**self.link.status(), "connection": self.link.state}

    # its life

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """End subscriptions, send what is pending, and let go of the store. Again is harmless.

        Args:
            timeout: seconds to wait for the server to take what is pending; a session without a name then loses it,
                and says so.
        """
        _open_stores.discard(self)
        self._abandoned.detach()
        with self._guard:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
        _close(self.link, timeout)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.id!r}, {self._where()}>"

    def _repr_html_(self) -> str:
        says = [f"<b>{html.escape(self.id)}</b>, {html.escape(self._where())}"]
        if self.link.state != "closed":
            status = self.link.status()
            says.append(f"{status['conversationCount']:,} conversations, {status['messageCount']:,} messages")
        return "<br>".join(says)

    def _where(self) -> str:
        state = self.link.state
        if state == "closed":
            return "closed"
        return f"embedded in {self.link.where}" if state == "embedded" else f"{state} at {self.link.where}"


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _close(link: Link, timeout: float) -> None:
    """Send what is pending and let go of a store."""
    try:
        link.flush(timeout)
    except StoreClosed:
        pass
    except AgentStoreError as error:
        fate = "They are kept, and sent the next time." if link.sync.standing.on_disk else "They are lost."
        print(f"agentstore: {error} {fate}", file=sys.stderr)  # noqa: T201 - somebody must hear of it
    finally:  # also when its user does not want to wait any longer
        link.close()


def _close_later(link: Link) -> None:
    """Let go of a store that nobody holds any more; in a thread, as nobody knows where this is called."""
    with contextlib.suppress(RuntimeError):  # Python is ending
        threading.Thread(target=_close, args=(link, CLOSE_SECONDS), name="agentstore-close").start()


@atexit.register
def _close_all() -> None:
    """Send what is pending before Python ends."""
    deadline = time.monotonic() + CLOSE_SECONDS
    for store in list(_open_stores):
        if store.sync.pending:
            store.close(max(0.0, deadline - time.monotonic()))


class Conversations(Sequence[Conversation]):
    """Conversations as they were when asked for, the one last touched first."""

    def __init__(self, store: Store, rows: list[dict[str, Any]]) -> None:
        self._store = store
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Conversations(self._store, self._rows[at])
        return Conversation(self._store, self._rows[at]["id"])

    def __repr__(self) -> str:
        shown = [f"  {row['id']}  {row['title']} ({row['status']})" for row in self._rows[:20]]
        more = [f"  … and {len(self) - 20:,} more"] if len(self) > 20 else []
        return "\n".join([f"{len(self):,} conversations", *shown, *more])

    def _repr_html_(self) -> str:
        import pyarrow as pa

        columns = ("title", "status", "updatedAt", "id")
        return frames.to_html(pa.table({name: [row[name] for row in self._rows] for name in columns}))


def _pair(event: AnyEvent) -> tuple[str, dict[str, Any]]:
    name: Any
    args: Any
    try:
        name, args = event.name, event.args
    except AttributeError:
        raise InvalidEvent(
            f"{type(event).__name__} is no event; use those of jupyter_agentstore.events."
        ) from None
    if not isinstance(name, str) or not isinstance(args, Mapping):
        raise InvalidEvent("An event's name is text, and its args are a mapping.")
    return name, plain(args, InvalidEvent)


def _batches(events: Iterable[AnyEvent]) -> Iterator[tuple[list[tuple[str, dict[str, Any]]], str]]:
    """Events in batches within the limits, each with a commit id that its content determines."""
    batch: list[tuple[str, dict[str, Any]]] = []
    size = 0
    digest = hashlib.sha256()
    for event in events:
        try:
            name, args = _pair(event)
            text = encode_args(args).encode()
        except InvalidEvent as error:
            raise InvalidEvent(f"Event {len(batch) + 1}: {error.message}", field=error.field) from None
        if batch and (len(batch) == BATCH_EVENTS or size + len(text) > BATCH_BYTES):
            yield batch, digest.hexdigest()
            batch, size, digest = [], 0, hashlib.sha256()
        batch.append((name, args))
        size += len(text)
        digest.update(f"{name}\0".encode() + text + b"\0")
    if batch:
        yield batch, digest.hexdigest()


def _of_all(error: AgentStoreError, done: int, size: int) -> str:
    """What is wrong with a batch of ``size`` events, of which ``done`` came before, said of all events."""
    place, said = _PLACE.match(error.message), error.message
    if place is not None:
        said = f"Event {done + int(place[1]):,}: {said[place.end() :]}"
    elif size == 1 and isinstance(error, (InvalidEvent, NotFound, Conflict, TooLarge)):
        said = f"Event {done + 1:,}: {said}"
    if done:
        return f"{said} The first {done:,} events are in the store."
    return said if isinstance(error, Unreachable) else f"{said} No event was written."
