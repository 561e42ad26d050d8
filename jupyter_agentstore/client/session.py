"""One session with a store in a server: commits apply here at once and are sent in the background.

What belongs here: carrying out what the session's machine (``sync/client_session``) says, on this side's tables
(``replica``), the journal of a named session and the connection; and telling whoever listens. What follows what on
the wire is the machine's business.

One lock holds all of it together. Commits take it in the thread of whoever commits, news in the connection's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..core.errors import (
    Conflict,
    StoreClosed,
    TooLarge,
    Unreachable,
)
from ..core.events import Event, Wire
from ..core.operations import RowChange
from ..core.rows import number_of
from ..store import Draft
from ..store.listeners import Listeners
from ..sync.client_session import (
    Action,
    CaughtUp,
    Changed,
    ClientSession,
    Committed,
    Hangup,
    OtherLog,
    Refused,
    Send,
    Told,
)
from .connection import Connection
from .discovery import Endpoint
from .joining import Join, Progress
from .journal import Journal
from .link import Receipt, State
from .news import agent_state, hear
from .outbox import Outbox
from .sync import Standing, Status, Sync

if TYPE_CHECKING:
    from .remote import RemoteLink
    from .replica import Replica

MAX_PENDING = 100_000
"""Events that may wait for the server; more are refused until some have gone."""

STILL = 15.0
"""Seconds without a turn for the connection after which the history mentions it."""

WRITE_SECONDS = 5.0
"""Seconds between writes of a named session's tables, for a restart without a server to find them."""

TORN = "Something was interrupted half way."


class Session:
    """One session with one store in a server.

    Args:
        remote: the way to the server for what does not go over the websocket.
        endpoint: the server as it is now.
        replica: this side's tables, as far as they have come.
        join: brings a replica up to the server's log.
        journal: of a named session.

    Attributes:
        sync: how it stands, for its user.
        events: who wants to hear of events, pending ones included; told without any when something has changed.
        rows: who wants to hear of rows that look different; told None when it is not known which.
    """

    def __init__(
        self,
        remote: RemoteLink,
        endpoint: Endpoint,
        replica: Replica,
        join: Join,
        journal: Journal | None,
    ) -> None:
        self.store_id = remote.store_id
        self.remote = remote
        self.sync = Sync(self)
        self._replica = replica
        self._join = join
        self._outbox = Outbox(remote.user, journal)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._pid = os.getpid()
        self.events: Listeners[Sequence[Event]] = Listeners()
        self.rows: Listeners[Sequence[RowChange] | None] = Listeners()
        self._present: dict[tuple[str, str], dict[str, Any]] = {}
        self._connected = self._closed = self._paused = False
        self._torn = False  # a step was not carried out to its end: the disk is full, or Ctrl-C came
        self._breaks = 0  # of the connection
        self._ticked: float | None = None
        self._written = 0.0
        self._announced: dict[str, Any] | None = None
        self._other_log = False  # the server's log is another one, and has yet to be joined
        self._error = ""
        pending = self._outbox.recovered(replica.backend_id)
        self._machine = self._begin(pending)
        if self._outbox.log != self._machine.backend_id:
            self._outbox.write(self._machine.backend_id, pending)
        self._connection = Connection(self.store_id, endpoint, self._locate, self)

    def _begin(self, pending: Sequence[Wire]) -> ClientSession:
        """A machine that goes on from where the tables are."""
        replica, outbox = self._replica, self._outbox
        outbox.show(pending)
        made = ClientSession(
            self.store_id,
            outbox.client_id,
            outbox.session_id,
            backend_id=replica.backend_id or (outbox.log if pending else None),
            head=pending[0].parentSeqNum if pending else replica.applied,
            applied=replica.applied,
            pending=pending,
            watch=True,
        )
        made.presence(self._announced)
        replica.confirm((), 0, outbox.shown, True)
        return made

    def start(self, patience: float) -> None:
        """Connect, and wait until what the server has is here.

        Args:
            patience: seconds for which nothing may come.

        Raises:
            Unreachable: nothing came for that long; the connection goes on being tried.
        """
        self._connection.start()
        deadline = time.monotonic() + patience
        progress = Progress(f"Joining {self.store_id}", " events")
        try:
            with self._lock:
                began = seen = self._machine.state.upstream_head
                breaks = self._breaks
                while not self._changed.wait_for(self._is_in_step, 0.1):
                    now = self._machine.state.upstream_head
                    total = max(self._machine.server_head, now)
                    progress.to(now - began, total - began)
                    if now != seen:
                        breaks = self._breaks
                    if now != seen or (self._connected and self._breaks == breaks):
                        deadline, seen = time.monotonic() + patience, now
                    elif time.monotonic() > deadline:
                        why = self._error or "it does not answer."
                        raise Unreachable(f"The server at {self.remote.where} cannot be joined: {why}")
        finally:
            progress.close()

    def _is_in_step(self) -> bool:
        return self._machine.caught_up

    # ---- what it is for

    @property
    def state(self) -> State:
        """How the connection stands."""
        if self._closed:
            return "closed"
        return "connected" if self._connected else "connecting"

    def commit(self, drafts: Sequence[Draft]) -> Receipt:
        """Commit events: they are visible on return, on disk if the session has a name, and on their way.

        Raises:
            Conflict, NotFound: they do not fit what is visible.
            TooLarge: one of them is over its limit, or too many wait already.
            StoreClosed: it was closed.
            OSError: the disk does not take them; nothing was committed.
        """
        self.check_open()
        with self._lock:
            self._make_ready()
            state = self._machine.state
            if len(state.pending) + len(drafts) > MAX_PENDING:
                raise TooLarge(
                    f"{len(state.pending):,} events wait for the server already, and {MAX_PENDING:,} may; "
                    "store.flush() waits until they are there."
                )
            self._replica.check(drafts)
            numbered = self._outbox.number(drafts, state.local_head)
            self._torn = True
            try:
                self._outbox.keep(numbered)
            except OSError:
                self._torn = False
                raise
            self._do(self._machine.commit([(one.name, one.args) for one in drafts]))
            self._torn = False
            head = self._machine.state.local_head
            return Receipt(range(state.local_head + 1, head + 1), head)

    def await_head(self, head: int, timeout: float) -> bool:
        """Wait until the server's events up to ``head`` are here; whether they are."""
        with self._lock:
            return self._changed.wait_for(
                lambda: self._machine.state.upstream_head >= head or self._closed, timeout
            )

    def flush(self, timeout: float) -> None:
        self._check_process()
        with self._lock:
            self._changed.wait_for(
                lambda: not self._waiting() or self._machine.refused or self._closed, timeout
            )
            left, refused = self._waiting(), self._machine.refused
            if not left:
                return
            if refused is not None:
                message = f"The server refused what was committed here: {refused.message}"
                raise refused.saying(message, field=refused.field)
            if self._closed:
                raise StoreClosed(
                    f"The store {self.store_id!r} was closed with {number_of(left, 'event')} not sent."
                )
            why = "" if self._connected else f" There is no connection: {self._error}"
            raise Unreachable(
                f"{number_of(left, 'event')} did not reach the server within {timeout:.3g} s.{why}"
            )

    def close(self) -> None:
        """End it, once; again is harmless, and ends what an interrupt has kept from ending."""
        if self._pid != os.getpid():  # a forked child has neither the thread nor the right to the files
            return
        with self._lock:
            was, self._closed = self._closed, True
            self._changed.notify_all()
        self._join.close()
        try:
            self._connection.close()
        finally:
            try:
                with self._lock:
                    self._outbox.close()
                    self._replica.close()
            finally:
                self.remote.close()
        if not was:
            self._tell((), None)

    # ---- ephemeral

    def announce(self, state: Mapping[str, Any] | None) -> None:
        self.check_open()
        with self._lock:
            self._make_ready()
            value = None if state is None else dict(state)
            actions = self._machine.presence(value)
            self._announced = value
            self._do(actions)

    def present(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._present.values())

    # ---- what a user can do about the standing

    def standing(self) -> Standing:
        if self._pid != os.getpid():
            return Standing("closed")
        with self._lock:
            session = self._machine
            pending = self._waiting()
            status: Status
            error = self._error
            if self._closed:
                status = "closed"
            elif session.refused is not None:
                status, error = "refused", session.refused.message
            elif not self._connected:
                status = "offline"
            elif not session.caught_up:
                status = "joining"
            else:
                status = "sending" if pending else "synced"
            return Standing(status, pending, session.state.upstream_head, error, self._outbox.on_disk)

    def retry(self) -> None:
        self.check_open()
        with self._lock:
            self._make_ready()
            self._torn = True
            self._do(self._machine.resume())
            self._torn = False
        self.resume()

    def discard(self) -> int:
        self.check_open()
        with self._lock:
            self._make_ready()
            before = self._waiting()
            self._torn = True
            try:
                actions = self._machine.discard()
            except ValueError:
                self._torn = False
                raise Conflict("They are just being sent; try again when the server has answered.") from None
            self._outbox.aside = []
            self._do(actions)
            self._torn = False
            given_up = before - self._waiting()
            if given_up:
                self.sync.note(f"{number_of(given_up, 'pending event')} given up.")
            return given_up

    def pause(self) -> None:
        with self._changed:
            self.check_open()
            self._paused = True
            self._machine.closed()  # from here on nothing is sent, and what still comes is not heard
            self._connected = False
            self._error = "Paused."
            self.sync.note("Offline: paused.")
        self._connection.pause()
        self._tell((), None)

    def resume(self) -> None:
        self._paused = False
        self._connection.resume()

    # ---- what the connection calls, in its thread

    def opened(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._torn:
                self._mend()
            if self._other_log or self._paused:
                self._connection.hangup(self._error)
                return
            self._connected = True
            self._error = ""
            self._ticked = None
            self.sync.note(f"Connected to {self.remote.where}.")
            self._do(self._machine.opened())
        self._tell((), None)

    def received(self, frame: str | bytes) -> None:
        with self._lock:
            if self._is_sound():
                self._do(self._machine.receive(frame))

    def closed(self, reason: str) -> None:
        with self._lock:
            was = self._connected
            self._connected = False
            self._breaks += was
            self._present.clear()
            self._machine.closed()
            if self._paused:
                return
            self._error = reason
            if not self._closed:
                self.sync.note(f"Offline: {self._error}" if was else f"Still offline: {self._error}")
            self._changed.notify_all()
        if was:
            self._tell((), None)

    def tick(self, now: float) -> None:
        with self._lock:
            if self._ticked is not None and now - self._ticked > STILL:
                self.sync.note(
                    f"Nothing happened here for {now - self._ticked:.0f} s: was this process suspended?"
                )
            self._ticked = now
            if self._is_sound():
                self._do(self._machine.tick(now))
        if self._outbox.on_disk and now - self._written > WRITE_SECONDS:
            self._written = now
            with suppress(OSError, StoreClosed):  # a full disk is told to those who need it
                self._replica.flush()

    def _is_sound(self) -> bool:
        """Whether to go on with this connection; what is torn is mended before the next one."""
        if self._torn:
            self._connection.hangup(TORN)
        return not (self._torn or self._closed)

    def _make_ready(self) -> None:
        """Before a step that the user wants; the lock is held."""
        self.check_open()
        if self._torn:
            self._mend()
            self._connection.hangup(TORN)

    def _locate(self) -> Endpoint:
        """Before another attempt: where the server is; and if its log is another one, join that."""
        try:
            endpoint = self.remote.locate()
            if self._other_log and not self._closed:
                self._join_other_log()
        except Exception as error:
            with self._lock:
                self._error = f"The store's new log cannot be joined: {error}"
            endpoint = self.remote.endpoint
        return endpoint

    # ---- carrying out

    def _do(self, actions: Sequence[Action]) -> None:
        """Carry out what the machine says; the lock is held."""
        done = False
        try:
            for action in actions:
                match action:
                    case Send():
                        self._connection.send(action.text)
                    case Committed():
                        self._commit_here(action.events)
                    case Changed():
                        self._take(action)
                    case CaughtUp():
                        self._caught_up()
                    case Told():
                        self._hear(action.values)
                    case Refused():
                        self.sync.note(f"Refused: {action.error.message}")
                        self._tell((), None)
                    case OtherLog():
                        self._other_log = True
                        self._connection.hangup("The store's log is another one: it was restored or reset.")
                    case Hangup():
                        self._connection.hangup(action.reason)
            done = True
        finally:
            self._torn = self._torn or not done
            self._changed.notify_all()

    def _commit_here(self, events: Sequence[Wire]) -> None:
        shown = self._outbox.add(events)
        self._tell(shown, self._replica.add(shown))

    def _take(self, change: Changed) -> None:
        """The server's log has grown, or what is pending here has changed."""
        backend_id, outbox = self._machine.backend_id, self._outbox
        if self._replica.backend_id is None and backend_id is not None:
            self._replica.begin(backend_id)
        if change.rebased or backend_id != outbox.log:
            outbox.write(backend_id, change.pending)
        else:
            outbox.done(change.confirmed, left=len(change.pending))
        if change.rebased and change.pending:
            self.sync.note(_rebased(change))
        del outbox.shown[: change.confirmed]
        if change.rebased:
            outbox.show(change.pending)
        rows = self._replica.confirm(change.events, change.confirmed, outbox.shown, change.rebased)
        self._tell(change.events, rows)

    def _caught_up(self) -> None:
        self.sync.note(f"In step with the server at event {self._machine.state.upstream_head:,}.")
        if self._outbox.aside:
            self._commit_again()

    def _hear(self, values: Sequence[Mapping[str, Any]]) -> None:
        for value in values:
            if value.get("kind") == "agent":
                self._replica.set_agent(agent_state(value.get("state")))
        hear(values, self._present)
        self._tell((), None)

    def _mend(self) -> None:
        """A step was not carried out to its end: go on from what the tables have and what is pending.

        Raises:
            OSError: the disk is still full.
        """
        pending = self._machine.state.pending
        self._outbox.write(self._machine.backend_id or self._outbox.log, pending)
        self._machine = self._begin(pending)
        self._torn = False

    def _join_other_log(self) -> None:
        """Take the tables of the server's new log in place of the old one's, and what is pending with them."""
        self._join(self._replica)
        with self._lock:
            aside = [*self._outbox.aside, *self._machine.state.pending]
            self._outbox.write(self._replica.backend_id, (), aside)
            self._machine = self._begin(())
            self._other_log = self._torn = False
            self.sync.note("The store was restored or reset; its new log is joined.")
        self._tell((), None)

    def _commit_again(self) -> None:
        """What was pending on another log becomes pending on this one, as far as it fits its tables."""
        fitting, rejected = self._outbox.sort(self._replica)
        state = self._machine.state
        numbered = self._outbox.number(fitting, state.local_head)
        self._outbox.write(self._machine.backend_id, (*state.pending, *numbered), ())
        self.sync.rejected += rejected
        self.sync.note(
            f"{number_of(len(fitting), 'pending event')} sent to the new log"
            + (f"; {len(rejected):,} do not fit it." if rejected else ".")
        )
        self._do(self._machine.commit([(one.name, one.args) for one in fitting]))

    # ---- small things

    def _waiting(self) -> int:
        return len(self._machine.state.pending) + len(self._outbox.aside)

    def _tell(self, events: Sequence[Event], changes: Sequence[RowChange] | None) -> None:
        self.events.tell(events)
        if changes is None or changes:
            self.rows.tell(changes)

    def check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"The store {self.store_id!r} is closed; connect anew.")
        self._check_process()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise StoreClosed("This process was forked from the one that connected; connect anew in it.")


def _rebased(change: Changed) -> str:
    count, others = len(change.pending), len(change.events) - change.confirmed
    return f"{number_of(count, 'pending event')} set behind {number_of(others, 'event')} of others."
