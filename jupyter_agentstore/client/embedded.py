"""A store in this very process: the log, the tables and the agent, without any server.

What belongs here: opening a folder's registry and agent once for this process, and the ``Link`` to one of its stores.
Several stores of a folder share a ``Home``; it is closed when the last of them is, at the latest when Python exits.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - it registers its own end, before which ours must come
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.agent_schema import agent_schema
from ..core.errors import NotFound, StoreClosed, StoreLocked, Unreachable
from ..core.limits import store_id as checked
from ..core.rows import jsonable
from .discovery import user_name
from .link import Listener, Params, Receipt, Result, RowListener, State
from .sync import Standing, Sync
from .values import drafts_of

if TYPE_CHECKING:
    import pyarrow

    from ..store import Registry, Store

TIMEOUT = 60.0
"""Seconds that a commit may take before something is wrong with the disk."""

_homes: dict[Path, Home] = {}
_guard = threading.RLock()


class Home:
    """The registry of one folder, and the agent that serves its stores on a loop in a thread."""

    def __init__(self, folder: Path) -> None:
        from ..agent import Runtime, Simulated
        from ..store import Registry

        self.folder = folder
        self.users = 0
        self.pid = os.getpid()
        self.registry: Registry = Registry(
            folder, agent_schema, owner={"pid": self.pid, "host": socket.gethostname()}
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentstore-agent", daemon=True)
        self._thread.start()
        self.runtime = Runtime(self.registry, Simulated(), wake=False)
        asyncio.run_coroutine_threadsafe(self.runtime.start(), self._loop).result(TIMEOUT)

    def close(self) -> None:
        """Stop the agent, close every store and let go of the folder."""
        if self.pid != os.getpid():  # a forked child has neither the threads nor the right to the files
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self.runtime.stop(), self._loop).result(10)
        self.registry.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


def enter(folder: Path) -> Home:
    """This process's home of a folder, opened if need be; each call needs its :func:`leave`."""
    folder = folder.expanduser().resolve()
    with _guard:
        home = _homes.get(folder)
        if home is None or home.pid != os.getpid():
            home = _homes[folder] = Home(folder)
        home.users += 1
        return home


def leave(home: Home) -> None:
    """One user less; the last one closes the home."""
    with _guard:
        home.users -= 1
        if home.users == 0 and _homes.get(home.folder) is home:
            del _homes[home.folder]
            home.close()


def _close_all() -> None:
    with _guard:
        for home in list(_homes.values()):
            _homes.pop(home.folder, None)
            home.close()


# Thread pools refuse work before atexit's functions are called; those of threading come earlier, the last one first.
getattr(threading, "_register_atexit", atexit.register)(_close_all)


class EmbeddedLink:
    """A :class:`~jupyter_agentstore.client.link.Link` to a store in this process, or in another one of the user's.

    Args:
        store_id: which store; it is made if it is not there.
        folder: the folder of all stores.

    Raises:
        StoreLocked: another process has the store that cannot be asked: another user's, or one with another schema.
    """

    def __init__(self, store_id: str, folder: Path) -> None:
        self.user = user_name()
        self._home = enter(folder)
        self.sync = Sync(self)
        self._listeners: dict[Listener, Callable[[], None]] = {}
        self._closed = False
        try:
            self._store: Store = self._home.registry.get(checked(store_id), create=True)
        except StoreLocked as error:
            leave(self._home)
            raise StoreLocked(_held(store_id, self._home.folder, error.owner), error.owner) from None
        except BaseException:
            leave(self._home)
            raise
        self.store_id = self._store.id

    @property
    def where(self) -> str:
        return str(self._home.folder)

    @property
    def state(self) -> State:
        return "closed" if self._closed else "embedded"

    def _open(self) -> Store:
        if self._closed:
            raise StoreClosed(f"The store {self.store_id!r} is closed; connect anew.")
        return self._store

    def commit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        commit_id: str,
        *,
        patience: float | None = None,
    ) -> Receipt:

        store = self._open()
        drafts = drafts_of(store.schema, events, commit_id)
        patience = TIMEOUT if patience is None else patience
        try:
            done = store.commit(drafts, actor=self.user, commit_id=commit_id).result(patience)
        except TimeoutError:
            raise Unreachable(
                f"The disk did not take the events within {patience:g} s; it may yet, so look before you repeat it."
            ) from None
        return Receipt(done.seqs, done.head, done.repeated)

    def load(self, events: Sequence[tuple[str, Mapping[str, Any]]], commit_id: str) -> Receipt:
        return self.commit(events, commit_id)

    def flush(self, timeout: float) -> None:
        """Nothing waits: every commit was durable on return."""

    def query(self, sql: str, params: Params = None) -> Result:
        from ..state.query import Limits

        limits = Limits(seconds=600.0, rows=50_000_000, bytes=8_000_000_000)
        answer = self._open().query(sql, params, limits)
        return Result(answer.table, answer.stale)

    def table(self, name: str) -> pyarrow.Table:
        return self._open().table(name)

    def messages(
        self, conversation: str, *, after: int | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        store = self._open()
        kind = store.schema.tables["messages"]
        return [jsonable(kind, row) for row in store.tail("messages", conversation, after=after, limit=limit)]

    def row(self, table: str, key: str) -> dict[str, Any] | None:
        store = self._open()
        if table not in store.schema.tables:
            raise NotFound(f"There is no table {table!r}.")
        row = store.row(table, key)
        return None if row is None else jsonable(store.schema.tables[table], row)

    def status(self) -> dict[str, Any]:
        return dict(self._open().status())

    def listen(self, listener: Listener) -> Callable[[], None]:
        store = self._open()
        ends = (store.on_events(listener), store.on_replaced(lambda _: listener(())))

        def unlisten() -> None:
            for end in ends:
                end()

        self._listeners[listener] = unlisten

        def end() -> None:
            self._listeners.pop(listener, None)
            unlisten()

        return end

    def watch(self, listener: RowListener) -> Callable[[], None]:
        return self._open().on_rows(listener)

    def tables_of(self, sql: str) -> frozenset[str] | None:
        return None

    def announce(self, state: Mapping[str, Any] | None) -> None:
        """Nobody else is there to hear it."""

    def present(self) -> list[dict[str, Any]]:
        return []

    # what a user can do about the standing

    def standing(self) -> Standing:
        return Standing("closed") if self._closed else Standing("local", head=self._store.head)

    def retry(self) -> None:
        """Nothing fails that could be tried again."""

    def discard(self) -> int:
        return 0

    def pause(self) -> None:
        """There is no connection to pause."""

    def resume(self) -> None:
        """There is no connection to resume."""

    def close(self) -> None:
        with _guard:
            if self._closed:
                return
            self._closed = True
            listeners = list(self._listeners.items())
            for _, unlisten in listeners:
                unlisten()
            leave(self._home)
        for listener, _ in listeners:
            listener(())


def _held(store_id: str, folder: Path, owner: Mapping[str, object]) -> str:
    """A sentence about who has a store."""
    host, here = owner.get("host"), socket.gethostname()
    pid = owner.get("pid")
    who = f"process {pid}" if pid else "another process"
    who += f" on {host}" if host and host != here else ""
    url = owner.get("url")
    way = (
        f"the Jupyter server at {url}: connect to it with connect({store_id!r}, url={url!r})"
        if url
        else "close it there, or use another folder"
    )
    return f"The store {store_id!r} in {folder} is open in {who}; {way}."
