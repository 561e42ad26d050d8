"""A host for the session without sockets: a log in a list, and connections whose actions a test carries out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jupyter_agentstore.core.errors import AgentStoreError, BackendIdMismatch, HeadMoved
from jupyter_agentstore.core.events import Event, Wire, wire
from jupyter_agentstore.sync.news import News
from jupyter_agentstore.sync.server_session import (
    Action,
    Close,
    Follow,
    Open,
    Present,
    PushBatch,
    ReadPage,
    Send,
    ServerSession,
)

STORE = "s"


class Log:
    """Events in a list, and the connections that hear of them."""

    def __init__(self, count: int = 0) -> None:
        self.backend_id = "backend"
        self.events: list[Event] = []
        self.peers: list[Peer] = []
        for number in range(1, count + 1):
            self.append("e", json.dumps({"n": number}), tell=False)

    @property
    def head(self) -> int:
        return len(self.events)

    def append(self, name: str, args: str, *, tell: bool = True) -> None:
        event = Event(
            self.head + 1, 1_700_000_000_000, "someone", wire(name, args, self.head + 1, "other", "x")
        )
        self.events.append(event)
        if tell:
            self.tell([event])

    def push(self, batch: Sequence[Wire], backend_id: str | None) -> int:
        parent = batch[0].parentSeqNum
        if backend_id not in (None, self.backend_id):
            raise BackendIdMismatch(self.backend_id, str(backend_id))
        if parent > self.head:
            raise BackendIdMismatch(self.backend_id, backend_id or "")
        if parent != self.head:
            raise HeadMoved(self.head, parent)
        events = [
            Event(
                event.seqNum,
                1_700_000_000_000,
                "ann",
                wire(event.name, bytes(event.args).decode(), event.seqNum, event.clientId, event.sessionId),
            )
            for event in batch
        ]
        self.events += events
        self.tell(events)
        return self.head

    def tell(self, events: Sequence[Event]) -> None:
        for peer in self.peers:
            peer.do(peer.session.appended(self.head, events))

    def read(self, action: ReadPage) -> list[Event]:
        page: list[Event] = []
        size = 0
        for event in self.events[action.after : action.after + action.limit]:
            size += len(event.body.encode())
            if page and size > action.max_bytes:
                break
            page.append(event)
        return page


class Peer:
    """A connection. With ``eager`` every action is carried out at once, otherwise when the test says so."""

    def __init__(self, log: Log, *, eager: bool = True, open_store: bool = True) -> None:
        self.log = log
        self.eager = eager
        self.open_store = open_store
        self.session = ServerSession(STORE)
        self.sent: list[str] = []
        self.taken = 0
        self.todo: list[Action] = []
        self.closed: Close | None = None
        log.peers.append(self)

    def send(self, frame: str | bytes | dict[str, Any]) -> Peer:
        """Have the client send a frame."""
        self.do(self.session.receive(json.dumps(frame) if isinstance(frame, dict) else frame))
        return self

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            assert self.closed is None
            if isinstance(action, Send):
                json.loads(action.text)
                self.sent.append(action.text)
            elif isinstance(action, Close):
                self.closed = action
            elif self.eager:
                self.carry_out(action)
            else:
                self.todo.append(action)

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Open):
            opened = self.open_store
            self.do(
                self.session.opened(self.log.backend_id, self.log.head) if opened else self.session.absent()
            )
        elif isinstance(action, ReadPage):
            self.do(self.session.page(action.pull, self.log.read(action), self.log.head))
        elif isinstance(action, Follow):
            self.do(self.session.watching(action.watch, [News(("agent",), '{"kind":"agent"}')]))
        elif isinstance(action, Present):
            self.do(self.session.presented(action.present))
        elif isinstance(action, PushBatch):
            try:
                head = self.log.push(action.batch, action.backend_id)
            except AgentStoreError as error:
                self.do(self.session.push_failed(action.push, error))
            else:
                self.do(self.session.pushed(action.push, head))

    def new(self) -> list[dict[str, Any]]:
        """The frames that the server sent since the last call."""
        frames = [json.loads(text) for text in self.sent[self.taken :]]
        self.taken = len(self.sent)
        return frames


def pull(
    id: str = "p", cursor: int | None = None, *, live: bool = True, backend: str = "backend"
) -> dict[str, Any]:
    """A pull's frame."""
    after = {"_tag": "None"}
    if cursor is not None:
        after = {"_tag": "Some", "value": {"backendId": backend, "eventSequenceNumber": cursor}}  # type: ignore[dict-item]
    payload = {"storeId": STORE, "payload": {"authToken": "tok"}, "live": live, "cursor": after}
    return {"_tag": "Request", "id": id, "tag": "SyncWsRpc.Pull", "payload": payload, "headers": []}


def push(
    id: str,
    parent: int,
    count: int = 1,
    *,
    backend: str | None = "backend",
    name: str = "e",
    args: Any = None,
) -> dict[str, Any]:
    """A push's frame."""
    batch = [
        {"name": name, "args": args or {"n": n + 1}, "seqNum": n + 1, "parentSeqNum": n, "clientId": "c"}
        | {"sessionId": "s"}
        for n in range(parent, parent + count)
    ]
    known = {"_tag": "None"} if backend is None else {"_tag": "Some", "value": backend}
    payload = {"storeId": STORE, "batch": batch, "backendId": known}
    return {"_tag": "Request", "id": id, "tag": "SyncWsRpc.Push", "payload": payload, "headers": []}


def ack(id: str = "p") -> dict[str, Any]:
    return {"_tag": "Ack", "requestId": id}


def interrupt(id: str = "p") -> dict[str, Any]:
    return {"_tag": "Interrupt", "requestId": id}


def seqs(frames: Sequence[dict[str, Any]], id: str = "p") -> list[int]:
    """The numbers of the events in a pull's Chunks."""
    return [
        item["eventEncoded"]["seqNum"]
        for frame in frames
        if frame["_tag"] == "Chunk" and frame["requestId"] == id
        for page in frame["values"]
        for item in page["batch"]
    ]


def error(frames: Sequence[dict[str, Any]], id: str) -> dict[str, Any]:
    """The error that a request ended with."""
    exits = [frame["exit"] for frame in frames if frame["_tag"] == "Exit" and frame["requestId"] == id]
    assert len(exits) == 1
    assert exits[0]["_tag"] == "Failure"
    return dict(exits[0]["cause"]["error"])
