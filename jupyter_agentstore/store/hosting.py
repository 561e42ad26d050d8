"""Serving the stores of this process to the user's other processes.

What belongs here: one connection's calls, carried out on stores as any other user's of theirs, and the news that they
asked for. Sockets and who may connect are the business of ``peers``.

Nothing here waits in the loop: commits and pushes go to a store one after the other in the order they came, all else
runs side by side, and what takes long has threads of its own. News that the other side does not take is put together,
so that a process that sleeps costs its host little.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from ..core.errors import StoreClosed
from ..state.query import Limits
from .attendance import Attendance
from .backing import Doubtful
from .commits import Receipt
from .frames import (
    CALL,
    DONE,
    FAILED,
    GONE,
    NEWS,
    PART,
    BadFrame,
    Frames,
    frame,
    pack,
    pack_error,
    pack_events,
    pack_receipt,
    table_parts,
    unpack,
    unpack_batch,
    unpack_drafts,
    unpack_params,
)
from .guest import plain_snapshot

if TYPE_CHECKING:
    from .store import Store

_THREADS = 8
_LONG_THREADS = 4
_MOST_CALLS = 1_000  # of one connection at once; no more are read meanwhile
_STUCK = 30.0  # seconds in which somebody who waits for an answer must take some of it
_LONG = frozenset({"query", "table", "snapshot", "reset", "delete"})
_AT_ONCE = frozenset({"listen", "ignore", "leave", "tell", "ping"})
"""Calls that wait for nothing and must not overtake each other."""

_log = logging.getLogger(__name__)


class Served(Protocol):
    """What a registry offers to other processes."""

    def mine(self, store_id: str) -> Store | None:
        """A store that this process has, open or asleep."""

    def manage(self, name: str, store_id: str, args: Sequence[Any]) -> Any:
        """``about``, ``reset`` or ``delete``."""


class Hosting:
    """All connections of other processes to one registry.

    Args:
        served: the registry.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.calls = ThreadPoolExecutor(_THREADS, "agentstore-host")
        self.long = ThreadPoolExecutor(_LONG_THREADS, "agentstore-host-long")

    def serve(self, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
        """For a connection that has just come about."""
        return Visitor(self, loop)

    def close(self) -> None:
        """Take no more work."""
        for pool in (self.calls, self.long):
            pool.shutdown(wait=False, cancel_futures=True)


class Visitor(asyncio.Protocol):
    """One connection of another process."""

    def __init__(self, hosting: Hosting, loop: asyncio.AbstractEventLoop) -> None:
        self._hosting = hosting
        self._loop = loop
        self._frames = Frames()
        self._guard = threading.Lock()
        self._writes: dict[str, deque[tuple[int, str, Sequence[Any]]]] = {}
        self._attended: dict[int, Attendance | None] = {}  # None: not yet
        self._running = 0
        self._room = threading.Event()
        self._room.set()
        self.closed = False
        self._transport: asyncio.Transport | None = None

    # ---- the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(4 << 20)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._room.set()
        for each in list(self._attended.values()):
            if each is not None:
                each.end()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()
        for each in list(self._attended.values()):
            if each is not None:
                each.send()

    @property
    def full(self) -> bool:
        """Whether the other side does not take what was written to it."""
        return not self._room.is_set()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, body in self._frames.feed(data):
                if kind != CALL:
                    raise BadFrame
                store_id, name, args = unpack(body)
                self._take(number, store_id, name, args)
        except Exception:  # whatever it is, it is not one of us
            _log.warning("Another process does not speak this version's protocol.", exc_info=True)
            self._abort()

    def _abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _take(self, number: int, store_id: str, name: str, args: Sequence[Any]) -> None:
        self._running += 1
        if self._running >= _MOST_CALLS and self._transport is not None:
            self._transport.pause_reading()
        pool = self._hosting.long if name in _LONG else self._hosting.calls
        try:
            if name in ("commit", "push"):
                with self._guard:
                    queue = self._writes.get(store_id)
                    if queue is not None:
                        queue.append((number, name, args))
                        return
                    self._writes[store_id] = deque([(number, name, args)])
                pool.submit(self._write_in_order, store_id)
            elif name in _AT_ONCE:
                self._answer(number, store_id, name, args)
            else:
                if name == "enter":
                    self._attended[number] = None
                pool.submit(self._answer, number, store_id, name, args)
        except RuntimeError:  # we are closing
            self._send(GONE, number, b"")

    def _done(self) -> None:
        self._running -= 1
        if self._running == _MOST_CALLS - 1 and self._transport is not None:
            self._transport.resume_reading()

    # ---- in threads

    def _write_in_order(self, store_id: str) -> None:
        """Hand what is to be written to the store, one after the other; nothing waits for the disk here."""
        queue = self._writes[store_id]
        while True:
            number, name, args = queue[0]
            try:
                self._write(number, store_id, name, args)
            except Exception as error:
                self._refuse(number, error)
            with self._guard:
                queue.popleft()
                if not queue:
                    del self._writes[store_id]
                    return

    def _write(self, number: int, store_id: str, name: str, args: Sequence[Any]) -> None:
        store = self._find(store_id)
        what, actor, id = args
        future: Future[Any]
        if name == "commit":
            future = store.commit(unpack_drafts(what), actor=actor, commit_id=id)
        else:
            future = store.push(unpack_batch(what), actor=actor, backend_id=id)

        def written(done: Future[Any]) -> None:
            error = done.exception()
            if error is not None:
                self._refuse(number, error)
            else:
                said = done.result()
                self._reply(number, store, pack_receipt(said) if isinstance(said, Receipt) else said)

        future.add_done_callback(written)

    def _answer(self, number: int, store_id: str, name: str, args: Sequence[Any]) -> None:
        try:
            if name in ("about", "reset", "delete"):
                self._reply(number, None, self._hosting.served.manage(name, store_id, args))
            elif name == "enter":
                store = self._find(store_id)
                store.wake()
                attendance = Attendance(self, number, store)
                attendance.begin()
                with self._guard:
                    wanted = number in self._attended
                    if wanted:
                        self._attended[number] = attendance
                if not wanted:  # who asked has given up
                    attendance.end()
                about = {"schema": store.schema.hash, "backendId": store.backend_id, "head": store.head}
                self._reply(number, store, about)
            elif name == "ping":
                self._reply(number, None, None)
            elif name in ("listen", "ignore", "leave"):
                self._reply(number, *self._attend(name, *args))
            else:
                store = self._find(store_id)
                self._reply(number, store, *_CALLS[name](store, *args))
        except BaseException as error:
            self._refuse(number, error)

    def _attend(self, name: str, number: int, rows: bool = False) -> tuple[Store | None, Any]:
        """Begin or end the news of a store."""
        if name == "leave":
            with self._guard:
                attendance = self._attended.pop(number, None)
            if attendance is not None:
                attendance.end()
            return None, None
        attendance = self._attended[number]
        if attendance is None:
            raise StoreClosed("The store is not open here.")
        if name == "ignore":
            attendance.ignore()
            return None, None
        attendance.listen(rows=rows)
        return attendance.store, dict(attendance.store.agent)

    def _find(self, store_id: str) -> Store:
        store = self._hosting.served.mine(store_id)
        if store is None:
            raise StoreClosed("The store is not open here.")
        return store

    def _reply(self, number: int, store: Store | None, said: Any, parts: Iterable[Any] = ()) -> None:
        for part in parts:
            if not self._room.wait(_STUCK):
                self.run(self._abort)  # it asks again when it goes on
            if self.closed:
                return
            self._send(PART, number, part)
        self._send(DONE, number, pack((store.head if store is not None else None, said)))

    def _refuse(self, number: int, error: BaseException) -> None:
        if isinstance(error, StoreClosed) and not isinstance(error, Doubtful):  # who asks may find another
            self._send(GONE, number, b"")
            return
        body = pack_error(error)
        if body.startswith(b"\x93\xa5other"):
            _log.error("A call of another process failed.", exc_info=error)
        self._send(FAILED, number, body)

    def _send(self, kind: int, number: int, body: bytes | memoryview) -> None:
        data = frame(kind, number, body)

        def write() -> None:
            if kind not in (PART, NEWS):
                self._done()
            if self._transport is not None and not self.closed:
                self._transport.write(data)

        self.run(write)

    def send_news(self, number: int, what: str, said: Any) -> None:
        """Send news, on the loop."""
        if self._transport is not None and not self.closed:
            self._transport.write(frame(NEWS, number, pack((what, said))))

    def run(self, function: Callable[[], None]) -> None:
        """Run something on the loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # it is closed
            self.closed = True


# ---- calls: what is answered, and perhaps parts that go before


def _head(store: Store) -> tuple[Any, ...]:
    store.wake()
    return (None,)


def _query(store: Store, sql: str, params: Any, limits: Sequence[Any], at_least: int | None) -> Any:
    answer = store.query(sql, unpack_params(params), Limits(*limits), at_least=at_least)
    return (answer.seq, answer.stale), table_parts(answer.table)


def _set_agent(store: Store, thinking: bool, task: str | None) -> tuple[Any, ...]:
    store.set_agent(isThinking=thinking, currentTask=task)
    return (None,)


def _tell(store: Store, message: bytes) -> tuple[Any, ...]:
    store.tell(message)
    return (None,)


_CALLS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "head": _head,
    "read": lambda store, *args: (pack_events(store.read(*args)),),
    "row": lambda store, table, key: (store.row(table, key),),
    "tail": lambda store, table, group, after, limit: (store.tail(table, group, after=after, limit=limit),),
    "rows": lambda store, table, where, order, limit: (store.rows(table, where, order=order, limit=limit),),
    "count": lambda store, table: (store.count(table),),
    "query": _query,
    "table": lambda store, name: (None, table_parts(store.table(name))),
    "status": lambda store: (store.status(),),
    "snapshot": lambda store: (plain_snapshot(store.snapshot()),),
    "set_agent": _set_agent,
    "tell": _tell,
}
