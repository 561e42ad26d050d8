"""Sync state: what a session has beyond the log that it follows, and the one function that changes it.

What belongs here: the pure merge of LiveStore's protocol. Who sends what when is the business of ``sync``.

The theory. The log is a sequence of events; a session has a prefix of it, up to ``upstream_head``, and its own
``pending`` events on top, numbered as if they came next. An upstream event is taken by one rule: if it has the
content of the first pending event, that one is *confirmed*; otherwise the pending events are *rebased*: renumbered to
follow it. Either way they keep their order. A chunk is taken event by event, so chunks may be cut anywhere:
``merge(a + b)`` is ``merge(a)`` and then ``merge(b)``. It follows that an event of this session is confirmed at
whatever number the log gave it, and that one which was pushed before a crash is not pushed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .events import Wire


class SyncState(msgspec.Struct, frozen=True):
    """Where a session stands.

    Attributes:
        pending: its events that the log has not confirmed, a chain on ``upstream_head``.
        upstream_head: the log's last event that it has, a sequence number.
        local_head: its own last event: ``upstream_head + len(pending)``.
    """

    pending: tuple[Wire, ...] = ()
    upstream_head: int = 0
    local_head: int = 0

    def check(self) -> None:
        """Check that ``pending`` is a chain between the heads.

        Raises:
            ValueError: it is not, or a head is negative.
        """
        if self.upstream_head < 0:
            raise ValueError(f"The upstream head {self.upstream_head} is negative.")
        _check_chain(self.pending, self.upstream_head)
        _check_heads(self)


class UpstreamAdvance(msgspec.Struct, frozen=True):
    """The log has grown by ``new_events``, a chain on the upstream head."""

    new_events: Sequence[Wire]


class UpstreamRebase(msgspec.Struct, frozen=True):
    """Upstream took back ``rollback_events``, its last ones, and has ``new_events`` (no fewer) in their place."""

    rollback_events: Sequence[Wire]
    new_events: Sequence[Wire]


class LocalPush(msgspec.Struct, frozen=True):
    """The session adds ``new_events``, a chain on its local head."""

    new_events: Sequence[Wire]


class Advance(msgspec.Struct, frozen=True):
    """Nothing has to be rolled back.

    Attributes:
        state: the new state.
        confirmed: how many of the first pending events are now upstream's.
        new_events: what comes on top of what the session had: upstream's events after the confirmed ones, or the
            session's own of a :class:`LocalPush`.
    """

    state: SyncState
    confirmed: int
    new_events: Sequence[Wire]


class Rebase(msgspec.Struct, frozen=True):
    """Roll back, apply upstream's events, and apply what is pending again.

    Attributes:
        state: the new state; its ``pending`` are renumbered.
        confirmed: how many of the first pending events are now upstream's, those among ``new_events`` included.
        rollback_events: what is no longer where it was, in its old order and with its old numbers: upstream's, if it
            took events back, and pending ones.
        new_events: upstream's events from there on.
    """

    state: SyncState
    confirmed: int
    rollback_events: Sequence[Wire]
    new_events: Sequence[Wire]


class Reject(msgspec.Struct, frozen=True):
    """A :class:`LocalPush` begins at or below the local head; the first number should have been ``expected``."""

    expected: int


Payload = UpstreamAdvance | UpstreamRebase | LocalPush


def merge(state: SyncState, payload: Payload) -> Advance | Rebase | Reject:
    """Take news from upstream or from the session's user. Nothing that is given is changed.

    Raises:
        ValueError: the payload's events are no chain where they should be, or would take a head back.
    """
    result: Advance | Rebase | Reject
    match payload:
        case UpstreamAdvance():
            result = _advance(state, payload.new_events)
        case UpstreamRebase():
            result = _rebase(state, payload)
        case LocalPush():
            result = _push(state, payload.new_events)
    if not isinstance(result, Reject):
        _check_heads(result.state)
        if result.state.upstream_head < state.upstream_head or result.state.local_head < state.local_head:
            raise ValueError("A head would go back.")
    return result


def same(a: Wire, b: Wire) -> bool:
    """Whether two events are equal: number, name, args (as bytes), client and session."""
    return a.seqNum == b.seqNum and _alike(a, b)


def renumber(events: Sequence[Wire], head: int) -> tuple[Wire, ...]:
    """The events as a chain on ``head``."""
    return tuple(
        Wire(event.name, event.args, seq, seq - 1, event.clientId, event.sessionId)
        for seq, event in enumerate(events, head + 1)
    )


def _advance(state: SyncState, events: Sequence[Wire]) -> Advance | Rebase:
    if not events:
        return Advance(state, 0, ())
    _check_chain(events, state.upstream_head)
    pending, confirmed, parted = state.pending, 0, None
    for index, event in enumerate(events):
        if confirmed == len(pending):
            break
        if _alike(pending[confirmed], event):
            confirmed += 1
        elif parted is None:
            parted = index
    head = events[-1].seqNum
    rest = pending[confirmed:]
    if parted is None:
        return Advance(SyncState(rest, head, head + len(rest)), confirmed, events[confirmed:])
    rebased = SyncState(renumber(rest, head), head, head + len(rest))
    return Rebase(rebased, confirmed, pending[parted:], events[parted:])


def _rebase(state: SyncState, payload: UpstreamRebase) -> Rebase:
    base = state.upstream_head - len(payload.rollback_events)
    if base < 0:
        raise ValueError(
            f"{len(payload.rollback_events)} events of {state.upstream_head} cannot be taken back."
        )
    _check_chain(payload.rollback_events, base)
    _check_chain(payload.new_events, base)
    head = base + len(payload.new_events)
    pending = renumber(state.pending, head)
    rebased = SyncState(pending, head, head + len(pending))
    return Rebase(rebased, 0, (*payload.rollback_events, *state.pending), payload.new_events)


def _push(state: SyncState, events: Sequence[Wire]) -> Advance | Reject:
    if events and events[0].seqNum <= state.local_head:
        return Reject(state.local_head + 1)
    _check_chain(events, state.local_head)
    pending = (*state.pending, *events)
    return Advance(SyncState(pending, state.upstream_head, state.local_head + len(events)), 0, events)


def _alike(a: Wire, b: Wire) -> bool:
    """Whether two events have the same content, whatever their numbers."""
    return a.sessionId == b.sessionId and a.clientId == b.clientId and a.name == b.name and a.args == b.args


def _check_chain(events: Sequence[Wire], head: int) -> None:
    for seq, event in enumerate(events, head + 1):
        if event.seqNum != seq or event.parentSeqNum != seq - 1:
            raise ValueError(
                f"No chain: event {event.seqNum} after {event.parentSeqNum} stands where {seq} should."
            )


def _check_heads(state: SyncState) -> None:
    if state.local_head != state.upstream_head + len(state.pending):
        raise ValueError(
            f"{len(state.pending)} pending events do not lie between {state.upstream_head} and {state.local_head}."
        )
