"""A host for the client's session without sockets, and the frames of a server that a test makes by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jupyter_agentstore.core.errors import AgentStoreError
from jupyter_agentstore.core.events import Event, Wire, wire
from jupyter_agentstore.sync import codec
from jupyter_agentstore.sync.client_session import (
    Action,
    CaughtUp,
    Changed,
    ClientSession,
    Committed,
    Hangup,
    Send,
)
from tests.sync.peer import STORE, Peer

TIME = 1_700_000_000_123
Content = tuple[str, str]


class Client:
    """Carries out what the session says, and keeps what a real one would keep on disk.

    Attributes:
        did: every action, in order.
        sent: the frames that were sent.
        applied: the events of the log that its tables have.
        head, journal: what is pending, and on what.
    """

    def __init__(self, name: str = "a", **given: Any) -> None:
        self.session = ClientSession(STORE, f"client-{name}", f"session-{name}", **given)
        self.did: list[Action] = []
        self.sent: list[str] = []
        self.taken = self.seen = 0
        self.applied: list[Event] = []
        self.head = self.session.state.upstream_head
        self.journal: list[Wire] = list(self.session.state.pending)
        self.peer: Peer | None = None

    def do(self, actions: Sequence[Action]) -> Client:
        for action in actions:
            self.did.append(action)
            match action:
                case Committed():
                    self.journal += action.events
                case Changed():
                    self.head, self.journal = action.head, list(action.pending)
                    self.applied += action.events
                case Send():
                    json.loads(action.text)
                    self.sent.append(action.text)
                case Hangup() if self.peer is not None:
                    self.cut()
        return self

    def opened(self) -> Client:
        return self.do(self.session.opened())

    def receive(self, *frames: str | bytes) -> Client:
        for frame in frames:
            self.do(self.session.receive(frame))
        return self

    def commit(self, *said: str) -> Client:
        return self.do(self.session.commit([("e", args) for args in said]))

    def tick(self, now: float) -> Client:
        return self.do(self.session.tick(now))

    def new(self) -> list[Action]:
        """What was done since the last call, but for what was sent."""
        done = [action for action in self.did[self.seen :] if not isinstance(action, Send)]
        self.seen = len(self.did)
        return done

    def out(self) -> list[dict[str, Any]]:
        """The frames that were sent since the last call."""
        frames = [json.loads(text) for text in self.sent[self.taken :]]
        self.taken = len(self.sent)
        return frames

    def pushes(self) -> list[list[int]]:
        """The numbers of the events in each push since the last call."""
        return [[event["seqNum"] for event in frame["payload"]["batch"]] for frame in pushed(self.out())]

    # ---- a connection to a server's session

    def connect(self, peer: Peer) -> Client:
        self.peer = peer
        self.opened()
        return self.pump()

    def cut(self) -> Client:
        self.peer = None
        self.taken = len(self.sent)
        return self.do(self.session.closed())

    def pump(self) -> Client:
        """Exchange frames until neither end has one."""
        while self.peer is not None and (
            self.taken < len(self.sent) or self.peer.taken < len(self.peer.sent)
        ):
            if self.taken < len(self.sent):
                self.taken += 1
                self.peer.send(self.sent[self.taken - 1])
            else:
                self.peer.taken += 1
                self.receive(self.peer.sent[self.peer.taken - 1])
        return self


def pushed(frames: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [frame for frame in frames if frame.get("tag") == "SyncWsRpc.Push"]


def contents(events: Sequence[Wire]) -> list[str]:
    return [bytes(event.args).decode() for event in events]


def event(seq: int, args: str = "{}", *, by: str = "other", actor: str = "someone") -> Event:
    """An event as the log has it; ``by`` the session of that name."""
    return Event(seq, TIME, actor, wire("e", args, seq, f"client-{by}", f"session-{by}"))


def page(*events: Event, more: int = 0, id: str = "1", backend: str = "backend") -> str:
    return codec.chunk(id, [codec.item(one) for one in events], more, backend)


def done(id: str) -> str:
    return codec.success(id)


def failed(id: str, error: AgentStoreError) -> str:
    return codec.failure(id, error)


def online(**given: Any) -> Client:
    """A client that has caught up with an empty log; its pull is request 1, its first push request 2."""
    client = Client(**given).opened().receive(page())
    assert any(isinstance(action, CaughtUp) for action in client.did)
    client.new()
    client.out()
    return client
