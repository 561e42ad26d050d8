"""What every event log promises, and the check that each makes before it takes events.

What belongs here: the protocol and what all logs share. Where the events are kept is a backend's business; what
they mean is the schema's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ..core.errors import HeadMoved
from ..core.events import Event

Progress = Callable[[int, int], None]
"""Called with ``(done, total)``, numbers of events, now and then and once at the end."""

PAGE_BYTES = 64_000_000
"""Bodies in one page of :meth:`EventLog.scan`, in bytes of UTF-8: what keeps 10,000 large events out of memory."""

_INT64 = 2**63


class EventLog(Protocol):
    """An append-only, gapless, ordered sequence of events.

    ``append``, ``read`` and ``scan`` may be called from different threads at the same time: reads see whole
    appends, and only acknowledged ones. All calls after :meth:`close` raise
    :class:`~jupyter_agentstore.core.errors.StoreClosed`.

    Attributes:
        backend_id: names this log for as long as it exists; a log made anew or restored has another.
        head: the last event's ``seq``; 0 when there is none. It never goes back.
        last_recorded_at: the last event's ``recorded_at``, milliseconds; 0 when there is none.
    """

    @property
    def backend_id(self) -> str: ...

    @property
    def head(self) -> int: ...

    @property
    def last_recorded_at(self) -> int: ...

    def append(self, events: Sequence[Event]) -> None:
        """Add events, all or none; when it returns they are durable (if the backend is), and ``head`` says so.

        No events do nothing. After an error the log is as it was, and takes the next append.

        Args:
            events: their ``seq`` goes on from ``head + 1`` by ones, their ``recorded_at`` (at least 0) never goes
                back, neither within them nor from the log's last one.

        Raises:
            HeadMoved: the first one's ``seq`` is not ``head + 1``.
            ValueError: a gap, a ``recorded_at`` that goes back, or text that UTF-8 cannot hold (a lone surrogate).
            OSError: the backend could not write, for example because the disk is full.
            StoreClosed: the log is closed.
        """

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        """The events after a cursor, in order.

        Args:
            after: a ``seq``, 0 for the beginning; at or past the head there are none.
            limit: how many at most, at least 1.
            max_bytes: how much their bodies may have together, in bytes of UTF-8; the first is given in any case.

        Raises:
            ValueError: ``after`` is negative or ``limit`` is not positive.
            DamagedLog: what was written cannot be read.
            StoreClosed: the log is closed.
        """

    def scan(self, after: int = 0, size: int = 10_000, end: int | None = None) -> Iterator[list[Event]]:
        """The events after a cursor up to and with ``end``, in pages; by default to the head at the first page.

        A page has at most ``size`` events and, unless it has one, at most :data:`PAGE_BYTES`. Appends go on
        meanwhile. Raises what :meth:`read` raises.
        """
        check_cursor(after, size)
        end = self.head if end is None else min(end, self.head)
        while after < end:
            page = self.read(after, min(size, end - after), PAGE_BYTES)
            yield page
            after = page[-1].seq

    def verify(self, progress: Progress | None = None) -> int:
        """Read everything and check it: order, times, and that each body is an event with its own number.

        Returns:
            How many events there are.

        Raises:
            DamagedLog: with the first fault.
            StoreClosed: the log is closed.
        """

    def checkpoint(self) -> None:
        """Bring what was appended into its final place, so that opening is fast. Nothing depends on it."""

    def close(self) -> None:
        """Let go of everything, after calls that are under way. A second call does nothing."""


def check(events: Sequence[Event], head: int, last_recorded_at: int) -> None:
    """Raise what :meth:`EventLog.append` raises for events that do not follow ``head``."""
    if events[0].seq != head + 1:
        raise HeadMoved(head, events[0].seq - 1)
    seq, time = head, max(last_recorded_at, 0)
    for event in events:
        seq += 1
        if event.seq != seq:
            raise ValueError(f"The events have a gap: {event.seq} comes where {seq} should be.")
        if event.recorded_at < time:
            raise ValueError(f"Event {seq}: recorded_at goes back from {time} to {event.recorded_at}.")
        time = event.recorded_at
        if not event.body.isascii():
            _check_utf8(event.body, seq)
        if not event.actor.isascii():
            _check_utf8(event.actor, seq)
    if time >= _INT64:
        raise ValueError(f"Event {seq}: recorded_at is out of range.")


def _check_utf8(text: str, seq: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"Event {seq} holds a lone surrogate; a body must have it as an escape.") from None


def check_cursor(after: int, limit: int) -> None:
    """Raise what :meth:`EventLog.read` raises for its arguments."""
    if after < 0:
        raise ValueError(f"The cursor {after} is negative.")
    if limit < 1:
        raise ValueError(f"The limit {limit} is not positive.")
