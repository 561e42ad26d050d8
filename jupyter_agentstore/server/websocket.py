"""The sync protocol's websocket: tornado's side of a :class:`~jupyter_agentstore.sync.server_session.ServerSession`.

What belongs here: the handshake, authority, and carrying out what the session says, off the loop where it blocks.
What follows what on the wire is the session's business.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.websocket import WebSocketMixin
from tornado.httputil import HTTPServerRequest
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..core.errors import AgentStoreError, NotFound
from ..core.events import Event
from ..sync.codec import MAX_FRAME_BYTES
from ..sync.server_session import (
    MAX_REQUESTS,
    Action,
    Close,
    Open,
    PushBatch,
    ReadPage,
    Send,
    ServerSession,
)
from .base import Access
from .errors import describe
from .feed import Feeds

if TYPE_CHECKING:
    from ..store import Store

RECHECK_SECONDS = 30.0
"""How often a live pull asks whether its user may still read."""

ABSENT_SECONDS = 2.0
"""How often a reader's connection looks whether the store that it waits for has come into being."""

REPLACED = 1012
"""The code with which a connection is closed when its store is another one; clients connect anew after it."""

_MANY_FRAMES = 256
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
        """Upgrade, if the user may read the store.

        Raises:
            InvalidStoreId: there is no such id.
            Forbidden: they may not.
        """
        await self.allow("read", self.store_id)
        await WebSocketHandler.get(self, *args, **kwargs)

    # ---- the connection

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Start the session, the writer, and the one who pushes."""
        super().open(*args, **kwargs)
        feeds: Feeds = self.settings.setdefault("agentstore_feeds", Feeds())
        self._feeds = feeds
        self._id = self.store_id
        self._session = ServerSession(self._id)
        self._store: Store | None = None
        self._unfollow: Callable[[], None] | None = None
        self._unreplaced: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._gone = False
        self._out: asyncio.Queue[Send | Close] = asyncio.Queue()
        self._batches: asyncio.Queue[PushBatch | None] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._push_in_order())
        self._ending = [self._spawn(self._write()), self._spawn(self._watch())]

    async def on_message(self, message: str | bytes) -> None:
        """Take a frame; the next one is not read from the socket before this returns."""
        self._do(self._session.receive(message))
        while not self._gone and (self._out.qsize() > _MANY_FRAMES or self._batches.qsize() > MAX_REQUESTS):
            self._moved.clear()
            await self._moved.wait()

    def on_close(self) -> None:
        """Let go of everything; batches that were received are still pushed."""
        if not hasattr(self, "_session"):
            return
        self._gone = self._session.closed = True
        self._moved.set()
        if self._unfollow is not None:
            self._unfollow()
            self._unreplaced()
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
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.log_exception(type(error), error, error.__traceback__)
            self.close(1011)

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send() | Close():
                    self._out.put_nowait(action)
                case ReadPage():
                    self._spawn(self._read(action))
                case PushBatch():
                    self._batches.put_nowait(action)
                case Open():
                    self._spawn(self._find())

    async def _write(self) -> None:
        """Send what the session wants sent, no faster than the client takes it."""
        while True:
            action = await self._out.get()
            self._moved.set()
            if isinstance(action, Close):
                self.close(action.code, action.reason)
                return
            try:
                await self.write_message(action.text)
            except WebSocketClosedError:
                return

    async def _watch(self) -> None:
        """Ask now and then whether the user may still read."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if self._session.live and not await self.may("read", self._id):
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
        if self._unfollow is None and not self._gone:
            self._store = store
            self._unfollow = self._feeds.follow(store, self._appended)
            self._unreplaced = store.on_replaced(self._replaced)
            self._do(self._session.opened(store.backend_id, store.head))
        return store

    def _appended(self, head: int, events: Sequence[Event]) -> None:
        self._do(self._session.appended(head, events))

    def _replaced(self, ended: bool) -> None:
        """In any thread: the store's log is another one, which the client learns when it connects anew."""
        reason = "The store was deleted." if ended else "The store was reset or restored."
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._do, [Close(REPLACED, reason)])

    async def _read(self, action: ReadPage) -> None:
        store = self._store
        if store is None or self._gone:
            return
        try:
            events, head = await self.host.call(_page, store, action)
        except Exception as error:
            self._do(self._session.page_failed(action.pull, self._told(error)))
        else:
            self._do(self._session.page(action.pull, events, head))

    async def _push_in_order(self) -> None:
        """Hand batches to the store's writer, one after the other."""
        while (action := await self._batches.get()) is not None:
            self._moved.set()
            try:
                await self.allow("write", self._id)
                if action.privileged:
                    await self.allow("execute", self._id)
                store = await self._opened(create=True)
                push = partial(store.push, action.batch, actor=self.actor, backend_id=action.backend_id)
                future = await self.host.call(push)
            except Exception as error:
                self._do(self._session.push_failed(action.push, self._told(error)))
            else:
                self._spawn(self._answer(action.push, future))

    async def _answer(self, push: int, future: Future[int]) -> None:
        try:
            head = await asyncio.wrap_future(future)
        except Exception as error:
            self._do(self._session.push_failed(push, self._told(error)))
        else:
            self._do(self._session.pushed(push, head))

    def _told(self, error: Exception) -> AgentStoreError:
        """An error as the client may know it; one that is not expected goes to the log."""
        if isinstance(error, AgentStoreError):
            return error
        self.log_exception(type(error), error, error.__traceback__)
        return AgentStoreError(describe(error)[1]["error"]["message"])


def _nothing() -> None:
    """Nothing to end."""


def _page(store: Store, action: ReadPage) -> tuple[list[Event], int]:
    events = store.read(action.after, action.limit, action.max_bytes)
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
