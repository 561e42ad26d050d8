"""Following a store's log without tables of one's own: a live pull from the head on.

What belongs here: carrying out what the session's machine says, for those who only want to hear what happens. After a
break it goes on from where it was; when something may have been missed, listeners are called without events.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.errors import AgentStoreError
from ..core.events import Event
from ..store.listeners import Listeners
from ..sync.client_session import Action, Changed, ClientSession, Hangup, OtherLog, Send, Told
from .connection import Connection
from .discovery import Endpoint
from .news import hear

_log = logging.getLogger(__name__)


class Follower:
    """A connection that listens. It begins with :meth:`start`.

    Args:
        store_id: which store.
        endpoint: the server as it is now.
        locate: looks where the server is.
        log: asks for the store's head and the name of its log; the name is None if there is no such store.

    Attributes:
        connected: whether there is a connection.
        error: why there is none.
        events: who wants to hear of events; told without any when something may have been missed.
        present: who else is connected and tells of it.
    """

    def __init__(
        self,
        store_id: str,
        endpoint: Endpoint,
        locate: Callable[[], Endpoint],
        log: Callable[[], tuple[int, str | None]],
    ) -> None:
        self.connected = True  # until an attempt fails: whoever asks has just reached the server by REST
        self.error = ""
        self.present: dict[tuple[str, str], dict[str, Any]] = {}
        self._store_id = store_id
        self._locate = locate
        self._log = log
        self.events: Listeners[Sequence[Event]] = Listeners()
        self._lock = threading.RLock()
        self._names = f"kernel-{secrets.token_hex(6)}", secrets.token_hex(8)
        self._presence: Mapping[str, Any] | None = None
        self._session = self._begin()
        self._connection = Connection(store_id, endpoint, self._find, self)
        self._started = False

    def _begin(self) -> ClientSession:
        head, backend_id = self._log()
        return ClientSession(
            self._store_id, *self._names, backend_id=backend_id, head=head if backend_id else 0, watch=True
        )

    def start(self) -> None:
        """Connect. Again is harmless."""
        with self._lock:
            if self._started:
                return
            self._started = True
        self._connection.start()

    def announce(self, state: Mapping[str, Any] | None) -> None:
        """Tell others something of this client."""
        with self._lock:
            self._presence = state
            self._do(self._session.presence(None if state is None else dict(state)))

    def close(self) -> None:
        """End the connection and the thread."""
        if self._started:
            self._connection.close()
        self.events.tell(())

    def pause(self) -> None:
        """Go offline."""
        self._connection.pause()

    def resume(self) -> None:
        """Go online, at once."""
        self._connection.resume()

    # ---- what the connection calls

    def opened(self) -> None:
        with self._lock:
            self.connected, self.error = True, ""
            self._do(self._session.opened())
        self.events.tell(())  # what happened before this, nobody was told

    def received(self, frame: str | bytes) -> None:
        with self._lock:
            self._do(self._session.receive(frame))

    def closed(self, reason: str) -> None:
        with self._lock:
            was, self.connected, self.error = self.connected, False, reason
            self.present.clear()
            self._session.closed()
        if was:
            self.events.tell(())

    def tick(self, now: float) -> None:
        with self._lock:
            self._do(self._session.tick(now))

    def _find(self) -> Endpoint:
        endpoint = self._locate()
        if self._session.stopped:  # the log is another one: follow that from its head on
            try:
                session = self._begin()
            except AgentStoreError as error:
                _log.debug("The log of %r cannot be asked for: %s", self._store_id, error)
            else:
                with self._lock:
                    self._session = session
                    self._session.presence(None if self._presence is None else dict(self._presence))
        return endpoint

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._connection.send(action.text)
                case Changed():
                    self.events.tell(action.events)
                case Told():
                    hear(action.values, self.present)
                    self.events.tell(())
                case OtherLog():
                    self._connection.hangup("The store's log is another one: it was restored or reset.")
                case Hangup():
                    self._connection.hangup(action.reason)
