"""The sync protocol's websocket: tornado's side of a :class:`~jupyter_agentstore.sync.server_session.ServerSession`.

What belongs here: the handshake, authority, and carrying out what the session says, off the loop where it blocks.
What follows what on the wire is the session's business.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.websocket import WebSocketMixin
from tornado.httputil import HTTPServerRequest
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol13

from ..core.errors import AgentStoreError, NotFound
from ..core.events import Event
from ..core.limits import MAX_PUSH_EVENTS
from ..sync.codec import MAX_FRAME_BYTES
from ..sync.news import News
from ..sync.server_actions import Action, Close, Follow, Open, Present, PushBatch, ReadPage, Send
from ..sync.server_session import ServerSession
from .base import Access
from .errors import describe
from .feed import Feed, page_of
from .hooks import PullInfo
from .limits import Bucket

if TYPE_CHECKING:
    from ..store import Store

RECHECK_SECONDS = 30.0
"""How often a connection asks whether its user may still read."""

ABSENT_SECONDS = 2.0
"""How often a reader's connection looks whether the store that it waits for has come into being."""

REPLACED = 1012
"""The code with which a connection is closed when its store is another one; clients connect anew after it."""

PRESENCES_PER_SECOND = 10
"""How often a connection may say something of itself; twice as many at once."""

_AHEAD = 10  # pages that are read from the log at once, as long as they are short
_MANY_FRAMES = 256
_MANY_BYTES = 4_000_000
_MANY_TASKS = 48  # more than the requests of a connection have; those of interrupted requests go on
_SECRETS = ("payload", "token")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


class SyncHandler(WebSocketMixin, WebSocketHandler, Access):
    """``GET /agentstore/websocket?storeId=…&payload=…&transport=ws``."""

    # ---- handshake

    def initialize(self) -> None:
        """Treat the token in ``payload`` as if it had come in the header, and keep both secrets out of every log."""
        token = auth_token(self.request)
        if token and "Authorization" not in self.request.headers:
            self.request.headers["Authorization"] = f"token {token}"
        hide_secrets(self.request)

    async def prepare(self) -> None:  # type: ignore[override]
        """As every call, and not as Jupyter's other websockets: 401 for strangers."""
        await Access.prepare(self)

    def set_default_headers(self) -> None:
        """None: they mean nothing to a websocket."""

    @property
    def max_message_size(self) -> int:
        """Somewhat more than a frame may have, so that it is the session that refuses it, in an orderly way."""
        return 4 * MAX_FRAME_BYTES

    def get_compression_options(self) -> dict[str, Any] | None:
        """As for Jupyter's other websockets."""
        options: dict[str, Any] | None = self.settings.get("websocket_compression_options")
        return options

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Upgrade, if the user may read the store; it returns when the connection has ended.

        Raises:
            InvalidStoreId: there is no such id.
            Forbidden: they may not.
            TooManyConnections: there are as many as may be.
        """
        await self.allow("read", self.store_id)
        with self.host.connections.one(self.actor):
            await WebSocketHandler.get(self, *args, **kwargs)

    # ---- the connection

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Start the session, the writer, and the one who pushes."""
        super().open(*args, **kwargs)
        self._owner = self.host.hubs.owner()
        self._id = self.store_id
        self._session = ServerSession(self._id)
        self._store: Store | None = None
        self._feed: Feed | None = None
        self._ahead: Sequence[Event] = ()  # what was read from the log and not yet sent
        self._ends: list[Callable[[], None]] = []
        self._watching = False
        self._gone = False
        self._todo: deque[Action] = deque()
        self._out: deque[Send | Close] = deque()
        self._out_bytes = 0
        self._writing: asyncio.Future[None] | None = None  # what the client has yet to take of the last frame
        self._waits = asyncio.Event()
        self._batches: asyncio.Queue[PushBatch | None] = asyncio.Queue()
        self._push_bytes: dict[int, int] = {}
        self._moved = asyncio.Event()
        rate = self.host.app.push_events_per_second
        self._events = Bucket(rate, max(2 * rate, MAX_PUSH_EVENTS), "events")
        self._presences = Bucket(PRESENCES_PER_SECOND, 2 * PRESENCES_PER_SECOND, "presences")
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._push_in_order())
        self._ending = [self._spawn(self._write()), self._spawn(self._recheck())]

    async def on_message(self, message: str | bytes) -> None:
        """Take a frame; the next one is not read from the socket before this returns."""
        actions = self._session.receive(message)
        for action in actions:
            if isinstance(action, PushBatch):
                self._push_bytes[action.push] = len(message)
        self._do(actions)
        while not self._gone and self._is_full():
            self._moved.clear()
            await self._moved.wait()

    def _is_full(self) -> bool:
        """Whether so much waits, to be sent, read or written, that no more is taken from the client."""
        if len(self._tasks) > _MANY_TASKS or len(self._out) > _MANY_FRAMES or self._out_bytes > _MANY_BYTES:
            return True
        return len(self._push_bytes) > 1 and sum(self._push_bytes.values()) > _MANY_BYTES

    def on_close(self) -> None:
        """Let go of everything; batches that were received are still pushed."""
        if not hasattr(self, "_session"):
            return
        self._gone = self._session.closed = True
        self._moved.set()
        for end in self._ends:
            end()
        if self._store is not None:
            self.host.hubs.leave(self._store, self._owner)
        self._batches.put_nowait(None)
        for task in self._ending:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._moved.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.log_exception(type(error), error, error.__traceback__)
            self.close(1011)

    def _do(self, actions: Sequence[Action]) -> None:
        """Carry out actions in order, those that come of them after those that wait."""
        if self._todo:
            self._todo += actions
            return
        self._todo += actions
        while self._todo:
            self._carry_out(self._todo[0])
            self._todo.popleft()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send() | Close():
                self._send(action)
            case ReadPage():
                self._read(action)
            case PushBatch():
                self._batches.put_nowait(action)
            case Open():
                self._spawn(self._find())
            case Follow():
                self._spawn(self._follow(action))
            case Present():
                self._present(action)

    # ---- to the client

    def _send(self, action: Send | Close) -> None:
        """Send a frame, or have it wait until the client has taken the one before."""
        if isinstance(action, Send) and not self._out and self._writing is None:
            self._write_frame(action.text)
        else:
            self._out.append(action)
            self._out_bytes += _size(action)
        if self._out or self._writing is not None:
            self._waits.set()

    def _write_frame(self, text: str) -> None:
        try:
            written = self.write_message(text)
        except WebSocketClosedError:
            return
        written.add_done_callback(_forget_error)
        connection = self.ws_connection
        if isinstance(connection, WebSocketProtocol13) and connection.stream.writing():
            self._writing = written

    async def _write(self) -> None:
        """Send what waits, no faster than the client takes it."""
        while True:
            await self._waits.wait()
            self._waits.clear()
            while self._out or self._writing is not None:
                if self._writing is not None:
                    with suppress(WebSocketClosedError):
                        await self._writing
                    self._writing = None
                if self._out:
                    action = self._out.popleft()
                    self._out_bytes -= _size(action)
                    if isinstance(action, Close):
                        self.close(action.code, action.reason)
                        return
                    self._write_frame(action.text)
                self._moved.set()

    async def _recheck(self) -> None:
        """Ask now and then whether the user may still read."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if not await self.may("read", self._id):
                self._do(self._session.revoked())

    # ---- what the session asks for

    async def _find(self) -> None:
        """Find the store, make it if the user may write, or wait until somebody makes it."""
        while not self._gone:
            try:
                await self._opened(create=await self.may("write", self._id))
                return
            except NotFound:
                self._do(self._session.absent())
                await asyncio.sleep(ABSENT_SECONDS)
            except Exception as error:
                self._do(self._session.unavailable(self._told(error)))
                return

    async def _opened(self, *, create: bool) -> Store:
        """The store, followed by this connection from now on."""
        if self._store is not None:
            return self._store
        store = await self.host.call(partial(self.stores.get, self._id, create=create))
        if self._feed is None and not self._gone:
            self._store = store
            self._feed = self.host.feeds.of(store)
            replaced = partial(self._replaced, asyncio.get_running_loop())
            self._ends += [self._feed.follow(self._appended), store.on_replaced(replaced)]
            self._do(self._session.opened(store.backend_id, store.head))
        return store

    def _appended(self, head: int, events: Sequence[Event]) -> None:
        self._do(self._session.appended(head, events))

    def _replaced(self, loop: asyncio.AbstractEventLoop, ended: bool) -> None:
        """In any thread: the store's log is another one, which the client learns when it connects anew."""
        reason = "The store was deleted." if ended else "The store was reset or restored."
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(self._do, [Close(REPLACED, reason)])

    def _read(self, action: ReadPage) -> None:
        """Find a page: among the last events, which are at hand, or in the log."""
        if self._store is None or self._feed is None or self._gone:
            return
        if action.begins and self.host.hooks.pulls:
            self._spawn(self._begin_pull(self._store, action))
            return
        wanted = action.after, action.limit, action.max_bytes
        at_hand = self._feed.page(self._session.backend_id or "", *wanted)
        if events := at_hand or page_of(self._ahead, *wanted):
            if self._ahead and events[-1].seq >= self._ahead[-1].seq:
                self._ahead = ()
            self._do(self._session.page(action.pull, events, self._store.head))
        else:
            self._spawn(self._read_log(self._store, action))

    async def _begin_pull(self, store: Store, action: ReadPage) -> None:
        try:
            await self.host.hooks.pull(PullInfo(self._id, self.actor, "pull", action.after, action.live))
        except Exception as error:
            self._do(self._session.pull_refused(action.pull, self._told(error)))
        else:
            await self._read_log(store, action)

    async def _read_log(self, store: Store, action: ReadPage) -> None:
        try:
            events, head = await self.host.call(_page, store, action)
        except Exception as error:
            self._do(self._session.page_failed(action.pull, self._told(error)))
        else:
            self._ahead = events
            page = page_of(events, action.after, action.limit, action.max_bytes)
            self._do(self._session.page(action.pull, page, head))

    async def _push_in_order(self) -> None:
        """Hand batches to the store's writer, one after the other."""
        loop = asyncio.get_running_loop()
        while (action := await self._batches.get()) is not None:
            try:
                self._events.take(len(action.batch))
                await self.allow("write", self._id)
                if action.privileged:
                    await self.allow("execute", self._id)
                if self.host.hooks.pushes:
                    await self.host.hooks.push(self._id, self.actor, action.batch, "sync")
                store = await self._opened(create=True)
                push = partial(store.push, action.batch, actor=self.actor, backend_id=action.backend_id)
                future = push() if store.ready else await self.host.call(push)
            except Exception as error:
                self._do(self._session.push_failed(action.push, self._told(error)))
                self._took(action.push)
            else:
                future.add_done_callback(partial(self._answer, loop, action.push))

    def _answer(self, loop: asyncio.AbstractEventLoop, push: int, future: Future[int]) -> None:
        """In the writer's thread: a batch is durable, or refused."""
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(self._answered, push, future)

    def _answered(self, push: int, future: Future[int]) -> None:
        error = future.exception()
        if error is None:
            self._do(self._session.pushed(push, future.result()))
        else:
            self._do(self._session.push_failed(push, self._told(error)))
        self._took(push)

    def _took(self, push: int) -> None:
        self._push_bytes.pop(push, None)
        self._moved.set()

    async def _follow(self, action: Follow) -> None:
        store = self._store
        if store is None or self._gone:
            return
        try:
            await self.host.hooks.pull(PullInfo(self._id, self.actor, "watch", live=True))
        except Exception as error:
            self._do(self._session.watch_failed(action.watch, self._told(error)))
            return
        if self._gone:
            return
        hub = self.host.hubs.of(store)
        picture = hub.picture()
        if not self._watching:
            self._watching = True
            self._ends.append(hub.join(self._news))
        self._do(self._session.watching(action.watch, picture))

    def _news(self, news: Sequence[News]) -> None:
        self._do(self._session.told(news))

    def _present(self, action: Present) -> None:
        if self._store is None:
            return
        try:
            self._presences.take()
            hub = self.host.hubs.of(self._store)
            hub.present(self._owner, self.actor, action.client_id, action.session_id, action.state)
        except AgentStoreError as error:
            self._do(self._session.present_failed(action.present, error))
        else:
            self._do(self._session.presented(action.present))

    def _told(self, error: BaseException) -> AgentStoreError:
        """An error as the client may know it; one that is not expected goes to the log."""
        if isinstance(error, AgentStoreError):
            return error
        self.log_exception(type(error), error, error.__traceback__)
        return AgentStoreError(describe(error)[1]["error"]["message"])


def _size(action: Send | Close) -> int:
    return len(action.text) if isinstance(action, Send) else 0


def _forget_error(written: asyncio.Future[None]) -> None:
    """The connection's end is noticed elsewhere."""
    if not written.cancelled():
        written.exception()


def _page(store: Store, action: ReadPage) -> tuple[list[Event], int]:
    events = store.read(action.after, _AHEAD * action.limit, action.max_bytes)
    return events, store.head


def auth_token(request: HTTPServerRequest) -> str | None:
    """The token in the query parameter ``payload``, JSON that LiveStore clients encode twice, or None."""
    for given in request.query_arguments.get("payload", [])[-1:]:
        text = given.decode(errors="replace")
        for candidate in (text, unquote(text)):
            try:
                payload = json.loads(candidate)
            except (ValueError, RecursionError):
                continue
            token = payload.get("authToken") if isinstance(payload, dict) else None
            return token if isinstance(token, str) and _TOKEN.fullmatch(token) else None
    return None


def hide_secrets(request: HTTPServerRequest) -> None:
    """Take the secrets out of the address that logs show."""
    shown = [(key, value) for key, values in request.query_arguments.items() for value in values]
    request.query = urlencode([(key, "[secret]" if key in _SECRETS else value) for key, value in shown])
    request.uri = f"{request.path}?{request.query}" if request.query else request.path
