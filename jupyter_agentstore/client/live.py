"""Following a store's log over the websocket: a live pull of LiveStore's protocol in a thread of its own.

What belongs here: the connection, kept for as long as somebody listens, and the frames of a pull. What an event means
to whom is the listeners' business. After a break it goes on from where it was; if the log is another one by then, or
something may have been missed, listeners are called without events. A store that is not there yet is looked for now
and then: a pull would make it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from ..core.errors import AgentStoreError
from ..core.events import Event
from .discovery import Endpoint
from .link import Listener

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PING = 10.0
"""Seconds between pings, and for which an answer to one may take."""

FIRST_LOOK, LAST_LOOK = 0.2, 2.0
"""Seconds between looks for a store that has no event yet."""

FIRST_DELAY, LAST_DELAY = 0.2, 10.0
"""Seconds before the first attempt to connect again, and at most."""

_log = logging.getLogger(__name__)
_NONE = {"_tag": "None"}


class _Number(msgspec.Struct):
    seqNum: int


class _Metadata(msgspec.Struct):
    createdAt: str = ""
    actor: str = ""


class _Some(msgspec.Struct):
    value: _Metadata | None = None


class _Item(msgspec.Struct):
    eventEncoded: msgspec.Raw
    metadata: _Some


class _Page(msgspec.Struct):
    batch: list[_Item]
    backendId: str


class _Frame(msgspec.Struct):
    tag: str = msgspec.field(name="_tag")
    requestId: str = ""
    values: list[_Page] = []
    exit: Any = None


_frame = msgspec.json.Decoder(_Frame)
_numbers = msgspec.json.Decoder(_Number)


class _OtherLog(Exception):
    """The store's log is not the one that was followed."""


class Live:
    """A live pull that heals itself. The thread starts with the first listener.

    Args:
        store_id: which store.
        locate: looks where the server is; asked before every attempt but the first.
        endpoint: the server as it is now.
        head: asks for the store's head, 0 while it is not there.
    """

    def __init__(
        self,
        store_id: str,
        locate: Callable[[], Endpoint],
        endpoint: Endpoint,
        head: Callable[[], int],
    ) -> None:
        self.connected = True  # until an attempt fails: whoever asks has just reached the server by REST
        self._store_id = store_id
        self._locate = locate
        self._endpoint = endpoint
        self._head = head
        self._cursor: tuple[str, int] | None = None
        self._listeners: tuple[Listener, ...] = ()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._look = threading.Event()
        self._socket: ClientConnection | None = None
        self._thread: threading.Thread | None = None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a listener from now on; returns what ends that."""
        with self._guard:
            self._listeners = (*self._listeners, listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentstore-live", daemon=True)
                self._thread.start()

        def end() -> None:
            with self._guard:
                self._listeners = tuple(one for one in self._listeners if one is not listener)

        return end

    def look(self) -> None:
        """Somebody has just written something: the store is there."""
        self._look.set()

    def close(self) -> None:
        """End the connection and the thread."""
        self._stop.set()
        self._look.set()
        socket = self._socket
        if socket is not None:
            socket.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
        self._tell()

    def _tell(self, events: Sequence[Event] = ()) -> None:
        for listener in self._listeners:
            try:
                listener(events)
            except Exception:
                _log.exception("A listener failed.")

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._follow()
            except _OtherLog:
                self._cursor = None
            except Exception as error:  # whatever it is, the remedy is to connect again
                _log.debug("The live pull of %s broke off: %s", self._store_id, error)
            if self.connected:
                self.connected = False
                self._tell()
            if time.monotonic() - began > LAST_DELAY:
                delay = FIRST_DELAY
            if self._stop.wait(delay * random.uniform(0.5, 1.0)):  # noqa: S311
                return
            delay = min(delay * 2, LAST_DELAY)
            self._endpoint = self._locate()

    def _follow(self) -> None:
        """Connect, and pass on what comes until the connection ends."""
        if self._cursor is None:
            self._await_store()
            if self._stop.is_set():
                return
        with _connect(self._endpoint, self._store_id) as socket:
            self._socket = socket
            if self._stop.is_set():
                return
            try:
                self._pull(socket)
            finally:
                self._socket = None

    def _await_store(self) -> None:
        """Wait for the store's first event."""
        delay = FIRST_LOOK
        while not self._stop.is_set():
            self._look.clear()
            if self._head() > 0:
                return
            if not self.connected:
                self.connected = True
                self._tell()
            self._look.wait(delay)
            delay = min(delay * 1.5, LAST_LOOK)

    def _pull(self, socket: ClientConnection) -> None:
        socket.send('{"_tag":"Ping"}')
        if self._cursor is None:
            head = self._head()
            self._cursor = (_backend_id(socket, self._store_id), head)
        socket.send(_request("1", self._store_id, live=True, cursor=self._cursor))
        self.connected = True
        self._tell()  # what happened before this, nobody was told
        pinged = heard = time.monotonic()
        while True:
            now = time.monotonic()
            if now - pinged >= PING:
                if heard < pinged:
                    return
                socket.send('{"_tag":"Ping"}')
                pinged = now
            try:
                text = socket.recv(timeout=max(0.0, pinged + PING - now))
            except TimeoutError:
                continue
            heard = time.monotonic()
            frame = _read(text)
            if frame.requestId != "1":
                continue
            if frame.tag == "Exit":
                if "BackendIdMismatchError" in json.dumps(frame.exit):
                    raise _OtherLog
                return
            if frame.tag == "Chunk":
                self._take(frame)
                socket.send('{"_tag":"Ack","requestId":"1"}')

    def _take(self, frame: _Frame) -> None:
        events = []
        for page in frame.values:
            for item in page.batch:
                body = bytes(item.eventEncoded)
                about = item.metadata.value or _Metadata()
                seq = _number(body)
                events.append(Event(seq, _milliseconds(about.createdAt), about.actor, body.decode()))
                self._cursor = (page.backendId, seq)
        if events:
            self._tell(events)


def _read(text: str | bytes) -> _Frame:
    try:
        return _frame.decode(text)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeError):
        frame = json.loads(text)  # msgspec refuses the escape of half an emoji, which JSON allows
    for page in frame.get("values", ()):
        for item in page["batch"]:
            item["eventEncoded"] = msgspec.Raw(
                json.dumps(item["eventEncoded"], separators=(",", ":")).encode()
            )
    return msgspec.convert(frame, _Frame)


def _number(body: bytes) -> int:
    try:
        return _numbers.decode(body).seqNum
    except msgspec.DecodeError:
        return int(json.loads(body)["seqNum"])


def _backend_id(socket: ClientConnection, store_id: str) -> str:
    """Which log it is: a pull from the beginning says so on its first page, and is then called off."""
    socket.send(_request("0", store_id, live=False, cursor=None))
    while True:
        frame = _read(socket.recv(timeout=PING))
        if frame.requestId == "0":
            if frame.tag == "Chunk":
                socket.send('{"_tag":"Interrupt","requestId":"0"}')
                return frame.values[0].backendId
            raise AgentStoreError(f"The server refused the pull: {json.dumps(frame.exit)[:200]}")


def _request(request: str, store_id: str, *, live: bool, cursor: tuple[str, int] | None) -> str:
    at = {"backendId": cursor[0], "eventSequenceNumber": cursor[1]} if cursor else None
    payload = {
        "storeId": store_id,
        "live": live,
        "cursor": {"_tag": "Some", "value": at} if at else _NONE,
    }
    frame = {"_tag": "Request", "id": request, "tag": "SyncWsRpc.Pull", "payload": payload, "headers": []}
    return json.dumps(frame)


def _connect(endpoint: Endpoint, store_id: str) -> ClientConnection:
    import ssl

    from websockets.sync.client import connect, unix_connect

    url = f"ws{endpoint.url.removeprefix('http')}/agentstore/websocket?storeId={quote(store_id)}&transport=ws"
    settings: dict[str, Any] = {
        "additional_headers": {"Authorization": endpoint.authorization} if endpoint.authorization else {},
        "max_size": 16 * 2**20,
        "open_timeout": 10,
        "ping_interval": None,  # the protocol has its own
        "close_timeout": 2,
    }
    if endpoint.sock:
        unix: ClientConnection = unix_connect(endpoint.sock, url, **settings)
        return unix
    if endpoint.loopback:
        settings["proxy"] = None
        if url.startswith("wss:"):
            settings["ssl"] = ssl._create_unverified_context()  # noqa: S323 - see remote
    tcp: ClientConnection = connect(url, **settings)
    return tcp


def _milliseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
