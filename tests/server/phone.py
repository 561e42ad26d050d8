"""A LiveStore client's end of the websocket, frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.server.servers import TOKEN, Server

PATIENCE = 30.0


class Client:
    """A LiveStore client's frames, by hand."""

    def __init__(self, socket: ClientConnection, store_id: str) -> None:
        self.socket = socket
        self.store_id = store_id
        self.ids = 0
        self.backend_id: str | None = None
        self.frames: list[dict[str, Any]] = []

    def send(self, frame: dict[str, Any]) -> None:
        self.socket.send(json.dumps(frame))

    def request(self, tag: str, **payload: Any) -> str:
        self.ids += 1
        frame = {"storeId": self.store_id, **payload}
        self.send({"_tag": "Request", "id": str(self.ids), "tag": tag, "payload": frame, "headers": []})
        return str(self.ids)

    def pull(self, after: int | None = None, *, live: bool = True) -> str:
        cursor: dict[str, Any] = {"_tag": "None"}
        if after is not None:
            value = {"backendId": self.backend_id, "eventSequenceNumber": after}
            cursor = {"_tag": "Some", "value": value}
        return self.request("SyncWsRpc.Pull", live=live, cursor=cursor)

    def push(self, parent: int, *args: dict[str, Any], name: str = "v1.Noted") -> str:
        batch = [
            {"name": name, "args": a, "seqNum": n + 1, "parentSeqNum": n, "clientId": "c", "sessionId": "s"}
            for n, a in enumerate(args, parent)
        ]
        known = {"_tag": "Some", "value": self.backend_id} if self.backend_id else {"_tag": "None"}
        return self.request("SyncWsRpc.Push", batch=batch, backendId=known)

    def receive(self) -> dict[str, Any]:
        """The next frame; a Chunk is acknowledged."""
        frame: dict[str, Any] = json.loads(self.socket.recv(PATIENCE))
        if frame["_tag"] == "Chunk":
            self.backend_id = frame["values"][0].get("backendId", self.backend_id)
            self.send({"_tag": "Ack", "requestId": frame["requestId"]})
        self.frames.append(frame)
        return frame

    def exit(self, request_id: str) -> dict[str, Any]:
        """How a request ended."""
        while True:
            frame = self.receive()
            if frame["_tag"] == "Exit" and frame["requestId"] == request_id:
                return dict(frame["exit"])

    def error(self, request_id: str) -> dict[str, Any]:
        ended = self.exit(request_id)
        assert ended["_tag"] == "Failure"
        return dict(ended["cause"]["error"])

    def watch(self) -> str:
        return self.request("AgentStore.Watch")

    def present(self, state: dict[str, Any] | None, client_id: str = "c") -> str:
        return self.request("AgentStore.Presence", clientId=client_id, sessionId="s", state=state)

    def told(self, kind: str, look: Callable[[dict[str, Any]], object] = lambda item: True) -> dict[str, Any]:
        """The next news of a kind that are looked for."""
        while True:
            frame = self.receive()
            for item in frame.get("values", ()):
                if item.get("kind") == kind and look(item):
                    return dict(item)

    def events(self, count: int) -> list[dict[str, Any]]:
        """The next ``count`` items of pulls."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = self.receive()
            if frame["_tag"] == "Chunk":
                found += frame["values"][0]["batch"]
        return found

    def closed(self) -> ConnectionClosed:
        """How the connection ends."""
        try:
            while True:
                self.socket.recv(PATIENCE)
        except ConnectionClosed as ended:
            return ended


def address(server: Server, store_id: str, query: str = "") -> str:
    where = urlsplit(server.announced["url"])
    path = f"{where.path.rstrip('/')}/agentstore/websocket"
    return f"ws://{where.netloc}{path}?storeId={store_id}{query}&transport=ws"


def opened(server: Server, store_id: str, query: str = "", **headers: str) -> Client:
    """A connection with these headers (``_`` for ``-``); :func:`hang_up` ends it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    socket = _CONNECTIONS.enter_context(
        connect(address(server, store_id, query), additional_headers=named, max_size=None, proxy=None)
    )
    return Client(socket, store_id)


def hang_up() -> None:
    """End all connections."""
    _CONNECTIONS.close()


_CONNECTIONS = ExitStack()
AUTHORIZED = {"Authorization": f"token {TOKEN}"}
