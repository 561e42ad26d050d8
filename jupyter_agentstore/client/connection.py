"""One websocket to a store, in a thread of its own, opened again whenever it breaks.

What belongs here: sockets, the clock and backing off. What is said over the connection is its driver's business; the
driver is called in this thread, one call at a time, and must not wait for anybody who waits for this thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from ..core.limits import MAX_PAGE_BYTES
from .discovery import Endpoint

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds before the first attempt to connect again, and at most. Each is shortened by chance by up to half, so that
the clients of a server that was restarted do not all come at once."""

STEADY = 5.0
"""Seconds that a connection must have stood for the next delay to be the first one again."""

TICK = 1.0
"""Seconds between calls of the driver's clock."""

OPEN_SECONDS = 10.0
"""Seconds that opening a connection may take."""

CLOSE_SECONDS = 2.0
"""Seconds to wait for the thread to end; one that just asks a server that does not answer ends a little later."""

_log = logging.getLogger(__name__)


class Driver(Protocol):
    """What speaks over a connection."""

    def opened(self) -> None:
        """There is a connection."""

    def received(self, frame: str | bytes) -> None:
        """A frame has come."""

    def closed(self, reason: str) -> None:
        """The connection is gone, or could not be opened: a sentence why. It is tried again."""

    def tick(self, now: float) -> None:
        """The time, in seconds of a clock that never goes back; about once a second while there is a connection."""


class Connection:
    """A websocket that heals itself.

    Args:
        store_id: which store.
        endpoint: the server as it is now.
        locate: looks where the server is; asked in the thread before every attempt but the first. It may wait.
        driver: what speaks over it.
    """

    def __init__(
        self, store_id: str, endpoint: Endpoint, locate: Callable[[], Endpoint], driver: Driver
    ) -> None:
        self._store_id = store_id
        self._endpoint = endpoint
        self._locate = locate
        self._driver = driver
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: ClientConnection | None = None
        self._out: deque[str] = deque()
        self._wake: asyncio.Event | None = None
        self._hangup = ""
        self._paused = False
        self._closed = False
        self._poke: asyncio.Event | None = None
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._main, name="agentstore-sync", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def send(self, text: str) -> None:
        """Send a frame, if there is a connection; from any thread, without waiting for it."""
        self._out.append(text)
        if threading.current_thread() is self._thread:
            if self._wake is not None:
                self._wake.set()
        else:
            self._call(lambda: self._wake.set() if self._wake else None)

    def hangup(self, reason: str) -> None:
        """Close the connection; it is opened again after a while."""
        self._hangup = reason
        self._call(self._drop)

    def pause(self) -> None:
        """Close the connection until :meth:`resume`."""
        self._paused = True
        self.hangup("Paused.")

    def resume(self) -> None:
        """Connect again, at once."""
        self._paused = False
        self._call(lambda: self._poke.set() if self._poke else None)

    def close(self) -> None:
        """End the connection and the thread."""
        self._closed = True
        self._call(self._drop)
        self._call(lambda: self._poke.set() if self._poke else None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def _call(self, function: Callable[[], object]) -> None:
        """Have the thread do something; nothing if it has ended, or not begun."""
        with self._guard:
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(function)

    def _drop(self) -> None:
        if self._socket is not None:
            # Not `close`, which would wait for an answer from a server that may have gone.
            self._socket.transport.abort()

    # ---- in the thread

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:
            _log.exception("The connection to the store %r ended for good.", self._store_id)
        finally:
            with self._guard:
                self._loop = None

    async def _run(self) -> None:
        with self._guard:
            self._loop = asyncio.get_running_loop()
        self._wake, self._poke = asyncio.Event(), asyncio.Event()
        delay = FIRST_DELAY
        while not self._closed:
            began = time.monotonic()
            reason = await self._connect()
            self._tell_closed(reason)
            if time.monotonic() - began > STEADY:
                delay = FIRST_DELAY
            await self._rest(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, LAST_DELAY)
            if not self._closed:
                self._look()

    def _look(self) -> None:
        # In this thread: nothing else goes on in it now, and Python lends no others while it ends.
        try:
            self._endpoint = self._locate()
        except Exception:
            _log.exception("The server of the store %r could not be looked for.", self._store_id)

    async def _rest(self, seconds: float) -> None:
        """Wait before the next attempt, or until somebody wants it now."""
        assert self._poke is not None
        while not self._closed:
            self._poke.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poke.wait(), None if self._paused else seconds)
                if self._paused:
                    continue
            return

    async def _connect(self) -> str:
        """Connect, and carry frames until the connection ends; why it did."""
        self._hangup = ""
        self._out.clear()
        try:
            async with _open(self._endpoint, self._store_id) as socket:
                self._socket = socket
                if self._closed or self._paused:
                    return "Closed."
                helpers = [asyncio.create_task(self._write(socket)), asyncio.create_task(self._tick(socket))]
                for helper in helpers:
                    helper.add_done_callback(self._helped)
                try:
                    self._driver.opened()
                    async for frame in socket:
                        self._driver.received(frame)
                finally:
                    self._socket = None
                    for helper in helpers:
                        helper.cancel()
                closed = socket.protocol.close_rcvd
            if self._hangup:
                return self._hangup
            return (
                f"The server closed the connection ({closed.code} {closed.reason})."
                if closed
                else "It broke."
            )
        except Exception as error:
            return self._hangup or _why(error)
        finally:
            self._socket = None

    def _helped(self, helper: asyncio.Task[None]) -> None:
        """A helper that has failed takes the connection with it."""
        error = None if helper.cancelled() else helper.exception()
        if error is not None:
            self._hangup = self._hangup or _why(error)
            self._drop()

    def _tell_closed(self, reason: str) -> None:
        try:
            self._driver.closed(reason)
        except Exception:
            _log.exception("The end of a connection could not be handled.")

    async def _write(self, socket: ClientConnection) -> None:
        assert self._wake is not None
        while True:
            self._wake.clear()
            while self._out:
                await socket.send(self._out.popleft())
            await self._wake.wait()

    async def _tick(self, socket: ClientConnection) -> None:
        while True:
            self._driver.tick(time.monotonic())
            await asyncio.sleep(TICK)


def _open(endpoint: Endpoint, store_id: str) -> Any:
    import ssl

    from websockets.asyncio.client import connect, unix_connect

    url = f"ws{endpoint.url.removeprefix('http')}/agentstore/websocket?storeId={quote(store_id)}&transport=ws"
    settings: dict[str, Any] = {
        "additional_headers": {"Authorization": endpoint.authorization} if endpoint.authorization else {},
        "max_size": 16 * MAX_PAGE_BYTES,
        "open_timeout": OPEN_SECONDS,
        "ping_interval": None,  # the protocol has its own
        "close_timeout": 1,
        "compression": None,
    }
    if endpoint.sock:
        return unix_connect(endpoint.sock, url, **settings)
    if endpoint.loopback:
        settings["proxy"] = None
        if url.startswith("wss:"):
            settings["ssl"] = ssl._create_unverified_context()  # noqa: S323 - see remote
    return connect(url, **settings)


def _why(error: BaseException) -> str:
    """Why there is no connection, a sentence."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    if isinstance(error, InvalidStatus):
        status, body = error.response.status_code, error.response.body or b""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(body)["error"]["message"])
        if status in (401, 403):
            return f"The server does not accept the token ({status})."
        return f"The server answered {status}."
    if isinstance(error, ConnectionClosed):
        got = error.rcvd
        return (
            f"The server closed the connection ({got.code} {got.reason})." if got else "The connection broke."
        )
    if isinstance(error, ConnectionRefusedError):
        return "No server answers there."
    if isinstance(error, TimeoutError):
        return "The server did not answer in time."
    return f"{type(error).__name__}: {error}".rstrip(": .") + "."
