"""All stores of a server or a process: found by id, opened on demand, put to sleep, closed together.

What belongs here: which stores there are and who has them open. What a store does is in ``store``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.agent_schema import agent_schema
from ..core.errors import InvalidRequest, NotFound, StoreClosed
from ..core.limits import store_id as check_id
from ..core.schema import Schema
from ..duck import Instance
from ..eventlog.lock import unclean
from .awake import Place
from .life import Abandoned
from .store import Deleted, Store

if TYPE_CHECKING:
    from ..eventlog.backup import Report
    from ..eventlog.contract import Progress
    from .care import About
    from .hosting import Hosting
    from .peers import Peers

_CHECKPOINT = (
    "64MB"  # of tables' WAL; by default 16 MB, which makes a rebuild spend more on it than on writing
)
_LOG_FILE = "eventlog.duckdb"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Registry:
    """Stores in a folder, one subfolder each.

    A store that another process of the same user has open is used there; see ``life``.

    Args:
        folder: where they are; None keeps them in memory for as long as the registry is open.
        schema: what their events mean.
        owner: what their lock files say of this process beside its number and host, such as ``url``.
        idle_seconds: how long a store stays awake without use.
        query_memory: what all queries together may take, as DuckDB says it.
        threads: worker threads for queries.
        share: let other processes of the user use the stores that this one has.
    """

    def __init__(
        self,
        folder: Path | None,
        schema: Schema = agent_schema,
        *,
        owner: Mapping[str, Any] | None = None,
        idle_seconds: float = 300.0,
        query_memory: str = "2GB",
        threads: int = 2,
        share: bool = True,
    ) -> None:
        self.folder = folder
        self.schema = schema
        self._owner = dict(owner or {})
        self._idle_seconds = idle_seconds
        self._query_memory = query_memory
        self._threads = threads
        self._share = share
        self._guard = threading.Lock()
        self._place: Place | None = None
        self._peers: Peers | None = None
        self._hosting: Hosting | None = None
        self._stores: dict[str, Store] = {}
        self._listeners: list[Callable[[Store], None]] = []
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None

    def get(self, store_id: str, *, create: bool) -> Store:
        """The store with an id, awake.

        Args:
            store_id: 1 to 128 letters, digits, ``-``, ``_``, ``.``; case does not matter.
            create: make it if it is not there.

        Raises:
            InvalidStoreId: the id breaks the rule.
            NotFound: it is not there, and ``create`` is false.
            StoreLocked: another process has it that cannot be asked: another user's, or one with another schema.
            DamagedLog, ForeignFile: its log cannot be read.
            OSError: its files cannot be made.
            StoreClosed: the registry was closed.
        """
        while True:
            store = self._known(store_id, create=create)
            try:
                store.wake()
            except Abandoned:  # by somebody who could not open it
                continue
            except Deleted:
                self._forget(store, ended=True)
                if not create:
                    raise NotFound(f"There is no store {store_id!r}.") from None
                continue
            except BaseException:
                self._forget(store)
                raise
            return store

    def _known(self, store_id: str, *, create: bool) -> Store:
        """The store with an id, awake or not."""
        check_id(store_id)
        with self._guard:
            if self._closed.is_set():
                raise StoreClosed("The stores are closed.")
            known = store_id.casefold()
            store = self._stores.get(known)
            if store is None:
                spelled = self._spelling(store_id)
                if spelled is None and not create:
                    raise NotFound(f"There is no store {store_id!r}.")
                store = Store(self._open_place(), spelled or store_id, self.schema, self._woken)
                self._stores[known] = store
            if self._sweeper is None and self.folder is not None:
                self._sweeper = threading.Thread(target=self._sweep, name="agentstore-sweeper", daemon=True)
                self._sweeper.start()
            return store

    def ids(self) -> list[str]:
        """The ids of all stores that are there, sorted."""
        with self._guard:
            found = {store.id for store in self._stores.values() if store.backend_id and not store.ended}
        return sorted(found | set(self._on_disk()), key=str.casefold)

    def on_wake(self, listener: Callable[[Store], None]) -> None:
        """Call the listener with each store when its files are opened in this process, in whichever thread does so.

        Stores that are open already are told of at once.
        """
        with self._guard:
            self._listeners.append(listener)
            awake = [store for store in self._stores.values() if store.own]
        for store in awake:
            _tell(listener, store)

    def unfinished(self) -> list[str]:
        """Stores that were not closed cleanly, or with replies owed: a server wakes them when it starts."""
        if self.folder is None:
            return []
        return [name for name in self._on_disk() if unclean(self.folder / name)]

    # ---- looking after stores

    def about(self, store_id: str) -> About:
        """What there is to know of a store without reading its events, wherever it is open.

        Raises:
            NotFound: there is no such store.
            StoreLocked: a process has it that cannot be asked.
            ForeignFile, DamagedLog: its log cannot be opened.
        """
        from .care import about

        store, folder = self._cared_for(store_id)
        return about(store, folder, self._open_peers())

    def verify(self, store_id: str, progress: Progress | None = None) -> Report:
        """Read a store's whole log and check it, wherever it is open. Raises as :meth:`about`."""
        from .care import verify

        store, folder = self._cared_for(store_id)
        return verify(store.id, folder, self._open_peers(), progress)

    def backup(
        self, store_id: str, to: Path, progress: Progress | None = None, *, force: bool = False
    ) -> Report:
        """Write a store's events to a backup, wherever it is open.

        Raises as :func:`~jupyter_agentstore.eventlog.backup.backup`.
        """
        from .care import copy

        store, folder = self._cared_for(store_id)
        return copy(store.id, folder, self._open_peers(), to, progress, force=force)

    def reset(self, store_id: str, *, purge: bool = False) -> tuple[str, str | None]:
        """Give a store an empty log with a new ``backendId``, wherever it is open.

        Args:
            store_id: which one.
            purge: do not keep the old log beside the new one.

        Returns:
            The new ``backendId``, and the path of the old log.

        Raises:
            NotFound: there is no such store.
            StoreLocked: a process has it that cannot be asked.
            OSError: the log cannot be written.
        """
        from .care import reset

        return self._care(
            store_id, lambda store, folder: reset(store, folder, self._open_peers(), purge=purge)
        )

    def delete(self, store_id: str) -> None:
        """Remove a store with everything in it, wherever it is open. Raises as :meth:`reset`."""
        from .care import delete

        self._care(store_id, lambda store, folder: delete(store, folder, self._open_peers()))

    def _care(self, store_id: str, work: Callable[[Store, Path], _T]) -> _T:
        while True:
            store, folder = self._cared_for(store_id)
            try:
                return work(store, folder)
            except Abandoned:  # by somebody who could not open it
                continue
            finally:
                self._forget(store, ended=not folder.exists())

    def _cared_for(self, store_id: str) -> tuple[Store, Path]:
        if self.folder is None:
            raise InvalidRequest("Stores in memory need no care.")
        store = self._known(store_id, create=False)
        return store, self.folder / store.id

    # ---- for other processes

    def mine(self, store_id: str) -> Store | None:
        """A store that this process has, open or asleep."""
        store = self._stores.get(store_id.casefold())
        return store if store is not None and store.mine else None

    def manage(self, name: str, store_id: str, args: Sequence[Any]) -> Any:
        """``about``, ``reset`` or ``delete``, asked for by another process."""
        store = self.mine(store_id)
        if store is None:
            raise StoreClosed(f"The store {store_id!r} is not open here.")
        if name == "reset":
            return self.reset(store_id, purge=bool(args[0]))
        if name == "delete":
            return self.delete(store_id)
        return store.backend_id, store.head, True

    # ---- the end

    def sleep(self, idle_seconds: float = 0.0) -> int:
        """Put to sleep every store that nobody has used for a while; how many are asleep now."""
        with self._guard:
            stores = list(self._stores.values())
        asleep = 0
        for store in stores:
            try:
                asleep += store.sleep(idle_seconds)
            except Exception:
                _log.exception("The store %r could not be put to sleep.", store.id)
        return asleep

    def close(self) -> None:
        """Close every store; what was acknowledged is on disk. A second call does nothing."""
        with self._guard:
            if self._closed.is_set():
                return
            self._closed.set()
            stores, self._stores = list(self._stores.values()), {}
            place, self._place = self._place, None
        if self._sweeper is not None and self._sweeper is not threading.current_thread():
            self._sweeper.join()
        for store in stores:
            try:
                store.close()
            except Exception:
                _log.exception("The store %r was not closed cleanly.", store.id)
        if self._hosting is not None:
            self._hosting.close()
        if self._peers is not None:
            self._peers.close()
        if place is not None:
            place.states.close()
            place.logs.close()

    def _open_place(self) -> Place:
        """The DuckDB instances, made when the first store is opened: loading DuckDB takes a moment."""
        if self._place is None:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # what is in it is its owner's
            logs = Instance(self.folder, threads=self._threads)
            states = Instance(
                self.folder,
                threads=self._threads,
                memory_limit=self._query_memory,
                locked=True,
                settings={"checkpoint_threshold": _CHECKPOINT},
            )
            peers = self._open_peers() if self.folder is not None else None
            self._place = Place(self.folder, logs, states, self._said, peers)
        return self._place

    def _open_peers(self) -> Peers:
        from .hosting import Hosting
        from .peers import Peers

        if self._peers is None:
            self._hosting = Hosting(self)
            self._peers = Peers(self._hosting.serve)
        return self._peers

    def _said(self) -> Mapping[str, object]:
        """What lock files say of this process, once it has one."""
        address = self._peers.address() if self._share and self._peers is not None else None
        return {**self._owner, "socket": str(address)} if address else self._owner

    def _on_disk(self) -> list[str]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{_LOG_FILE}"))

    def _spelling(self, store_id: str) -> str | None:
        """A store's id as it was first spelled, or None if there is none."""
        if self.folder is None:
            return None
        if (self.folder / store_id / _LOG_FILE).exists():
            return store_id
        wanted = store_id.casefold()
        return next((name for name in self._on_disk() if name.casefold() == wanted), None)

    def _forget(self, store: Store, *, ended: bool = False) -> None:
        """Drop a store that could not be opened, or is no more, so that it is looked for anew.

        Somebody else may be opening it at this moment: then it stays.
        """
        known = store.id.casefold()
        with self._guard:
            if self._stores.get(known) is store and (ended or (not store.backend_id and store.abandon())):
                del self._stores[known]

    def _woken(self, store: Store) -> None:
        for listener in self._listeners:
            _tell(listener, store)

    def _sweep(self) -> None:
        pause = min(max(self._idle_seconds / 4, 0.05), 30.0)
        while not self._closed.wait(pause):
            self.sleep(self._idle_seconds)


def _tell(listener: Callable[[Store], None], store: Store) -> None:
    try:
        listener(store)
    except Exception:
        _log.exception("A listener failed for the store %r.", store.id)
