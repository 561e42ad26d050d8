"""Who is there and what the agent does, for those who watch a store: kept on the loop, and nowhere else.

What belongs here: the picture of each store, how long a presence lasts, and telling it to other processes that have
the same store. What a watcher is sent, and when, is the session's business.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.errors import TooLarge
from ..core.events import encode_args, quote
from ..core.rows import iso
from ..sync.news import News

if TYPE_CHECKING:
    from ..store import Store

_log = logging.getLogger(__name__)

EXPIRY_SECONDS = 30.0
"""After which a presence that was not renewed is gone; clients renew it every 10 seconds."""

MAX_PRESENCES = 1_000
"""In one store."""

MAX_USER_PRESENCES = 250
"""Of one user in one store."""

_PAUSE = 0.02  # seconds between two news; what changes meanwhile is told once

Listener = Callable[[Sequence[News]], None]
"""Called on the loop with what has changed."""


class _Message(msgspec.Struct, omit_defaults=True):
    """What one process tells the others of a store.

    Attributes:
        process: which one.
        owner: of its connections; 0 asks the others for what they know.
        state: JSON text of an object; None: gone.
    """

    process: str
    owner: int = 0
    actor: str = ""
    client: str = ""
    session: str = ""
    state: str | None = None
    at: str = ""


_decoder = msgspec.json.Decoder(_Message)


class Hubs:
    """The hubs of one event loop, one for each store that somebody watches or is present in."""

    def __init__(self) -> None:
        self._hubs: dict[Store, Hub] = {}
        self._owners = itertools.count(1)

    def owner(self) -> int:
        """A number for a connection."""
        return next(self._owners)

    def leave(self, store: Store, owner: int) -> None:
        """A connection has ended."""
        if store in self._hubs:
            self._hubs[store].leave(owner)

    def of(self, store: Store) -> Hub:
        """The store's hub; it goes by itself when nobody needs it any more."""
        hub = self._hubs.get(store)
        if hub is None:
            hub = self._hubs[store] = Hub(store, lambda: self._hubs.pop(store, None))
        return hub


class Hub:
    """The picture of one store. All of it on the loop.

    Args:
        store: the store.
        gone: called when nobody needs this any more.
    """

    def __init__(self, store: Store, gone: Callable[[], object]) -> None:
        self._store = store
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._process = secrets.token_hex(8)
        self._listeners: dict[Listener, None] = {}
        self._presences: dict[tuple[str, str, str], tuple[_Message, float]] = {}
        self._changed: dict[tuple[str, ...], News] = {}
        self._told = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._expiring: asyncio.TimerHandle | None = None
        self._ends = [
            store.on_told(self._off_the_loop(self._hear)),
            store.on_agent(self._off_the_loop(lambda said: self._change(_agent(said)))),
        ]
        self._send(_Message(self._process))

    # ---- watching

    def picture(self) -> list[News]:
        """Everything as it is now; to whoever listens already, what has changed is told before."""
        if self._telling is not None:
            self._telling.cancel()
            self._tell()
        return [_agent(self._store.agent), *(_presence(message) for message, _ in self._presences.values())]

    def join(self, listener: Listener) -> Callable[[], None]:
        """Call the listener with what changes from now on; the result ends it."""
        self._listeners[listener] = None

        def end() -> None:
            self._listeners.pop(listener, None)
            self._rest()

        return end

    # ---- being there

    def present(self, owner: int, actor: str, client: str, session: str, state: str | None) -> None:
        """Say what a client says of itself, or that it still does; or with None that it is gone.

        Args:
            owner: the connection; with it goes the presence.
            actor: the authenticated user.
            client: the client's id.
            session: the session's id.
            state: a JSON object.

        Raises:
            TooLarge: there are as many as may be.
        """
        key = (actor, client, session)
        if state is not None and key not in self._presences and len(self._presences) >= MAX_PRESENCES:
            raise TooLarge(f"A store may have {MAX_PRESENCES:,} presences.")
        if state is not None and key not in self._presences:
            mine = sum(known == actor for known, _, _ in self._presences)
            if mine >= MAX_USER_PRESENCES:
                raise TooLarge(f"A user may have {MAX_USER_PRESENCES:,} presences in a store.")
        message = _Message(self._process, owner, actor, client, session, state, _now())
        self._send(message)
        self._put(message)
        self._rest()

    def leave(self, owner: int) -> None:
        """A connection of this process has ended."""
        for message, _ in list(self._presences.values()):
            if (message.process, message.owner) == (self._process, owner):
                self.present(owner, message.actor, message.client, message.session, None)

    # ---- inside

    def _put(self, message: _Message) -> None:
        key = (message.actor, message.client, message.session)
        known = self._presences.get(key)
        if message.state is None:
            # Not if another connection of the same client has taken over meanwhile.
            if known and (known[0].process, known[0].owner) == (message.process, message.owner):
                del self._presences[key]
                self._change(_presence(message))
            return
        if known is None and len(self._presences) >= MAX_PRESENCES:
            return
        if known is not None and known[0].state == message.state:
            message.at = known[0].at
        else:
            self._change(_presence(message))
        self._presences[key] = message, self._loop.time() + EXPIRY_SECONDS
        if self._expiring is None:
            self._expiring = self._loop.call_later(EXPIRY_SECONDS, self._expire)

    def _expire(self) -> None:
        self._expiring = None
        now = self._loop.time()
        for message, until in list(self._presences.values()):
            if until <= now:
                self._put(msgspec.structs.replace(message, state=None, at=_now()))
        if self._presences:
            first = min(until for _, until in self._presences.values())
            self._expiring = self._loop.call_at(first, self._expire)
        self._rest()

    def _change(self, news: News) -> None:
        """Tell the listeners, at once if nothing was told just now."""
        self._changed[news.key] = news
        if self._telling is None:
            self._telling = self._loop.call_at(self._told + _PAUSE, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._told = self._loop.time()
        changed, self._changed = list(self._changed.values()), {}
        for listener in tuple(self._listeners):
            try:
                listener(changed)
            except Exception:
                _log.exception("A connection could not take the news of the store.")
        self._rest()

    def _rest(self) -> None:
        """Go if nobody needs this."""
        if self._listeners or self._presences or not self._ends:
            return
        for end in self._ends:
            end()
        self._ends.clear()
        for timer in (self._telling, self._expiring):
            if timer is not None:
                timer.cancel()
        self._gone()

    # ---- other processes

    def _send(self, message: _Message) -> None:
        self._store.tell(msgspec.json.encode(message))

    def _hear(self, text: bytes) -> None:
        try:
            message = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if message.process == self._process or not self._ends:
            return
        if message.owner:
            self._put(message)
            return
        for known, _ in self._presences.values():
            if known.process == self._process:
                self._send(known)

    def _off_the_loop(self, hear: Callable[[Any], None]) -> Callable[[Any], None]:
        """For any thread: have the loop hear it."""

        def tell(said: Any) -> None:
            try:
                self._loop.call_soon_threadsafe(hear, said)
            except RuntimeError:  # the loop is closed: the server has stopped
                return

        return tell


def _now() -> str:
    return iso(time.time_ns() // 1_000_000)


def _agent(said: Mapping[str, Any]) -> News:
    last = said["lastActivity"]
    return News(
        ("agent",),
        encode_args({"kind": "agent", "state": {**said, "lastActivity": iso(last) if last else None}}),
    )


def _presence(message: _Message) -> News:
    return News(
        ("presence", message.actor, message.client, message.session),
        f'{{"kind":"presence","actor":{quote(message.actor)},"clientId":{quote(message.client)},'
        f'"sessionId":{quote(message.session)},"state":{message.state or "null"},"at":"{message.at}"}}',
        gone=message.state is None,
    )
