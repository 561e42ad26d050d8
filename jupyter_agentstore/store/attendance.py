"""The news of one store for one connection of another process.

What belongs here: what gathers while it cannot be sent, and how much of it is kept. A process that takes nothing
costs its host no more than that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.events import Event
from ..core.operations import RowChange
from .frames import pack_changes, pack_events

if TYPE_CHECKING:
    from .hosting import Visitor
    from .store import Store

_KEPT_EVENTS = 200  # events sent with news; who needs earlier ones reads the log
_KEPT_ROWS = 5_000
_KEPT_MESSAGES = 1_000


class Attendance:
    """The news of one store for one connection: what gathers while it cannot be sent is put together."""

    def __init__(self, visitor: Visitor, number: int, store: Store) -> None:
        self.store = store
        self._visitor = visitor
        self._number = number
        self._guard = threading.Lock()
        self._events: list[Event] = []
        self._rows: list[RowChange] | None = []  # None: too many, some are lost
        self._agent: Mapping[str, Any] | None = None
        self._messages: deque[bytes] = deque(maxlen=_KEPT_MESSAGES)
        self._end: str | None = None
        self._told = False
        self._ends: list[Callable[[], None]] = []
        self._with_rows = False
        self._unreplaced: Callable[[], None] | None = None

    def begin(self) -> None:
        """Hear when the log is another one."""
        self._unreplaced = self.store.on_replaced(self._on_replaced)
        if self._visitor.closed:
            self.end()

    def listen(self, *, rows: bool) -> None:
        """Hear of everything; of rows that change only if that is wanted."""
        if not self._ends:
            self._ends = [
                self.store.on_events(self._on_events),
                self.store.on_agent(self._on_agent),
                self.store.on_told(self._on_message),
            ]
        if rows and not self._with_rows:
            self._with_rows = True
            self._ends.append(self.store.on_rows(self._on_rows))
        if self._visitor.closed:
            self.end()

    def ignore(self) -> None:
        """Hear no more than at the beginning."""
        ends, self._ends = self._ends, []
        self._with_rows = False
        for end in ends:
            end()

    def end(self) -> None:
        """Hear nothing more."""
        self.ignore()
        if self._unreplaced is not None:
            self._unreplaced()

    def _on_events(self, events: Sequence[Event]) -> None:
        with self._guard:
            self._events = [*self._events, *events[-_KEPT_EVENTS:]][-_KEPT_EVENTS:]
        self._wake()

    def _on_rows(self, changes: Sequence[RowChange] | None) -> None:
        with self._guard:
            if self._rows is not None and changes is not None and len(self._rows) < _KEPT_ROWS:
                self._rows.extend(changes)
            else:
                self._rows = None
        self._wake()

    def _on_agent(self, document: Mapping[str, Any]) -> None:
        with self._guard:
            self._agent = document
        self._wake()

    def _on_message(self, message: bytes) -> None:
        with self._guard:
            self._messages.append(message)
        self._wake()

    def _on_replaced(self, ended: bool) -> None:
        with self._guard:
            self._end = "ended" if ended else "replaced"
            self._events = []
        self._wake()

    def _wake(self) -> None:
        with self._guard:
            told, self._told = self._told, True
        if not told:
            self._visitor.run(self.send)

    def send(self) -> None:
        """On the loop: send what there is, if the other side takes it."""
        if self._visitor.full:
            return  # it is called again
        with self._guard:
            self._told = False
            events, self._events = self._events, []
            rows, self._rows = self._rows, []
            agent, self._agent = self._agent, None
            messages = list(self._messages)
            self._messages.clear()
            end, self._end = self._end, None
        if events:
            self._visitor.send_news(self._number, "events", pack_events(events))
        if rows is None or rows:
            self._visitor.send_news(self._number, "rows", None if rows is None else pack_changes(rows))
        if agent is not None:
            self._visitor.send_news(self._number, "agent", dict(agent))
        if messages:
            self._visitor.send_news(self._number, "told", messages)
        if end is not None:
            self._visitor.send_news(self._number, end, None)
