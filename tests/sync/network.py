"""A small world: clients that crash, a server that crashes, and a network between them, one step at a time.

The sessions of both ends and the store with its writer are the real ones; hosts and network are made here, so that a
test decides what happens when. Nothing waits for a time: a push is waited for until its future is done.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from uuid import uuid4

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import AgentStoreError, Conflict, Forbidden, NotFound
from jupyter_agentstore.core.events import Event, Wire
from jupyter_agentstore.duck import Instance, alias_of
from jupyter_agentstore.state.state import State
from jupyter_agentstore.store import Registry, Store, draft
from jupyter_agentstore.sync import client_session as client
from jupyter_agentstore.sync import server_session as server
from tests.sync.client import contents

STORE = "s"
Step = Callable[[], None]


class Crash(Exception):
    """The process has gone before it carried out the next step."""


class Connection:
    """A websocket. Each end may be gone without the other knowing: frames that are under way still arrive."""

    def __init__(self, host: Host, world: World) -> None:
        self.host: Host | None = host  # as long as that end is there
        self.owner = host
        self.world = world
        self.session = server.ServerSession(STORE)
        self.served = True
        self.up: deque[str] = deque()
        self.down: deque[str] = deque()
        self.todo: deque[server.ReadPage | server.Open] = deque()
        self.batches: deque[server.PushBatch] = deque()
        self.mail: deque[Callable[[], Sequence[server.Action]]] = deque()
        self.follows = False

    def steps(self) -> list[Step]:
        """What may happen next on this connection."""
        found: list[Step] = []
        if self.served:
            if self.up:
                found.append(lambda: self._serve(self.session.receive(self.up.popleft())))
            if self.mail:
                found.append(lambda: self._serve(self.mail.popleft()()))
            if self.todo:
                found.append(self._read)
            if self.batches:
                found.append(lambda: self.world.push(self, self.batches.popleft()))
        if self.down and self.host is not None:
            found.append(self.arrive)
        return found

    def arrive(self, budget: int | None = None) -> None:
        """A frame reaches the client, which carries out at most so many steps before it crashes."""
        if self.host is not None and self.down:
            self.host.do(self.host.session.receive(self.down.popleft()), budget)

    def die(self) -> None:
        """The server's end goes. What it sent is still under way; what it has not read is lost."""
        self.served = self.follows = False
        for queue in (self.up, self.todo, self.batches, self.mail):
            queue.clear()

    @property
    def gone(self) -> bool:
        return self.host is None and not self.served

    def _serve(self, actions: Sequence[server.Action]) -> None:
        for action in actions:
            match action:
                case server.Send():
                    self.down.append(action.text)
                case server.Close():
                    self.die()
                case server.PushBatch():
                    self.batches.append(action)
                case server.ReadPage() | server.Open():
                    self.todo.append(action)

    def _read(self) -> None:
        action, store = self.todo.popleft(), self.world.store
        if isinstance(action, server.Open):
            self.follows = True
            self._serve(self.session.opened(store.backend_id, store.head))
        else:
            events = store.read(action.after, action.limit, action.max_bytes)
            self.mail.append(partial(self.session.page, action.pull, events, store.head))


class World:
    """A server with one store, its connections, and the hosts of clients."""

    def __init__(self, registry: Registry, instance: Instance) -> None:
        self.registry = registry
        self.instance = instance
        self.id = f"store-{uuid4()}"
        self.store: Store = registry.get(self.id, create=True)
        self.heard: list[Sequence[Event]] = []  # by the writer's thread, before it answers
        self.store.on_events(self.heard.append)
        self.connections: list[Connection] = []
        self.hosts: list[Host] = []
        self.failures = 0  # pushes that will fail for a moment
        self.committed = 0
        self.now = 0.0

    def log(self) -> list[Event]:
        return self.store.read(0, 1_000_000)

    def steps(self) -> list[Step]:
        return [step for connection in self.connections for step in connection.steps()]

    def push(self, connection: Connection, action: server.PushBatch) -> None:
        session, owner = connection.session, connection.owner
        answer: Callable[[], Sequence[server.Action]]
        try:
            if not owner.may_write:
                raise Forbidden(f"{owner.name} may not write.")
            if self.failures:
                self.failures -= 1
                raise OSError("The disk is full.")
            future = self.store.push(action.batch, actor=owner.name, backend_id=action.backend_id)
            answer = partial(session.pushed, action.push, future.result())
        except (AgentStoreError, OSError) as error:
            answer = partial(session.push_failed, action.push, error)
        self.publish()
        connection.mail.append(answer)

    def commit(self, name: str, args: dict[str, object]) -> None:
        """A commit that does not come over the protocol."""
        self.committed += 1
        try:
            self.store.commit([draft(agent_schema, name, args, door="rest")], actor="rest").result()
        except (Conflict, NotFound):
            self.committed -= 1
        self.publish()

    def publish(self) -> None:
        heard, self.heard[:] = list(self.heard), []
        for events in heard:
            for connection in self.connections:
                if connection.follows:
                    told = partial(connection.session.appended, events[-1].seq, events)
                    connection.mail.append(told)

    def crash(self) -> None:
        """The server goes, and comes again: the log is there, everything else is not."""
        for connection in self.connections:
            connection.die()
        while not self.store.sleep():
            pass
        self.store = self.registry.get(self.id, create=False)
        self.forget()

    def forget(self) -> None:
        self.connections = [one for one in self.connections if not one.gone]

    def settle(self) -> None:
        """Let everything arrive, until nobody has anything to do."""
        for _ in range(500):
            while steps := self.steps():
                steps[0]()
            self.now += 1.0
            for host in self.hosts:
                if host.connection is not None and not host.connection.served:
                    host.cut()
                if host.connection is None:
                    host.connect()
                if host.may_write and host.session.refused is not None:
                    host.allow()
                host.tick(self.now)
            if not self.steps() and all(host.settled for host in self.hosts):
                return
        raise AssertionError(f"They do not come to rest: {[host.session.state for host in self.hosts]}")

    def close(self) -> None:
        for host in self.hosts:
            host.tables.close()
        while not self.store.sleep():
            pass


class Journal:
    """What a named session has on disk: its pending events, and the head that they stand on."""

    def __init__(self, head: int = 0, pending: Sequence[Wire] = ()) -> None:
        self.head = head
        self.pending = tuple(pending)


class Host:
    """A process with a client's session.

    Args:
        named: it keeps a journal, and goes on with it after a crash; otherwise it is a new session then.
        tables_first: it applies events before it writes the journal; otherwise after that.
        careless: a crash may take it back to what its journal said before a rebase, even if it has pushed since.
        may_write: whether the server takes its pushes.
    """

    def __init__(
        self,
        world: World,
        name: str,
        *,
        named: bool = True,
        tables_first: bool = False,
        careless: bool = False,
        may_write: bool = True,
    ) -> None:
        self.world = world
        self.name = name
        self.named = named
        self.tables_first = tables_first
        self.careless = careless
        self.may_write = may_write
        self.may_be_refused = not may_write  # also after it was allowed to: the answer may be on its way
        self.runs = 0
        self.backend_id: str | None = None
        self.applied: list[Event] = []
        self.tables = self._open()
        self.durable = self.loose = Journal()  # a confirmation is written, but may be lost in a crash
        self.connection: Connection | None = None
        self.committed: list[tuple[str, str]] = []  # session and args, as the user was told
        self.acknowledged: Counter[tuple[str, str]] = Counter()
        self.lost: Counter[tuple[str, str]] = Counter()  # which may be in the log or not
        self._begin()

    def _open(self) -> State:
        alias = alias_of(str(uuid4()))
        return State.open(self.world.instance, None, alias, agent_schema, "backend", 10**9)

    def _begin(self) -> None:
        if not self.named:
            self.runs += 1
            self.durable = self.loose = Journal(len(self.applied))
        self.session = client.ClientSession(
            STORE,
            f"client-{self.name}",
            f"session-{self.name}-{self.runs}",
            backend_id=self.backend_id,
            head=self.loose.head,
            applied=len(self.applied),
            pending=self.loose.pending,
        )
        self.pending = self.session.state.pending

    @property
    def settled(self) -> bool:
        session = self.session
        idle = session.refused is not None if session.state.pending else True
        return session.caught_up and idle and session.state.upstream_head == self.world.store.head

    def in_order(self, log: Sequence[tuple[str, str]]) -> bool:
        """Whether the log has what this host committed in the order in which it did, as far as it has it."""
        own = {session for session, _ in self.committed}
        said = iter(self.committed)
        return all(event in said for event in log if event[0] in own)

    # ---- what a user does

    def commit(self, events: Sequence[tuple[str, str]], budget: int | None = None) -> None:
        self.do(self.session.commit(events), budget)

    def allow(self) -> None:
        self.may_write = True
        self.do(self.session.resume())

    def discard(self) -> None:
        """Give up what was refused."""
        if self.session.refused is None:
            return
        before = self.session.state.pending
        self.do(self.session.discard(), discarding=True)
        self._may_be_lost(before[len(self.session.state.pending) :])

    # ---- what the network does

    def connect(self) -> None:
        """A new connection; an older one is left to itself, with what is under way on it."""
        if self.connection is not None:
            self.cut()
        self.connection = Connection(self, self.world)
        self.world.connections.append(self.connection)
        self.do(self.session.opened())

    def cut(self) -> None:
        """The client's end goes; the server may learn of it late, and still read what was sent."""
        if self.connection is not None:
            self.connection.host = self.connection = None
        self.world.forget()
        self.do(self.session.closed())

    def tick(self, now: float) -> None:
        self.do(self.session.tick(now))

    def crash(self, tables: int, keeps_all: bool) -> None:
        """The process goes, and comes again.

        Args:
            tables: how many of the last events its tables lose.
            keeps_all: what was written and not synced to disk is there all the same.
        """
        if self.connection is not None:
            self.connection.host = self.connection = None
        self.world.forget()
        if not keeps_all:
            self.loose = self.durable
        if self.named:  # a confirmation that was lost comes again
            again = Counter(map(content, self.loose.pending)) - Counter(map(content, self.pending))
            self.acknowledged -= again
        else:
            self._may_be_lost(self.pending)
        self.tables.close()
        self.tables = self._open()
        del self.applied[max(len(self.applied) - tables, 0) :]
        self.tables.apply(self.applied)
        self._begin()

    # ---- carrying out

    def do(
        self, actions: Sequence[client.Action], budget: int | None = None, *, discarding: bool = False
    ) -> None:
        """Carry out actions, or the first steps of that, and then crash."""
        steps = [step for action in actions for step in self._steps(action, discarding)]
        for step in steps[:budget]:
            step()
        if budget is not None:
            raise Crash

    def _steps(self, action: client.Action, discarding: bool) -> list[Step]:
        match action:
            case client.Send():
                return [lambda: self._send(action.text)]
            case client.Committed():
                return [lambda: self._commit(action.events)]
            case client.Changed():
                steps: list[Step] = [
                    lambda: self._write(action, discarding),
                    lambda: self._apply(action.events),
                ]
                return steps[::-1] if self.tables_first else steps
            case client.Hangup():
                return [self.cut]
            case client.OtherLog() | client.Told():
                raise AssertionError(action)
            case client.Refused():
                return [self._check_refusal]
        return []

    def _check_refusal(self) -> None:
        assert self.may_be_refused
        assert isinstance(self.session.refused, Forbidden)

    def _send(self, text: str) -> None:
        if self.connection is not None and self.connection.served:
            self.connection.up.append(text)

    def _commit(self, events: Sequence[Wire]) -> None:
        self.pending = (*self.pending, *events)
        self.committed += map(content, events)
        self.durable = self.loose = Journal(self.loose.head, (*self.loose.pending, *events))

    def _write(self, change: client.Changed, discarding: bool) -> None:
        gone, kept = self.pending[: change.confirmed], self.pending[change.confirmed :]
        assert discarding or contents(kept) == contents(change.pending)
        assert change.rebased or kept == change.pending
        self.acknowledged.update(map(content, gone))
        self.pending = change.pending
        self.backend_id = self.session.backend_id
        self.loose = Journal(change.head, change.pending)
        if discarding or (change.rebased and not self.careless):
            self.durable = self.loose

    def _apply(self, events: Sequence[Event]) -> None:
        self.backend_id = self.session.backend_id
        self.applied += events
        self.tables.apply(events)

    def _may_be_lost(self, events: Sequence[Wire]) -> None:
        self.lost.update(map(content, events))


def content(event: Wire) -> tuple[str, str]:
    """Whose an event is, and what it says."""
    return event.sessionId, bytes(event.args).decode()


def content_of(event: Event) -> tuple[str, str]:
    """The same of one in the log; the args must be spelled as these tests do."""
    read = json.loads(event.body)
    return read["sessionId"], json.dumps(read["args"])
