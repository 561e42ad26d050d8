"""The client's end of the protocol, as a state machine: frames, commits and the time in, actions out.

What belongs here: what is pending, what is pushed when, what a server's words mean. No sockets, no clock, no threads:
a host keeps a connection and carries the actions out, in the order in which they came. Its calls must not overlap.

What makes it safe: an event is pushed only under numbers that the host has already made durable, one batch is in
flight at a time, and whether a batch arrived whose answer was lost is learnt from the log itself, by pulling first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.errors import AgentStoreError, BackendIdMismatch, HeadMoved
from ..core.events import Event, Wire, encode_args, wire
from ..core.limits import MAX_EVENT_BYTES, MAX_PAGE_BYTES, MAX_PUSH_EVENTS
from ..core.sync_state import LocalPush, Rebase, Reject, SyncState, UpstreamAdvance, merge
from . import client_codec as codec
from .client_actions import (
    Action,
    CaughtUp,
    Changed,
    Committed,
    Hangup,
    OtherLog,
    Refused,
    Send,
    Told,
)
from .codec import MAX_SEQ

PING_SECONDS = 10.0
"""Between pings, and for which an answer to one may take; presence is renewed as often."""

PAGE_SECONDS = 30.0
"""For which it may take while pages are coming in, which hold it up on a slow line."""

FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
"""Seconds before a push that failed for a reason that may pass is tried again, at first and at most."""

PATIENCE_SECONDS = 60.0
"""How long the answer to a push may take, or events that a server says are there; then the connection is ended."""

_ROOM = 1_000  # bytes of an event beside its args that need no look


__all__ = [
    "Action", "CaughtUp", "Changed", "ClientSession", "Committed", "Hangup", "OtherLog", "Refused", "Send", "Told",
]  # fmt: skip


class _Flight(msgspec.Struct):
    """A push that is not answered yet; ``valid`` until its events are renumbered, ``size`` in bytes."""

    id: str
    parent: int
    last: int
    size: int
    valid: bool = True


class ClientSession:
    """One session of one client with one store.

    Args:
        store_id: the store.
        client_id: names the client in its events.
        session_id: names the session; no two sessions that are open at once share it.
        backend_id: the log that ``head`` and ``applied`` are in; None if nothing is known of it.
        head: the upstream head that ``pending`` stands on.
        applied: the last event that the tables have, by default ``head``. After a crash it may be below ``head``
            (the tables lag: what is missing is handed on again) or above it (the journal lags: what has been applied
            is only compared with what is pending).
        pending: events of an earlier run of this session.
        watch: whether ephemeral news are wanted; it is looked at when a connection is opened.

    Attributes:
        state: what is pending, and on what.
        caught_up: everything that was in the log when the connection was opened has come.
        refused: why pushing has stopped, or None.
        server_head: the log's last event, as far as the server has said.
        stopped: it has ended with :class:`OtherLog`; commits only gather in ``state.pending``.

    Raises:
        ValueError: ``pending`` is no chain on ``head``, or a number is not 0 without a ``backend_id``.
    """

    def __init__(
        self,
        store_id: str,
        client_id: str,
        session_id: str,
        *,
        backend_id: str | None = None,
        head: int = 0,
        applied: int | None = None,
        pending: Sequence[Wire] = (),
        watch: bool = False,
    ) -> None:
        self.store_id = store_id
        self.client_id = client_id
        self.session_id = session_id
        self.backend_id = backend_id
        self.watch = watch
        self.state = SyncState(tuple(pending), head, head + len(pending))
        self.state.check()
        self.caught_up = False
        self.refused: AgentStoreError | None = None
        self.stopped = False
        self.server_head = head
        self._applied = head if applied is None else applied
        if self._applied < 0 or (backend_id is None and (head or self._applied)):
            raise ValueError(
                f"{self._applied} and {head} are no numbers of events in the log {backend_id!r}."
            )
        self._cursor = min(head, self._applied)  # the last event that has come
        self._presence: dict[str, Any] | None = None
        self._requests = 0
        # A push was cut off, perhaps in an earlier run, and it is not known yet whether it arrived.
        self._doubtful = bool(pending)
        self._room = (
            MAX_PAGE_BYTES  # for the next push; less after one that was cut off, for the sake of slow lines
        )
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._open = False
        self.caught_up = False
        self._pull: str | None = None
        self._watch: str | None = None
        self._goal: int | None = None  # where the log ended when it was first looked at
        self._flight: _Flight | None = None
        self._accepted = 0  # pending events up to here are in the log, but have not come yet
        self._behind = 0  # nothing is pushed before the event of this number has come
        self._pause = 0.0  # the last pause before a push
        self._pausing = False
        self._until: float | None = None  # the pause's end
        self._since: float | None = None  # when something was first waited for
        self._pinged: float | None = None
        self._heard = False

    # ---- the connection

    def opened(self) -> list[Action]:
        """There is a new connection."""
        self.closed()
        if self.stopped:
            return []
        self._open = True
        self._pull = pull = self._number()
        actions: list[Action] = [
            Send(codec.PING),
            Send(codec.pull(pull, self.store_id, self.backend_id, self._cursor)),
        ]
        if self.watch:
            self._watch = watch = self._number()
            actions.append(Send(codec.watch(watch, self.store_id)))
        if self._presence is not None:
            actions.append(self._present())
        return actions

    def closed(self) -> list[Action]:
        """The connection is gone. What is pending stays."""
        if self._flight is not None:
            self._doubtful = True
            self._room = max(self._flight.size // 2, 1)
        self._forget_connection()
        return []

    def receive(self, frame: str | bytes) -> list[Action]:
        """Take a frame. It never raises, whatever the frame."""
        if not self._open:
            return []
        self._heard = True
        try:
            read = codec.decode(frame)
            match read:
                case codec.Chunk(requestId=self._pull):
                    return self._pulled(read)
                case codec.Chunk(requestId=self._watch):
                    return [Told(codec.news(read)), Send(codec.ack(read.requestId))]
                case codec.Exit():
                    return self._ended(read)
        except codec.Unreadable as error:
            return self._hang_up(f"The server sent what cannot be read: {error}")
        return []

    def tick(self, now: float) -> list[Action]:
        """The time, in seconds of a clock that never goes back; to be called about once a second."""
        if not self._open:
            return []
        actions: list[Action] = []
        if self._pinged is None:  # `opened` sent the first one
            self._pinged = now
        elif now - self._pinged >= PING_SECONDS:
            if self._heard:
                self._pinged, self._heard = now, False
                actions.append(Send(codec.PING))
                if self._presence is not None:
                    actions.append(self._present())
            elif self.caught_up or self._goal is None or now - self._pinged >= PAGE_SECONDS:
                return self._hang_up(f"The server has not answered for {now - self._pinged:.0f} s.")
        if self._flight is None and self._behind <= self.state.upstream_head:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= PATIENCE_SECONDS:
            return self._hang_up(f"The server has not answered a push for {PATIENCE_SECONDS:.0f} s.")
        if self._pausing:
            if self._until is None:
                self._until = now + self._pause
            elif now >= self._until:
                self._pausing = False
                actions += self._push()
        return actions

    # ---- the user

    def commit(self, events: Sequence[tuple[str, str]]) -> list[Action]:
        """Add events, all or none; it makes no difference whether there is a connection.

        Args:
            events: names, and args as JSON text.

        Raises:
            InvalidEvent: args are not JSON.
            TooLarge: an event is over its limit.
        """
        if not events:
            return []
        head = self.state.local_head
        added = [
            Wire(name, _args(self, name, args), seq, seq - 1, self.client_id, self.session_id)
            for seq, (name, args) in enumerate(events, head + 1)
        ]
        merged = merge(self.state, LocalPush(added))
        assert not isinstance(merged, Reject)
        self.state = merged.state
        return [Committed(added), *self._push()]

    def resume(self) -> list[Action]:
        """Push again what was refused, without a pause."""
        self.refused = None
        self._pausing = False
        return self._push()

    def discard(self) -> list[Action]:
        """Drop what is pending; events of it that the server has taken already stay until they come.

        Raises:
            ValueError: a push is under way, or may have been when the connection broke or an earlier run ended: it is
                not known whether its events are in the log. It is known again after :class:`CaughtUp`.
        """
        if self._flight is not None or self._doubtful:
            raise ValueError("It is not known yet whether the events that were pushed last are in the log.")
        self.refused = None
        head = self.state.upstream_head
        kept = self.state.pending[: max(self._accepted - head, 0)]
        self.state = SyncState(kept, head, head + len(kept))
        return [Changed((), 0, kept, rebased=True, head=head)]

    def presence(self, value: dict[str, Any] | None) -> list[Action]:
        """Say what this session's user is at; None: gone. It is repeated until it changes.

        Raises:
            InvalidEvent: the value has no JSON.
        """
        encode_args(value)
        changed = value is not None or self._presence is not None
        self._presence = value
        return [self._present()] if changed and self._open else []

    # ---- inside: the pull

    def _pulled(self, chunk: codec.Chunk) -> list[Action]:
        fresh: list[Event] = []
        bodies: list[msgspec.Raw] = []
        cursor = self._cursor
        pages = codec.pages(chunk)
        for page in pages:
            if page.backendId != self.backend_id:
                if self.backend_id is not None:
                    return self._stop(page.backendId)
                self.backend_id = page.backendId
            for item in page.batch:
                at = codec.numbers(item.eventEncoded)
                if at.parentSeqNum != at.seqNum - 1 or at.seqNum > cursor + 1:
                    return self._hang_up(f"The server sent event {at.seqNum} where {cursor + 1} should come.")
                if at.seqNum <= cursor:
                    continue
                cursor = at.seqNum
                about = item.metadata.value
                body = codec.text(item.eventEncoded, chunk.mask)
                fresh.append(Event(cursor, codec.milliseconds(about.createdAt), about.actor, body))
                bodies.append(item.eventEncoded)
        actions: list[Action] = []
        if fresh:
            actions.append(self._take(fresh, bodies, chunk.mask))
        actions.append(Send(codec.ack(chunk.requestId)))
        info = pages[-1].pageInfo
        self.server_head = cursor + info.remaining
        if self._goal is None and info.tag == "MoreKnown":
            self._goal = self.server_head
        if not self.caught_up and (info.tag == "NoMore" or (self._goal is not None and cursor >= self._goal)):
            if cursor < self.state.upstream_head:  # it had more: it has lost events
                return self._stop(pages[-1].backendId)
            self.caught_up, self._doubtful = True, False
            actions.append(CaughtUp())
        return actions + self._push()

    def _take(self, events: Sequence[Event], bodies: Sequence[msgspec.Raw], mask: bytes) -> Changed:
        """Take events that follow the cursor."""
        head, confirmed, rebased = self.state.upstream_head, 0, False
        last = events[-1].seq
        if last > head:
            if self.state.pending:
                new = [codec.event(body, mask) for body in bodies[max(head + 1 - events[0].seq, 0) :]]
                merged = merge(self.state, UpstreamAdvance(new))
                assert not isinstance(merged, Reject)
                confirmed, rebased = merged.confirmed, isinstance(merged, Rebase)
                self.state = merged.state
            else:
                self.state = SyncState((), last, last)
        self._cursor = last
        if self._applied >= events[0].seq:
            events = events[self._applied + 1 - events[0].seq :]
        self._applied = max(self._applied, last)
        if rebased:
            self._accepted = 0
            if self._flight is not None:
                self._flight.valid = False
        return Changed(events, confirmed, self.state.pending, rebased, self.state.upstream_head)

    # ---- inside: the push

    def _push(self) -> list[Action]:
        """Send the next batch, if it is time for one."""
        head, pending = self.state.upstream_head, self.state.pending
        if (
            not pending
            or not self.caught_up
            or self._flight is not None
            or self._pausing
            or self._behind > head
            or self.refused is not None
            or self.backend_id is None
        ):
            return []
        bodies: list[str] = []
        size = 1
        first = max(self._accepted - head, 0)
        for event in pending[first : first + MAX_PUSH_EVENTS]:
            args = bytes(event.args).decode()
            body = wire(event.name, args, event.seqNum, event.clientId, event.sessionId)
            length = 1 + (len(body) if body.isascii() else len(body.encode()))
            if bodies and size + length > self._room:
                break
            size += length
            bodies.append(body)
        if not bodies:
            return []
        parent = head + first
        self._flight = _Flight(self._number(), parent, parent + len(bodies), size)
        self._since = None
        return [Send(codec.push(self._flight.id, self.store_id, self.backend_id, bodies))]

    def _ended(self, end: codec.Exit) -> list[Action]:
        error = codec.error(end)
        if end.requestId == self._pull:
            if isinstance(error, BackendIdMismatch):
                return self._stop(error.expected)
            return self._hang_up(error.message if error else "The server ended the pull.")
        flight = self._flight
        if flight is None or end.requestId != flight.id:
            return []
        self._flight = self._since = None
        head = self.state.upstream_head
        if error is None:
            self._pause = 0.0
            self._room = min(max(2 * flight.size, self._room), MAX_PAGE_BYTES)
            if flight.valid:
                self._accepted = flight.last
            return self._push()
        if isinstance(error, BackendIdMismatch):
            return self._stop(error.expected)
        if isinstance(error, HeadMoved) and (error.head > head or head > flight.parent):
            self._behind = error.head  # the pull brings what is missing, or has done so already
            return self._push()
        if error.code in codec.FINAL:
            self.refused = error
            return [Refused(error)]
        self._pause = min(max(2 * self._pause, FIRST_PAUSE, codec.retry_after(end)), LAST_PAUSE)
        self._pausing, self._until = True, None
        return []

    # ---- inside

    def _number(self) -> str:
        self._requests += 1
        return str(self._requests)

    def _present(self) -> Send:
        who = (self.store_id, self.client_id, self.session_id)
        return Send(codec.presence(self._number(), *who, self._presence))

    def _hang_up(self, reason: str) -> list[Action]:
        self.closed()
        return [Hangup(reason)]

    def _stop(self, backend_id: str) -> list[Action]:
        self.closed()
        self.stopped = True
        return [OtherLog(backend_id)]


def _args(session: ClientSession, name: str, args: str) -> msgspec.Raw:
    """Checked args; of a large event the size too, with the largest number that it could ever have."""
    raw = codec.args(args)
    if 4 * (len(args) + len(name)) + _ROOM > MAX_EVENT_BYTES:
        wire(name, bytes(raw).decode(), MAX_SEQ, session.client_id, session.session_id)
    return raw
