"""All stores of a server or a process: found by id, opened on demand, put to sleep, closed together.

What belongs here: which stores there are and who has them open. What a store does is in ``store``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.agent_schema import agent_schema
from ..core.errors import NotFound, StoreClosed
from ..core.limits import store_id as check_id
from ..core.schema import Schema
from ..duck import Instance
from ..eventlog.lock import unclean
from .awake import Place
from .store import Store

_CHECKPOINT = (
    "64MB"  # of tables' WAL; by default 16 MB, which makes a rebuild spend more on it than on writing
)
_LOG_FILE = "eventlog.duckdb"
_log = logging.getLogger(__name__)


class Registry:
    """Stores in a folder, one subfolder each.

    Args:
        folder: where they are; None keeps them in memory for as long as the registry is open.
        schema: what their events mean.
        owner: what their lock files say of this process beside its number and host, such as ``url``.
        idle_seconds: how long a store stays awake without use.
        query_memory: what all queries together may take, as DuckDB says it.
        threads: worker threads for queries.
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
    ) -> None:
        self.folder = folder
        self.schema = schema
        self._owner = dict(owner or {})
        self._idle_seconds = idle_seconds
        self._query_memory = query_memory
        self._threads = threads
        self._guard = threading.Lock()
        self._place: Place | None = None
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
            StoreLocked: another process has it.
            DamagedLog, ForeignFile: its log cannot be read.
            OSError: its files cannot be made.
            StoreClosed: the registry was closed.
        """
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
        try:
            store.wake()
        except BaseException:
            self._forget(known, store)
            raise
        return store

    def ids(self) -> list[str]:
        """The ids of all stores that are there, sorted."""
        with self._guard:
            found = {store.id for store in self._stores.values() if store.backend_id}
        return sorted(found | set(self._on_disk()), key=str.casefold)

    def on_wake(self, listener: Callable[[Store], None]) -> None:
        """Call the listener with each store when it is opened or woken, in whichever thread does so.

        Stores that are awake already are told of at once.
        """
        with self._guard:
            self._listeners.append(listener)
            awake = [store for store in self._stores.values() if not store.asleep]
        for store in awake:
            _tell(listener, store)

    def unfinished(self) -> list[str]:
        """Stores that were not closed cleanly, or with replies owed: a server wakes them when it starts."""
        if self.folder is None:
            return []
        return [name for name in self._on_disk() if unclean(self.folder / name)]

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
            self._place = Place(self.folder, logs, states, self._owner)
        return self._place

    def _on_disk(self) -> list[str]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(path.parent.name for path in self.folder.glob(f"*/{_LOG_FILE}"))

    def _spelling(self, store_id: str) -> str | None:
        """A store's id as it was first spelled, or None if there is none."""
        if self.folder is None:
            return None
        if (self.folder / store_id / _LOG_FILE).exists():
            return store_id
        wanted = store_id.casefold()
        return next((name for name in self._on_disk() if name.casefold() == wanted), None)

    def _forget(self, known: str, store: Store) -> None:
        """Drop a store that could not be opened, so that it is looked for anew."""
        with self._guard:
            if not store.backend_id and self._stores.get(known) is store:
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
