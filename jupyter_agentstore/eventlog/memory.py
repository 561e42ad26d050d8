"""An event log in memory, for stores that need not outlive their process, and for tests. It touches no file."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

from ..core.errors import StoreClosed
from ..core.events import Event
from .check import verify_pages
from .contract import EventLog, Progress, check, check_cursor


class MemoryLog(EventLog):
    """A list of events; see :class:`~jupyter_agentstore.eventlog.contract.EventLog` for what it promises."""

    def __init__(self) -> None:
        self._backend_id = str(uuid.uuid4())
        self._events: list[Event] = []
        self._guard = threading.Lock()
        self._closed = False

    @property
    def backend_id(self) -> str:
        return self._backend_id

    @property
    def head(self) -> int:
        return len(self._events)

    @property
    def last_recorded_at(self) -> int:
        return self._events[-1].recorded_at if self._events else 0

    def append(self, events: Sequence[Event]) -> None:
        with self._guard:
            self._check_open()
            if events:
                check(events, self.head, self.last_recorded_at)
                self._events.extend(events)

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        check_cursor(after, limit)
        self._check_open()
        page = self._events[after : after + limit]
        if max_bytes is not None:
            total = 0
            for index, event in enumerate(page):
                total += len(event.body.encode())
                if total > max_bytes and index:
                    return page[:index]
        return page

    def verify(self, progress: Progress | None = None) -> int:
        self._check_open()
        total = self.head
        return verify_pages(self.scan(end=total), total, progress)

    def checkpoint(self) -> None:
        self._check_open()

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("The event log is closed.")
