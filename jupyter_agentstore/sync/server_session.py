"""The server's end of one connection, as a state machine: frames and results in, actions out.

What belongs here: what may follow what, flow control, limits, and the order of frames. No sockets, no clock, no
threads, no waiting: a host reads frames, calls the store and tells what came of it; each call returns the actions
that follow, to be carried out in order. Its calls must not overlap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.errors import (
    AgentStoreError,
    BackendIdMismatch,
    DamagedLog,
    Forbidden,
    HeadMoved,
    NotFound,
    RateLimited,
    StoreClosed,
    StoreLocked,
    TooLarge,
)
from ..core.events import Event
from ..core.limits import MAX_PAGE_BYTES
from . import codec
from .news import Backlog, News
from .server_actions import Action, Close, Follow, Open, Present, PushBatch, ReadPage, Send

__all__ = [
    "Action",
    "Close",
    "Follow",
    "Open",
    "Present",
    "PushBatch",
    "ReadPage",
    "Send",
    "ServerSession",
]

MAX_REQUESTS = 32
"""Requests under way on one connection."""

WINDOW_CHUNKS = 4
"""Chunks of a pull that the client has not acknowledged; more are not sent, nor read from the log."""

WINDOW_BYTES = 900_000
"""The same in bytes; the Chunk that passes it is sent, the next one is not."""

CONNECTION_BYTES = 4 * WINDOW_BYTES
"""What all pulls of a connection may have in flight together."""

MAX_PRESENCES = 8
"""Clients and sessions that one connection may tell of."""

MAX_REASON_BYTES = 123
"""The reason in a websocket's close frame (RFC 6455)."""


@dataclass(slots=True, eq=False)
class _Pull:
    """A pull under way. ``after`` is all that it remembers of what it has yet to send."""

    key: int
    id: str
    live: bool
    cursor: codec.Cursor | None
    page_events: int
    after: int = 0
    end: int | None = None  # where a pull that is not live ends: the head at its first page
    asked: bool = False  # its first page was asked for
    started: bool = False  # and sent
    reading: bool = False  # a page has been asked for
    known: bool = False  # and the log was known to have one
    unacked: deque[int] = field(default_factory=deque)  # sizes of the Chunks in flight

    @property
    def bytes(self) -> int:
        return sum(self.unacked)


@dataclass(slots=True)
class _Push:
    id: str
    parent: int
    end: int  # its last event
    behind: int | None = None  # the head when the push that it follows was refused


@dataclass(slots=True, eq=False)
class _Watch:
    """A watch under way: one Chunk in flight, and what came meanwhile."""

    id: str
    backlog: Backlog = field(default_factory=Backlog)
    started: bool = False
    unacked: bool = False

    def send(self) -> list[Action]:
        """Send what waits, if the client has taken what was sent before."""
        if self.unacked or not self.backlog:
            return []
        self.unacked = True
        return [Send(codec.news(self.id, self.backlog.take()))]


class ServerSession:
    """One connection to one store.

    Args:
        store_id: the handshake's; frames that name another are refused.
    """

    def __init__(self, store_id: str) -> None:
        self.store_id = store_id
        self.backend_id: str | None = None
        self.head = 0
        self.closed = False
        self._opening = False
        self._absent = False
        self._held_up = False
        self._keys = 0
        self._refused: tuple[int | None, int | None] = None, None
        self._pulls: dict[int, _Pull] = {}
        self._pushes: dict[int, _Push] = {}
        self._watches: dict[int, _Watch] = {}
        self._presents: dict[int, codec.Presence] = {}
        self._present: set[tuple[str, str]] = set()
        self._exits: deque[tuple[int, str]] = (
            deque()
        )  # of pushes, held until the pulls have sent their events

    # From the client

    def receive(self, frame: str | bytes) -> list[Action]:
        """Take a frame. It never raises, whatever the frame."""
        if self.closed:
            return []
        try:
            read = codec.decode(frame)
        except codec.ProtocolError as error:
            return self._close(error.code, error.reason)
        match read:
            case codec.Ping():
                return [Send(codec.PONG)]
            case codec.Ack():
                return self._acknowledged(read.requestId)
            case codec.Interrupt():
                return self._interrupted(read.requestId)
            case codec.Eof():
                return []
        if self._is_under_way(read.id):
            return self._close(codec.INVALID_FRAME, "The id of a request that is under way was used again.")
        if isinstance(read, codec.Refused):
            return [Send(codec.failure(read.id, read.error))]
        if read.store_id != self.store_id:
            foreign = Forbidden("This connection is another store's.", field="storeId")
            return [Send(codec.failure(read.id, foreign))]
        requests = len(self._pulls) + len(self._pushes) + len(self._watches) + len(self._presents)
        if requests >= MAX_REQUESTS:
            many = TooLarge(f"A connection may have {MAX_REQUESTS} requests at once.")
            return [Send(codec.failure(read.id, many))]
        self._keys += 1
        match read:
            case codec.Push():
                parent = read.batch[0].parentSeqNum
                end, head = self._refused
                behind = head if parent == end else None
                self._pushes[self._keys] = _Push(read.id, parent, read.batch[-1].seqNum, behind)
                return [PushBatch(self._keys, read.batch, read.backend_id, read.privileged)]
            case codec.Pull():
                return self._start_pull(_Pull(self._keys, read.id, read.live, read.cursor, read.page_events))
            case codec.Watch():
                self._watches[self._keys] = _Watch(read.id)
                return self._open() if self.backend_id is None else [Follow(self._keys)]
            case codec.Presence():
                return self._start_presence(self._keys, read)

    def _start_pull(self, pull: _Pull) -> list[Action]:
        self._pulls[pull.key] = pull
        if self.backend_id is not None:
            return self._begin(pull, self.backend_id)
        if self._absent and not pull.live:
            return self._end(pull, codec.failure(pull.id, _absence()))
        return self._open()

    def _start_presence(self, key: int, read: codec.Presence) -> list[Action]:
        who = (read.client_id, read.session_id)
        known = set(self._present)
        for asked in self._presents.values():
            _tell(known, asked)
        if read.state is not None and who not in known and len(known) >= MAX_PRESENCES:
            many = TooLarge(f"A connection may tell of {MAX_PRESENCES} presences.")
            return [Send(codec.failure(read.id, many))]
        self._presents[key] = read
        if self.backend_id is not None:
            return [Present(key, *who, read.state)]
        if self._absent:
            return self.present_failed(key, _absence())
        return self._open()

    def _open(self) -> list[Action]:
        if self._opening:
            return []
        self._opening = True
        return [Open()]

    # From the host

    def opened(self, backend_id: str, head: int) -> list[Action]:
        """The store is there; from now on ``appended`` is called. A second call changes nothing."""
        if self.closed or self.backend_id is not None:
            return []
        self.backend_id, self.head = backend_id, max(head, self.head)
        actions = [action for pull in list(self._pulls.values()) for action in self._begin(pull, backend_id)]
        actions += [Follow(watch) for watch in self._watches]
        for key, present in self._presents.items():
            actions.append(Present(key, present.client_id, present.session_id, present.state))
        return actions

    def absent(self) -> list[Action]:
        """There is no such store, and the user may not make one. Live pulls wait until it is ``opened``."""
        if self.closed or self.backend_id is not None:
            return []
        self._absent = True
        actions: list[Action] = []
        for pull in list(self._pulls.values()):
            if not pull.live:
                actions += self._end(pull, codec.failure(pull.id, _absence()))
        for present in list(self._presents):
            actions += self.present_failed(present, _absence())
        return actions

    def unavailable(self, error: BaseException) -> list[Action]:
        """The store could not be opened, or cannot be read: a client that is closed comes back, after a while."""
        return self._close(codec.TRY_LATER, _reason(error))

    def revoked(self) -> list[Action]:
        """The user may no longer read."""
        return self._close(codec.INVALID_FRAME, "You may no longer read this store.")

    def appended(self, head: int, events: Sequence[Event] = ()) -> list[Action]:
        """The log has grown.

        Args:
            head: its last event.
            events: some of the last events without a gap, up to ``head``, to spare pulls a look into the log.
        """
        if self.closed or self.backend_id is None:
            return []
        self.head = max(self.head, head)
        actions: list[Action] = []
        for pull in list(self._pulls.values()):
            if pull.live and pull.started and not pull.reading:
                while events and events[0].seq <= pull.after + 1 <= events[-1].seq and not self._full(pull):
                    first = pull.after + 1 - events[0].seq
                    actions += self._send_page(
                        pull, events[first : first + pull.page_events], self.backend_id
                    )
                actions += self._read_on(pull)
        return actions + self._release()

    def page(self, pull: int, events: Sequence[Event], head: int) -> list[Action]:
        """What :class:`ReadPage` found.

        Args:
            pull: as in the action.
            events: the events, in order; none if the cursor is at the head.
            head: the log's head, taken after they were read; it may have grown in between.
        """
        self.head = max(self.head, head)
        reader = self._pulls.get(pull)
        if self.closed or reader is None or self.backend_id is None:
            return []
        reader.reading = False
        if (
            not events and reader.after > self.head
        ):  # With ServerAheadError such a client would wait for ever.
            error = BackendIdMismatch(self.backend_id, reader.cursor.backendId if reader.cursor else "")
            return self._end(reader, codec.failure(reader.id, error))
        if not events and reader.after < self.head:
            if reader.known:
                return self.page_failed(pull, DamagedLog(f"There is nothing after event {reader.after}."))
            return self._ask(reader)  # the log has grown between the reading and the look at its head
        if reader.end is None and not reader.live:
            reader.end = self.head
        actions = self._send_page(reader, events, self.backend_id) if events or not reader.started else []
        return actions + self._read_on(reader) + self._release()

    def page_failed(self, pull: int, error: BaseException) -> list[Action]:
        """The log could not be read."""
        if self.closed or pull not in self._pulls:
            return []
        if isinstance(error, (StoreClosed, StoreLocked)):  # A client does not repeat a pull that failed.
            return self.unavailable(error)
        return self._end(self._pulls[pull], codec.failure(self._pulls[pull].id, error))

    def pushed(self, push: int, head: int) -> list[Action]:
        """A batch is durable, as the events up to ``head``, and ``appended`` was called for it."""
        done = self._pushes.pop(push, None)
        if self.closed or done is None:
            return []
        self._exits.append((head, codec.success(done.id)))
        return self._release()

    def push_failed(self, push: int, error: BaseException) -> list[Action]:
        """A batch was refused, or could not be written."""
        failed = self._pushes.pop(push, None)
        if self.closed or failed is None:
            return []
        above = isinstance(error, HeadMoved) and error.provided > error.head
        if isinstance(error, BackendIdMismatch):
            above = error.received in ("", error.expected)
        if above:  # The same answer as to a cursor above the head,
            error = BackendIdMismatch(self.backend_id or "", self.backend_id or "")
            if (
                failed.behind is not None
            ):  # but not if this only follows a refused push: it costs a client its data.
                error = HeadMoved(failed.behind, failed.parent)
        behind = error.head if isinstance(error, HeadMoved) else failed.parent
        self._refused = failed.end, behind  # what follows may have been on its way when it was refused
        for later in self._pushes.values():
            later.behind = behind
        return [Send(codec.failure(failed.id, error))]

    def pull_refused(self, pull: int, error: AgentStoreError) -> list[Action]:
        """The user may not have what a pull asks for, or not now; instead of its first page."""
        refused = self._pulls.get(pull)
        if self.closed or refused is None:
            return []
        if error.status >= 500 or isinstance(
            error, RateLimited
        ):  # A client does not repeat a pull that failed.
            return self.unavailable(error)
        return self._end(refused, codec.failure(refused.id, error))

    def watching(self, watch: int, picture: Sequence[News]) -> list[Action]:
        """All that is there, for a watch that begins; from now on ``told`` is called."""
        begun = self._watches.get(watch)
        if self.closed or begun is None:
            return []
        begun.started = True
        begun.backlog.put(picture)
        return begun.send()

    def watch_failed(self, watch: int, error: BaseException) -> list[Action]:
        """A watch was refused."""
        failed = self._watches.pop(watch, None)
        return [] if self.closed or failed is None else [Send(codec.failure(failed.id, error))]

    def told(self, news: Sequence[News]) -> list[Action]:
        """Something that is kept nowhere has changed."""
        actions: list[Action] = []
        for watch in self._watches.values():
            if watch.started:
                watch.backlog.put(news)
                actions += watch.send()
        return actions

    def presented(self, present: int) -> list[Action]:
        """A presence was told to all watchers."""
        done = self._presents.pop(present, None)
        if self.closed or done is None:
            return []
        _tell(self._present, done)
        return [Send(codec.success(done.id))]

    def present_failed(self, present: int, error: BaseException) -> list[Action]:
        """A presence was refused; an earlier one of the same client stays as it was."""
        failed = self._presents.pop(present, None)
        return [] if self.closed or failed is None else [Send(codec.failure(failed.id, error))]

    # Inside

    def _begin(self, pull: _Pull, backend_id: str) -> list[Action]:
        if pull.cursor is not None:
            if pull.cursor.backendId != backend_id:
                error = BackendIdMismatch(backend_id, pull.cursor.backendId)
                return self._end(pull, codec.failure(pull.id, error))
            pull.after = pull.cursor.eventSequenceNumber
        return self._read_on(pull)

    def _ask(self, pull: _Pull) -> list[Action]:
        pull.reading, pull.known = True, pull.after < self.head
        begins, pull.asked = not pull.asked, True
        return [ReadPage(pull.key, pull.after, begins, pull.live, pull.page_events)]

    def _send_page(self, pull: _Pull, events: Sequence[Event], backend_id: str) -> list[Action]:
        """Send as many of the events as a page holds; the pull's end if that was its last page."""
        items: list[str] = []
        size = 0
        for event in events[: pull.page_events]:
            item = codec.item(event)
            size += _bytes(item)
            if items and size > MAX_PAGE_BYTES:
                break
            items.append(item)
        if items:
            pull.after = events[len(items) - 1].seq
            self.head = max(self.head, pull.after)
        remaining = (self.head if pull.end is None else pull.end) - pull.after
        text = codec.chunk(pull.id, items, remaining, backend_id)
        pull.started = True
        pull.unacked.append(size)
        if pull.end is not None and remaining <= 0:
            return [Send(text), *self._end(pull, codec.success(pull.id, None))]
        return [Send(text)]

    def _read_on(self, pull: _Pull) -> list[Action]:
        """Ask for the next page, if there is one and the client keeps up."""
        wanted = pull.key in self._pulls and not pull.reading and (not pull.started or pull.after < self.head)
        return self._ask(pull) if wanted and not self._full(pull) else []

    def _full(self, pull: _Pull) -> bool:
        """Whether the client has yet to take so much that no more is sent."""
        if len(pull.unacked) >= WINDOW_CHUNKS or pull.bytes >= WINDOW_BYTES:
            return True
        if len(self._pulls) <= 4:
            return False
        # Of a page that is being read it is not known yet how large it is.
        taken = sum(each.bytes + WINDOW_BYTES * each.reading for each in self._pulls.values())
        self._held_up = self._held_up or taken >= CONNECTION_BYTES
        return taken >= CONNECTION_BYTES

    def _acknowledged(self, request_id: str) -> list[Action]:
        pull = self._find(request_id)
        if pull is None:
            for watch in self._watches.values():
                if watch.id == request_id:
                    watch.unacked = False
                    return watch.send()
            return []
        if not pull.unacked:
            return []
        pull.unacked.popleft()
        return self._read_on(pull) + self._read_on_others()

    def _read_on_others(self) -> list[Action]:
        """Go on with pulls that were held up by others of the connection."""
        if not self._held_up:
            return []
        self._held_up = False
        return [action for pull in list(self._pulls.values()) for action in self._read_on(pull)]

    def _interrupted(self, request_id: str) -> list[Action]:
        held: dict[int, _Pull] | dict[int, _Push] | dict[int, _Watch]
        for held in (self._pulls, self._pushes, self._watches):
            for key in [key for key, request in held.items() if request.id == request_id]:
                del held[key]
        return self._release()

    def _is_under_way(self, request_id: str) -> bool:
        held = (self._pulls, self._pushes, self._watches, self._presents)
        return any(request.id == request_id for requests in held for request in requests.values())

    def _find(self, request_id: str) -> _Pull | None:
        return next((pull for pull in self._pulls.values() if pull.id == request_id), None)

    def _end(self, pull: _Pull, text: str) -> list[Action]:
        del self._pulls[pull.key]
        return [Send(text), *self._release()]

    def _release(self) -> list[Action]:
        """Send the Exits of pushes whose events the live pulls have sent, or will not send before an Ack."""
        actions = self._read_on_others()
        while self._exits:
            head, text = self._exits[0]
            if any(pull.live and pull.reading and pull.after < head for pull in self._pulls.values()):
                break
            self._exits.popleft()
            actions.append(Send(text))
        return actions

    def _close(self, code: int, reason: str) -> list[Action]:
        if self.closed:
            return []
        self.closed = True
        self._pulls.clear()
        self._pushes.clear()
        self._watches.clear()
        self._presents.clear()
        self._exits.clear()
        return [Close(code, reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore"))]


def _tell(present: set[tuple[str, str]], said: codec.Presence) -> None:
    """Who is there, once that is told."""
    (present.discard if said.state is None else present.add)((said.client_id, said.session_id))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _reason(error: BaseException) -> str:
    return error.message if isinstance(error, AgentStoreError) else "The server could not open this store."


def _absence() -> NotFound:
    return NotFound("There is no such store, and you may not make one.")
