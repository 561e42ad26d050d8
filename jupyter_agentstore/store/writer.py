"""The one thread that writes a store's log: group commit.

What belongs here: the queue and the way of a group through it. It takes everything that waits, checks each part
against the head as it stands within the group, appends the rest with one fsync, and only then lets anything out:
first the events to listeners, last the answers, refusals included.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from ..core.errors import AgentStoreError, BackendIdMismatch, HeadMoved, InvalidRequest, StoreClosed
from ..core.events import Event, wire
from ..eventlog import EventLog
from .commits import Commit, Push, Receipt
from .door import Door

_GROUP_EVENTS = 20_000
_log = logging.getLogger(__name__)

Outcome = Receipt | int | BaseException


class Writer:
    """Writes for one store.

    Args:
        log: of which this becomes the only writer.
        publish: called with the events of each group once they are durable, before any answer.
        name: of the thread.
    """

    _door: Door
    _rests: Callable[[], None]

    def __init__(self, log: EventLog, publish: Callable[[Sequence[Event]], None], name: str) -> None:
        self._eventlog = log
        self._publish = publish
        self._queue: queue.SimpleQueue[Commit | Push | None] = queue.SimpleQueue()
        self._held: Commit | None = None
        self._closed = False
        self._guard = threading.Lock()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, door: Door, rests: Callable[[], None]) -> None:
        """Begin to write.

        Args:
            door: checks strict commits.
            rests: called when nothing waits to be written any more.
        """
        self._door = door
        self._rests = rests
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._waiting

    def put(self, entry: Commit | Push) -> None:
        """Queue something; its future is resolved when it is durable, or refused.

        Raises:
            StoreClosed: the writer has been closed.
        """
        with self._guard:
            if self._closed:
                raise StoreClosed("The store is closed.")
            self._waiting += 1
            self._queue.put(entry)

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        stop = False
        while not stop:
            group, stop = self._take()
            if not group:
                continue
            try:
                outcomes = self._write(group)
            except Exception as error:
                _log.exception("A group of commits failed.")
                self._door.forget_after(self._eventlog.head)
                outcomes = [error] * len(group)
            for entry, outcome in zip(group, outcomes, strict=True):
                _answer(entry, outcome)
            with self._guard:
                self._waiting -= len(group)
            if not self._waiting:
                self._rests()

    def _take(self) -> tuple[list[Commit | Push], bool]:
        """Everything that waits, within reason; whether it is time to stop."""
        entry = self._held or self._queue.get()
        self._held = None
        group: list[Commit | Push] = []
        events = 0
        while entry is not None:
            if group and isinstance(entry, Commit) and isinstance(group[-1], Push):
                # What a push does to the tables is known only once it is in the log.
                self._held = entry
                return group, False
            group.append(entry)
            events += len(entry.drafts) if isinstance(entry, Commit) else len(entry.batch)
            if events >= _GROUP_EVENTS:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _write(self, group: Sequence[Commit | Push]) -> list[Outcome]:
        head = self._eventlog.head
        now = max(time.time_ns() // 1_000_000, self._eventlog.last_recorded_at)
        events: list[Event] = []
        outcomes: list[Outcome] = []
        for entry in group:
            if not entry.future.set_running_or_notify_cancel():
                outcomes.append(StoreClosed("The commit was cancelled."))
                continue
            outcomes.append(self._prepare(entry, events, now))
        if events:
            try:
                self._eventlog.append(events)
            except Exception as error:
                self._door.forget_after(head)
                return self._write_singly(group, outcomes, error)
            self._publish(events)
        self._door.forget_applied()
        return [self._final(outcome) for outcome in outcomes]

    def _prepare(self, entry: Commit | Push, events: list[Event], now: int) -> Outcome:
        """Check one entry and add its events to the group's, or say why not."""
        head = self._eventlog.head + len(events)
        try:
            if isinstance(entry, Commit):
                bodies = [
                    wire(d.name, d.args, seq, d.client_id, d.session_id)
                    for seq, d in enumerate(entry.drafts, head + 1)
                ]
                earlier = self._door.check(entry, head)
                if earlier is not None:
                    first, count = earlier
                    return Receipt(range(first, first + count), head, repeated=True)
                outcome: Outcome = Receipt(range(head + 1, head + 1 + len(bodies)), head + len(bodies))
            else:
                bodies = self._chain(entry, head)
                outcome = head + len(bodies)
                self._door.passed_unchecked(outcome)
        except Exception as error:  # its own, and nobody else's
            if not isinstance(error, AgentStoreError):
                _log.exception("A commit could not be checked.")
            return error
        actor = entry.actor
        events.extend([Event(seq, now, actor, body) for seq, body in enumerate(bodies, head + 1)])
        return outcome

    def _chain(self, push: Push, head: int) -> list[str]:
        """The bodies of a pushed batch that follows the head."""
        parent = push.batch[0].parentSeqNum
        backend_id = self._eventlog.backend_id
        if push.backend_id is not None and push.backend_id != backend_id:
            raise BackendIdMismatch(backend_id, push.backend_id)
        if parent > head:
            raise BackendIdMismatch(backend_id, push.backend_id or "")
        if parent != head:
            raise HeadMoved(head, parent)
        bodies = []
        for event in push.batch:
            if event.parentSeqNum != parent or event.seqNum != parent + 1:
                raise InvalidRequest(
                    f"The batch is no chain: event {event.seqNum} after {event.parentSeqNum} stands "
                    f"where {parent + 1} after {parent} should.",
                    field="batch",
                )
            parent += 1
            bodies.append(
                wire(event.name, bytes(event.args).decode(), parent, event.clientId, event.sessionId)
            )
        return bodies

    def _write_singly(
        self, group: Sequence[Commit | Push], outcomes: list[Outcome], error: Exception
    ) -> list[Outcome]:
        """A transaction failed: try its members one by one, so that one of them cannot spoil the rest."""
        if len(group) == 1:
            _log.error("A commit could not be written: %s", error)
            return [error]
        results = list(outcomes)
        for index, entry in enumerate(group):
            if isinstance(results[index], StoreClosed):  # cancelled
                continue
            events: list[Event] = []
            head = self._eventlog.head
            now = max(time.time_ns() // 1_000_000, self._eventlog.last_recorded_at)
            results[index] = self._prepare(entry, events, now)
            if events:
                try:
                    self._eventlog.append(events)
                except Exception as own:
                    self._door.forget_after(head)
                    _log.error("A commit could not be written: %s", own)
                    results[index] = own
                    continue
                self._publish(events)
        return results

    def _final(self, outcome: Outcome) -> Outcome:
        """Refusals for a moved head name the head that the client will meet: the one after this group."""
        if isinstance(outcome, HeadMoved) and outcome.head != self._eventlog.head:
            return HeadMoved(self._eventlog.head, outcome.provided)
        return outcome


def _answer(entry: Commit | Push, outcome: Outcome) -> None:
    if entry.future.cancelled():
        return
    if isinstance(outcome, BaseException):
        entry.future.set_exception(outcome)
    else:
        entry.future.set_result(outcome)  # type: ignore[arg-type]
