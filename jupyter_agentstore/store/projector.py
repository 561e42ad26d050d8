"""The thread that keeps a store's tables up with its log.

What belongs here: when events are applied and when they are written. Events are applied in memory as soon as they
are durable, and row listeners hear of it at once; the file follows when a reader needs it, when much has gathered,
or a moment later. So a commit waits for no table, and a small commit costs no table's transaction of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from ..core.errors import AgentStoreError, StoreClosed
from ..core.events import Event
from ..core.operations import RowChange
from ..eventlog import EventLog
from ..eventlog.contract import PAGE_BYTES
from ..state.state import State

_SLICE = 1_000  # events applied at once: how long a reader of memory may have to wait
_QUEUE = 50_000  # events kept for applying; beyond that they are read from the log again
_WRITE_AT = 10_000  # unwritten events that are worth a transaction
_WRITE_AFTER = 0.05  # seconds that events may wait for their transaction
_RETRY_AFTER = 1.0  # seconds after a failed one

_log = logging.getLogger(__name__)


class Projector:
    """Applies a log's events to its tables, from where they stand.

    Args:
        state: the tables; this becomes their only writer.
        log: what they follow.
        publish: called with the rows that changed, in the thread; must return at once.
        name: of the thread.
    """

    def __init__(
        self, state: State, log: EventLog, publish: Callable[[Sequence[RowChange]], None], name: str
    ) -> None:
        self.state = state
        self._eventlog = log
        self._publish = publish
        self._changed = threading.Condition()
        self._queue: list[Event] = []
        self._known = log.head  # the last event that was put
        self._behind = state.applied < log.head  # whether the queue has a gap that the log must fill
        self._wanted = 0  # a reader wants the file to hold the events up to here
        self._document = False  # the agent's document has changed
        self._error: Exception | None = None  # why the last write failed
        self._broken: Exception | None = None  # why the last application failed
        self._stop = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def applied(self) -> int:
        """The last event applied in memory."""
        return self.state.applied

    def put(self, events: Sequence[Event]) -> None:
        """Events that have become durable, in order."""
        with self._changed:
            self._known = events[-1].seq
            if not self._behind:
                if len(self._queue) > _QUEUE:
                    self._behind = True
                    self._queue.clear()
                else:
                    self._queue.extend(events)
            self._changed.notify_all()

    def wait_applied(self, seq: int) -> None:
        """Wait until the events up to ``seq`` are applied in memory.

        Raises:
            StoreClosed: the projector was closed before.
        """
        if self.state.applied >= seq:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self.state.applied >= seq or self._stop or self._broken is not None
            )
            if self.state.applied < seq:
                raise _reason(self._broken)

    def wait_written(self, seq: int) -> None:
        """Wait until the tables in the file hold the events up to ``seq``.

        Raises:
            StoreClosed: the projector was closed before.
            OSError: the file cannot be written.
        """
        if self.state.flushed >= seq:
            return
        with self._changed:
            self._wanted = max(self._wanted, seq)
            self._error = None  # so that it is tried again at once
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self.state.flushed >= seq or self._stop or self._error or self._broken
            )
            if self.state.flushed < seq:
                raise _reason(self._error or self._broken)

    def nudge(self) -> None:
        """Something besides events (the agent's document) waits to be written."""
        with self._changed:
            self._document = True
            self._changed.notify_all()

    def close(self) -> None:
        """Apply and write what was put, then stop. What cannot be written is in the log, and applied next time."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        due: float | None = None  # when what is applied must be written
        while True:
            events, write = self._next(due)
            if events is None:
                return
            if events and not self._apply(events):
                due = time.monotonic() + _RETRY_AFTER
                continue
            if write or self.state.applied - self.state.flushed >= _WRITE_AT:
                due = None if self._write() else time.monotonic() + _RETRY_AFTER
                if due is not None and self._stop:
                    return
            elif due is None:
                due = time.monotonic() + _WRITE_AFTER

    def _next(self, due: float | None) -> tuple[list[Event] | None, bool]:
        """Wait for something to do: events to apply, and whether to write; None when it is time to stop."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._broken is not None:
                    if self._stop:
                        return None, False
                    if due is not None and now < due:
                        self._changed.wait(due - now)
                        continue
                if self._behind or self._queue:
                    break
                if self._document and due is None:
                    due = now + _WRITE_AFTER
                flushed = self.state.flushed
                unwritten = self.state.applied > flushed or self._document
                late = due is not None and now >= due
                if unwritten and (late or self._stop or (self._wanted > flushed and self._error is None)):
                    self._document = False
                    return [], True
                if self._stop:
                    return None, False
                self._changed.wait(None if due is None or not unwritten else due - now)
            if not self._behind:
                events, self._queue = self._queue[:_SLICE], self._queue[_SLICE:]
                return events, False
        return self._read(), False

    def _read(self) -> list[Event]:
        """The next events from the log, when the queue was too short or the store has just been opened."""
        events = self._eventlog.read(self.state.applied, _SLICE, PAGE_BYTES)
        with self._changed:
            if not events or events[-1].seq == self._known:
                self._behind = False
                self._queue.clear()
        return events

    def _apply(self, events: Sequence[Event]) -> bool:
        try:
            changes = self.state.apply(events)
        except Exception as error:  # it is total: this is a defect, and what it keeps back is in the log
            _log.exception("Events after %d could not be applied.", self.state.applied)
            with self._changed:
                self._broken = error
                self._behind = True
                self._queue.clear()
                self._changed.notify_all()
            return False
        with self._changed:
            self._broken = None
            self._changed.notify_all()
        if changes:
            self._publish(changes)
        return True

    def _write(self) -> bool:
        try:
            self.state.flush()
            error = None
        except Exception as failure:
            _log.exception("The tables could not be written.")
            error = failure
        with self._changed:
            self._error = error
            self._changed.notify_all()
        return error is None


def _reason(error: Exception | None) -> Exception:
    """What a reader is told who waited in vain."""
    if error is None:
        return StoreClosed("The store is closed.")
    if isinstance(error, (OSError, AgentStoreError)):
        return error
    return OSError(f"The tables cannot be kept up with the log: {error}")
