"""The three that are measured, behind the same few calls: this package's store, plain SQLite, and ``eventsourcing``.

Each makes a commit durable with an fsync before it returns. ``sqlite3`` is what one would write by hand: an event and
its row in one transaction, WAL, synchronous FULL, one connection that threads take turns with. ``eventsourcing`` is
used as its documentation does, an application that saves aggregates, with its cache of aggregates switched on.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.store import Draft, Receipt, Registry, Store, draft

from .texts import Message

ACTOR = "ann"
BATCH = 1_000


class System(Protocol):
    """Something that keeps messages."""

    name: str

    def open(self, folder: Path) -> None: ...
    def close(self) -> None: ...
    def begin(self, conversations: int) -> None:
        """Make conversations ``c0`` to ``c<n-1>``."""

    def commit(self, batch: Sequence[Message]) -> None:
        """Write messages, all or none; durable on return."""

    def catch_up(self) -> None:
        """Return when the tables hold everything that was committed."""

    def clients(self, each: Sequence[Sequence[Message]]) -> tuple[float, list[float]]:
        """Have as many clients as there are sequences commit at once, each its own messages one at a time.

        Returns:
            Seconds for all, and each commit's latency in seconds.
        """

    def last(self, conversation: str, count: int) -> list[Any]:
        """The last messages of a conversation, in order."""

    def frame(self) -> Any:
        """All messages as a DataFrame."""

    def rebuild(self) -> int:
        """Make the tables anew from the events; how many events there were."""


class Threads:
    """Clients that are threads, for systems whose commit blocks."""

    def clients(self, each: Sequence[Sequence[Message]]) -> tuple[float, list[float]]:
        latencies: list[list[float]] = [[] for _ in each]
        ready = threading.Barrier(len(each) + 1)

        def work(messages: Sequence[Message], mine: list[float]) -> None:
            ready.wait()
            for message in messages:
                began = time.perf_counter()
                self.commit([message])  # type: ignore[attr-defined]
                mine.append(time.perf_counter() - began)

        threads = [threading.Thread(target=work, args=pair) for pair in zip(each, latencies, strict=True)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began, [value for mine in latencies for value in mine]


class Ours:
    """This package's store."""

    name = "agentstore"

    def __init__(self, store_id: str = "bench") -> None:
        self._id = store_id

    def open(self, folder: Path) -> None:
        self.registry = Registry(folder, agent_schema)
        self.store: Store = self.registry.get(self._id, create=True)

    def close(self) -> None:
        self.registry.close()

    def begin(self, conversations: int) -> None:
        names = [f"c{n}" for n in range(conversations)]
        for first in range(0, conversations, BATCH):
            drafts = [
                self._draft("v1.ConversationCreated", {"id": name, "userId": ACTOR, "title": name})
                for name in names[first : first + BATCH]
            ]
            self.store.commit(drafts, actor=ACTOR).result()

    def commit(self, batch: Sequence[Message]) -> None:
        self.put(batch).result()

    def put(self, batch: Sequence[Message]) -> Future[Receipt]:
        drafts = [
            self._draft(
                "v1.MessageAdded",
                {
                    "id": message.id,
                    "conversationId": message.conversation,
                    "role": message.role,
                    "content": message.content,
                    "metadata": None,
                },
            )
            for message in batch
        ]
        return self.store.commit(drafts, actor=ACTOR)

    def catch_up(self) -> None:
        with self.store._use() as awake:
            awake.projector.wait_written(awake.log.head)

    def clients(self, each: Sequence[Sequence[Message]]) -> tuple[float, list[float]]:
        """One thread drives all clients, as a server's event loop does: whoever is acknowledged commits again."""
        acknowledged: queue.SimpleQueue[tuple[int, Future[Receipt], float]] = queue.SimpleQueue()
        following = [iter(messages) for messages in each]
        latencies: list[float] = []
        clock = time.perf_counter

        def send(client: int) -> bool:
            message = next(following[client], None)
            if message is None:
                return False
            began = clock()
            future = self.put([message])
            future.add_done_callback(lambda done: acknowledged.put((client, done, clock() - began)))
            return True

        start = clock()
        waiting = sum(send(client) for client in range(len(each)))
        while waiting:
            client, future, seconds = acknowledged.get()
            future.result()
            latencies.append(seconds)
            waiting -= not send(client)
        return clock() - start, latencies

    def last(self, conversation: str, count: int) -> list[Any]:
        return self.store.tail("messages", conversation, limit=count)

    def frame(self) -> Any:
        return self.store.table("messages").to_pandas()

    def rebuild(self) -> int:
        raise NotImplementedError  # the tables' file is removed while the store is closed; see ``opening``

    def _draft(self, name: str, args: dict[str, Any]) -> Draft:
        return draft(agent_schema, name, args, door="python")


class SQLite(Threads):
    """Python's ``sqlite3`` with an events table and a messages table."""

    name = "sqlite3"

    _INSERT = "insert into messages values (?, ?, ?, ?, ?, ?)"

    def open(self, folder: Path) -> None:
        self._lock = threading.Lock()
        path = folder / "bench.sqlite"
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")
        self.db.execute(
            "create table if not exists events (seq integer primary key, recorded_at integer, actor text, body text)"
        )
        self._make_tables()

    def _make_tables(self) -> None:
        self.db.execute(
            "create table if not exists messages (id text primary key, conversationId text, role text, "
            "content text, timestamp integer, seq integer)"
        )
        self.db.execute("create index if not exists by_conversation on messages (conversationId, seq)")

    def close(self) -> None:
        self.db.close()

    def begin(self, conversations: int) -> None:
        """Nothing: a conversation is what its messages name."""

    def commit(self, batch: Sequence[Message]) -> None:
        now = time.time_ns() // 1_000_000
        bodies = [json.dumps({"name": "v1.MessageAdded", "args": message._asdict()}) for message in batch]
        with self._lock:
            self.db.execute("begin immediate")
            try:
                for message, body in zip(batch, bodies, strict=True):
                    seq = self.db.execute(
                        "insert into events (recorded_at, actor, body) values (?, ?, ?)", (now, ACTOR, body)
                    ).lastrowid
                    self.db.execute(self._INSERT, (*message, now, seq))
                self.db.execute("commit")
            except BaseException:
                self.db.execute("rollback")
                raise

    def catch_up(self) -> None:
        """Nothing: rows are written with their events."""

    def last(self, conversation: str, count: int) -> list[Any]:
        rows = self.db.execute(
            "select * from messages where conversationId = ? order by seq desc limit ?", (conversation, count)
        ).fetchall()
        return rows[::-1]

    def frame(self) -> Any:
        import pandas

        return pandas.read_sql_query("select * from messages", self.db)

    def rebuild(self) -> int:
        self.db.execute("begin immediate")
        self.db.execute("drop table messages")
        self._make_tables()
        read = self.db.cursor()
        read.execute("select seq, recorded_at, body from events order by seq")
        count = 0
        while rows := read.fetchmany(10_000):
            values = []
            for seq, at, body in rows:
                args = json.loads(body)["args"]
                values.append((args["id"], args["conversation"], args["role"], args["content"], at, seq))
            self.db.executemany(self._INSERT, values)
            count += len(rows)
        self.db.execute("commit")
        return count


class EventSourcing(Threads):
    """The package ``eventsourcing`` with its SQLite recorder."""

    name = "eventsourcing"

    def open(self, folder: Path) -> None:
        from .chats import Chats

        self.app = Chats(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": str(folder / "bench.sqlite"),
                # One connection that threads take turns with, as for sqlite3 above: with more they wait for
                # SQLite's own lock, which is slower.
                "SQLITE_POOL_SIZE": "1",
                "SQLITE_MAX_OVERFLOW": "0",
                "SQLITE_POOL_TIMEOUT": "600",
                "SQLITE_LOCK_TIMEOUT": "600",
                "AGGREGATE_CACHE_MAXSIZE": "20000",
                "AGGREGATE_CACHE_FASTFORWARD": "n",
                "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
            }
        )
        recorder: Any = self.app.recorder
        with recorder.datastore.get_connection(commit=True) as connection:
            cursor = connection.cursor()
            cursor.execute("pragma synchronous = full")

    def close(self) -> None:
        self.app.close()

    def begin(self, conversations: int) -> None:
        for first in range(0, conversations, BATCH):
            self.app.begin([self._key(f"c{n}") for n in range(first, min(first + BATCH, conversations))])

    def commit(self, batch: Sequence[Message]) -> None:
        self.app.say([(self._key(message.conversation), message) for message in batch])

    def catch_up(self) -> None:
        """Nothing: there are no tables."""

    def last(self, conversation: str, count: int) -> list[Any]:
        found = list(self.app.events.get(self._key(conversation), desc=True, limit=count))
        return found[::-1]

    def frame(self) -> Any:
        import pandas

        rows = []
        start: int | None = 1
        while start:
            notifications = self.app.recorder.select_notifications(start=start, limit=10_000)
            for notification in notifications:
                event: Any = self.app.mapper.to_domain_event(notification)
                if hasattr(event, "content"):
                    rows.append(
                        (event.message_id, event.originator_id, event.role, event.content, event.timestamp)
                    )
            start = notifications[-1].id + 1 if notifications else None
        return pandas.DataFrame(rows, columns=["id", "conversationId", "role", "content", "timestamp"])

    def rebuild(self) -> int:
        raise NotImplementedError

    @staticmethod
    def _key(conversation: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, conversation)


def all_systems() -> list[System]:
    return [Ours(), SQLite(), EventSourcing()]
