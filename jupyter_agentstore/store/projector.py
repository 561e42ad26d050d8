"""The thread that keeps a store's tables up with its log.

What belongs here: when events are applied and when they are written. Events are applied in memory as soon as they
are durable, and row listeners hear of it at once; the file follows when a reader needs it, when much has gathered,
or a moment later. So a commit waits for no table, and a small commit costs no table's transaction of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ..core.errors import StoreClosed
from ..core.events import Event
from ..core.operations import RowChange
from ..eventlog import EventLog
from ..eventlog.contract import PAGE_BYTES
from ..state.state import State

_SLICE = 1_000  # events applied at once: how long others may have to wait for memory
_SMALL = 200  # the same while the writer is busy: how long it may have to wait for the interpreter
_LAG = 0.02  # seconds that events may wait to be applied while the writer is busy and nobody asks for them
_QUEUE = 50_000  # events kept for applying; beyond that they are read from the log again
_PAGE = 5_000  # events read from the log at once
_WRITE_AT = 10_000  # unwritten events that are worth a transaction
_WRITE_AFTER = 0.05  # seconds that events may wait for their transaction, at least
_REST = 4  # times as long as the last transaction took: what writing may cost beside the log's
_RETRY_AFTER = 1.0  # seconds after a failure

_log = logging.getLogger(__name__)


class Projector:
    """Applies a log's events to its tables, from where they stand.

    Attributes:
        state: the tables.
        resuming: whether what was in the log at the opening is still being applied.

    Args:
        state: the tables; this alone applies events to them.
        log: what they follow.
        publish: called with the rows that changed by events that came in since, in the thread; must return at once.
        busy: whether commits are under way; they go before, because somebody waits for them.
        name: of the thread.
    """

    def __init__(
        self,
        state: State,
        log: EventLog,
        publish: Callable[[Sequence[RowChange]], None],
        busy: Callable[[], bool],
        name: str,
    ) -> None:
        self.state = state
        self._eventlog = log
        self._publish = publish
        self._busy = busy
        self._changed = threading.Condition()
        self._queue: list[Event] = []
        self._opened = log.head  # what is up to here nobody needs to be told of
        self._known = log.head  # the last event that was put
        self._behind = state.applied < log.head  # whether the queue has a gap that the log must fill
        self._since = 0.0  # when the oldest event that is not applied was put, or the last ones were applied
        self._waiters = 0
        self._napping = False
        self._document = True  # the agent's document may have changed
        self._broken: Exception | None = None  # why what was put cannot be applied
        self._failing = False  # whether the last write failed
        self.resuming = True
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
            if not self._queue and not self._behind:
                self._since = time.monotonic()
            if not self._behind:
                if len(self._queue) > _QUEUE:
                    self._behind = True
                    self._queue.clear()
                else:
                    self._queue.extend(events)
            if not self._napping:
                self._changed.notify_all()

    def wait_applied(self, seq: int) -> None:
        """Wait until the events up to ``seq`` are applied in memory.

        Raises:
            StoreClosed: the projector was closed before.
            OSError: they cannot be applied.
        """
        if self.state.applied >= seq:
            return
        with self._changed:
            self._waiters += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.state.applied >= seq or self._stop or self._broken)
            self._waiters -= 1
            if self.state.applied >= seq:
                return
            broken = self._broken
        if broken is not None:
            raise OSError(f"The tables cannot be kept up with the log: {broken}") from broken
        raise StoreClosed("The store is closed.")

    def wait_written(self, seq: int) -> None:
        """Wait until the tables in the file hold the events up to ``seq``; raises as :meth:`wait_applied`."""
        self.wait_applied(seq)
        while self.state.flushed < seq or self._document:
            self._document = False
            try:
                self.state.flush()
            finally:
                self._tell()  # it may have had to start over
            self.wait_applied(seq)

    def writer_rests(self) -> None:
        """No commits are under way any more."""
        if self._napping:
            with self._changed:
                self._changed.notify_all()

    def touch(self) -> None:
        """Something besides events (the agent's document) waits to be written."""
        with self._changed:
            self._document = True
            self._changed.notify_all()

    def close(self) -> None:
        """Apply what was put, then stop. What is not applied or written is in the log, for the next time."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        due: float | None = None  # when what is applied must be written
        pause = _WRITE_AFTER
        self._resume()
        while True:
            try:
                events = self._next(due)
                if events is None:
                    return
                if events:
                    self._apply(events)
                late = due is not None and time.monotonic() >= due
                much = self.state.applied - self.state.flushed >= _WRITE_AT
                if late or (much and not self._failing):
                    self._document = False
                    began = time.monotonic()
                    self.state.flush()
                    self._failing = False
                    self._broken = None
                    pause = max(_WRITE_AFTER, _REST * (time.monotonic() - began))
                    due = None
                elif due is None:
                    due = time.monotonic() + pause
                if self.state.rebuilding and self.state.applied >= self._known:
                    self.state.finish()
                    self._tell()
            except Exception as error:
                _log.exception("The tables could not be kept up with the log.")
                self._failed(error)
                due = time.monotonic() + _RETRY_AFTER

    def _resume(self) -> None:
        """Catch up with the log as it was opened."""
        self.resuming = True
        try:
            if self.state.applied < self._opened:
                self.state.catch_up(self._pages(), self._tell)
            if not self._stop:
                self.state.finish()
        except Exception:  # tried again by the loop, in smaller steps
            _log.exception("The tables could not be brought up to the log.")
        self.resuming = False
        self._tell()

    def _failed(self, error: Exception) -> None:
        """Something failed that will be tried again: let those hear of it who wait for it."""
        with self._changed:
            self._failing = True
            unwritten = self.state.applied - self.state.flushed
            if self.state.applied < self._known or unwritten > _QUEUE:
                self._broken = error
                self._behind = True
                self._queue.clear()
            self._changed.notify_all()

    def _pages(self) -> Iterator[list[Event]]:
        for page in self._eventlog.scan(self.state.applied, end=self._opened):
            if self._stop:
                return
            yield page

    def _next(self, due: float | None) -> list[Event] | None:
        """Wait for something to do: events to apply, none when it is time to write, None when it is time to stop."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._queue and self._queue[0].seq != self.state.applied + 1:
                    self._queue = []  # the tables had to start over
                if not self._queue and self.state.applied < self._known:
                    self._behind = True
                if self._stop and (self._behind or self._broken is not None):
                    return None  # the log has it
                if self._broken is not None:
                    if due is not None and now < due:
                        self._changed.wait(due - now)
                        continue
                    if self.state.applied - self.state.flushed > _QUEUE:
                        return []  # no more before this is written
                if self._behind or self._queue:
                    if now >= self._since + _LAG or self._waiters or self._stop or not self._busy():
                        break
                    self._napping = True
                    self._changed.wait(self._since + _LAG - now)
                    self._napping = False
                    continue
                if self._stop:
                    return None
                waiting = self.state.applied > self.state.flushed or self._document
                if waiting and (due is None or now >= due):
                    return []
                self._changed.wait(due - now if waiting and due is not None else None)
            if self._queue:
                return self._slice()
        self._read()
        with self._changed:
            return self._slice()

    def _slice(self) -> list[Event]:
        size = _SMALL if self._busy() else _SLICE
        events, self._queue = self._queue[:size], self._queue[size:]
        return events

    def _read(self) -> None:
        """Fill the queue from the log, when it was too short."""
        events = self._eventlog.read(self.state.applied, _PAGE, PAGE_BYTES)
        with self._changed:
            self._queue = events
            self._behind = bool(events) and events[-1].seq < self._known

    def _apply(self, events: Sequence[Event]) -> None:
        try:
            changes = self.state.apply(events)
        except Exception:
            with self._changed:
                # They were taken from the queue: they are read from the log again.
                self._behind = True
                self._queue.clear()
            raise
        self._broken = None
        self._since = time.monotonic() if self._queue else 0.0
        self._tell()
        if changes:
            self._publish(changes)
        if self._busy():
            time.sleep(0)  # lets the writer have the interpreter

    def _tell(self, _applied: int = 0) -> None:
        with self._changed:
            self._changed.notify_all()
