"""From a store's writer thread to the connections of one event loop: one wake-up for a group, however many there are.

What belongs here: the crossing of that border, and nothing of what a connection does with the news.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.events import Event

if TYPE_CHECKING:
    from ..store import Store

_log = logging.getLogger(__name__)

_KEPT = 200
"""Events handed on with the news; who needs earlier ones reads the log."""

Listener = Callable[[int, Sequence[Event]], None]
"""Called on the loop with the head and some of the last events up to it, without a gap."""


class Feeds:
    """The feeds of one event loop, one for each store that somebody follows."""

    def __init__(self) -> None:
        self._feeds: dict[Store, Feed] = {}

    def follow(self, store: Store, listener: Listener) -> Callable[[], None]:
        """Call the listener whenever the store's log has grown; the result ends it. Both on the loop."""
        feed = self._feeds.get(store)
        if feed is None:
            feed = self._feeds[store] = Feed(store, asyncio.get_running_loop())
        feed.listeners[listener] = None

        def end() -> None:
            feed.listeners.pop(listener, None)
            if not feed.listeners and self._feeds.get(store) is feed:
                del self._feeds[store]
                # Off the loop: a store that is just falling asleep or waking up makes this wait.
                feed.loop.run_in_executor(None, feed.close)

        return end


class Feed:
    """News of one store."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.listeners: dict[Listener, None] = {}
        self.loop = loop
        self._guard = threading.Lock()
        self._news: list[Event] = []
        self.close = store.on_events(self._appended)

    def _appended(self, events: Sequence[Event]) -> None:
        """In the writer's thread. What is appended before the loop has woken up goes with the same news."""
        with self._guard:
            told = bool(self._news)
            self._news = [*self._news, *events[-_KEPT:]][-_KEPT:]
        if not told:
            try:
                self.loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed: the server has stopped
                self.close()

    def _tell(self) -> None:
        with self._guard:
            news, self._news = self._news, []
        for listener in tuple(self.listeners):
            try:
                listener(news[-1].seq, news)
            except Exception:
                _log.exception("A connection could not take the news of the store.")
