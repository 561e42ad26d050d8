"""From a store's writer thread to the connections of one event loop: one wake-up for a group, however many there are.

What belongs here: the crossing of that border, and nothing of what a connection does with the news.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.events import Event

if TYPE_CHECKING:
    from ..store import Store

_log = logging.getLogger(__name__)

_KEPT = 2_000
_KEPT_BYTES = 4_000_000
"""Of the last events that are kept at hand; who needs earlier ones reads the log."""

Listener = Callable[[int, Sequence[Event]], None]
"""Called on the loop with the head and some of the last events up to it, without a gap."""


class Feeds:
    """The feeds of one event loop, one for each store that somebody follows."""

    def __init__(self) -> None:
        self._feeds: dict[Store, Feed] = {}

    def of(self, store: Store) -> Feed:
        """The store's feed, to be followed at once; it goes when nobody follows it any more."""
        feed = self._feeds.get(store)
        if feed is None:
            feed = self._feeds[store] = Feed(store, lambda: self._feeds.pop(store, None))
        return feed


class Feed:
    """News of one store. All of it on the loop, but for what says otherwise.

    Args:
        store: the store.
        gone: called when nobody follows it any more.
    """

    def __init__(self, store: Store, gone: Callable[[], object]) -> None:
        self._store = store
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._log = store.backend_id
        self._listeners: dict[Listener, None] = {}
        self._guard = threading.Lock()
        self._news: list[Event] = []
        self._recent: list[Event] = []
        self._ends = (store.on_events(self._appended), store.on_replaced(self._replaced))

    def follow(self, listener: Listener) -> Callable[[], None]:
        """Call the listener whenever the store's log has grown; the result ends it."""
        self._listeners[listener] = None

        def end() -> None:
            if self._listeners.pop(listener, self) is None and not self._listeners:
                self._gone()
                # Off the loop: a store that is just falling asleep or waking up makes this wait.
                self._loop.run_in_executor(None, self._close)

        return end

    def _close(self) -> None:
        for end in self._ends:
            end()

    def page(self, backend_id: str, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        """Events of a log after a cursor, as its ``read`` would give them; none if they are not at hand."""
        return page_of(self._recent, after, limit, max_bytes) if backend_id == self._log else ()

    def _appended(self, events: Sequence[Event]) -> None:
        """In the writer's thread. What is appended before the loop has woken up goes with the same news."""
        with self._guard:
            told = bool(self._news)
            self._news = kept(self._news, events)
        if not told:
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed: the server has stopped
                self._close()

    def _replaced(self, ended: bool) -> None:
        """In any thread: the log is another one."""
        with self._guard:
            self._news.clear()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._forget)

    def _forget(self) -> None:
        self._recent.clear()
        self._log = self._store.backend_id

    def _tell(self) -> None:
        with self._guard:
            news, self._news = self._news, []
        if not news:
            return
        follows = self._recent and self._recent[-1].seq + 1 == news[0].seq
        self._recent[:] = kept(self._recent if follows else [], news)
        for listener in tuple(self._listeners):
            try:
                listener(news[-1].seq, self._recent)
            except Exception:
                _log.exception("A connection could not take the news of the store.")


def page_of(events: Sequence[Event], after: int, limit: int, max_bytes: int) -> Sequence[Event]:
    """Those of some events without a gap that come after a cursor; none if the next one is not among them."""
    if not events or not events[0].seq <= after + 1 <= events[-1].seq:
        return ()
    first = after + 1 - events[0].seq
    page = events[first : first + limit]
    return page[: fitting(page, max_bytes)]


def kept(before: Sequence[Event], events: Sequence[Event]) -> list[Event]:
    """The last of the events, at least one: so many as are kept."""
    found = [*before[-_KEPT:], *events[-_KEPT:]][-_KEPT:]
    return found[len(found) - fitting(found[::-1], _KEPT_BYTES) :]


def fitting(events: Sequence[Event], max_bytes: int) -> int:
    """How many of the first events have so many characters together; at least one."""
    size = 0
    for count, event in enumerate(events):
        size += len(event.body)
        if size > max_bytes and count:
            return count
    return len(events)
