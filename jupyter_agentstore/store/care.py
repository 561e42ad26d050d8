"""Looking after a store, open or not, here or elsewhere: what it holds, checking it, emptying it, removing it.

What belongs here: finding who has the store, so that it is done there, under the eyes of those who use it. What is
done to files is the business of ``eventlog.backup``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from ..core.errors import DamagedLog, StoreLocked, Unreachable
from ..core.events import Event
from ..eventlog import backup
from ..eventlog.check import verify_pages
from ..eventlog.contract import PAGE_BYTES, Progress
from ..eventlog.file import FILE
from ..eventlog.lock import owner_of
from .backing import Lost
from .frames import unpack_events
from .peers import Peers, socket_of

if TYPE_CHECKING:
    from ..eventlog import EventLog
    from .link import Link
    from .store import Store

_T = TypeVar("_T")

_PATIENCE = 10.0
_SECONDS = 60.0
_PAUSE = 0.03


class About(msgspec.Struct, frozen=True):
    """What there is to know of a store without reading its events.

    Attributes:
        backend_id: of its log.
        events: how many there are.
        size: of all its files, in bytes.
        owner: what the lock file says of the process that has it, ``pid``, ``host``, ``url``; empty if nobody has.
    """

    backend_id: str
    events: int
    size: int
    owner: dict[str, Any]


def about(store: Store, folder: Path, peers: Peers) -> About:
    """Find out about a store.

    Raises:
        NotFound, ForeignFile, DamagedLog: its log cannot be opened.
        StoreLocked: a process has it that cannot be asked.
    """
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())

    def here() -> tuple[str, int, bool]:
        if store.mine and store.backend_id:
            return store.backend_id, store.head, True
        report = backup.count(folder)
        return report.backend_id, report.count, False

    backend_id, events, held = _wherever(peers, here, lambda link: _said(link, store.id, "about"))
    return About(backend_id, events, size, owner_of(folder) if held else {})


def reset(store: Store, folder: Path, peers: Peers, *, purge: bool) -> tuple[str, str | None]:
    """Give a store an empty log with a new ``backendId``, wherever it is open.

    Args:
        store: which one.
        folder: its own.
        peers: who may have it.
        purge: do not keep the old log.

    Returns:
        The new ``backendId``, and the path of the old log.

    Raises:
        NotFound: there is no such store.
        StoreLocked: a process has it that cannot be asked.
        OSError: the log cannot be written.
    """

    def work(folder: Path) -> tuple[str, str | None]:
        for path in folder.glob("snapshot.*"):
            path.unlink(missing_ok=True)
        report = backup.renew(folder, keep=not purge)
        return report.backend_id, str(report.kept) if report.kept else None

    backend_id, kept = _wherever(
        peers, lambda: store.renew(work), lambda link: _said(link, store.id, "reset", purge)
    )
    return backend_id, kept


def delete(store: Store, folder: Path, peers: Peers) -> None:
    """Remove a store with everything in it, wherever it is open. Raises as :func:`reset`."""
    _wherever(
        peers,
        lambda: store.renew(backup.remove, ends=True),
        lambda link: _said(link, store.id, "delete"),
    )


def verify(store_id: str, folder: Path, peers: Peers, progress: Progress | None) -> backup.Report:
    """Read a store's whole log and check it; of one that is open, up to the head at the start.

    Raises as :func:`~jupyter_agentstore.eventlog.backup.verify`.
    """

    def there(link: Link) -> backup.Report:
        log = FarLog(link, store_id)
        faults: tuple[str, ...] = ()
        try:
            verify_pages(log.scan(), log.head, progress)
        except DamagedLog as error:
            faults = (error.message,)
        path = folder / FILE
        return backup.Report(path, log.backend_id, log.head, log.head, log.last_recorded_at, faults)

    return _wherever(peers, lambda: backup.verify(folder, progress), there)


def copy(
    store_id: str, folder: Path, peers: Peers, to: Path, progress: Progress | None, *, force: bool
) -> backup.Report:
    """Write a store's events to a backup, wherever it is open.

    Raises as :func:`~jupyter_agentstore.eventlog.backup.backup`.
    """

    def write(source: Path | FarLog) -> backup.Report:
        return backup.backup(cast("EventLog | Path", source), to, progress, force=force)

    return _wherever(peers, lambda: write(folder), lambda link: write(FarLog(link, store_id)))


class FarLog:
    """The log of a store that another process has, up to its head at the start, as those who read logs need it.

    Any call may raise :class:`Lost`.
    """

    def __init__(self, link: Link, store_id: str) -> None:
        self._link = link
        self._id = store_id
        self.backend_id, self.head, _ = _said(link, store_id, "about")
        self.last_recorded_at = 0

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        """As :meth:`EventLog.read`."""
        return unpack_events(_said(self._link, self._id, "read", after, limit, max_bytes))

    def scan(self, after: int = 0, size: int = 10_000, *, end: int | None = None) -> Iterator[list[Event]]:
        """As :meth:`EventLog.scan`."""
        end = self.head if end is None else end
        while after < end:
            page = self.read(after, min(size, end - after), PAGE_BYTES)
            if not page:
                raise Lost  # the log is another one by now
            after, self.last_recorded_at = page[-1].seq, page[-1].recorded_at
            yield page


def _wherever(peers: Peers, here: Callable[[], _T], there: Callable[[Link], _T]) -> _T:
    """Do something with a store's files, or by way of the process that has them."""
    began = time.monotonic()
    while True:
        try:
            return here()
        except StoreLocked as error:
            locked = error
        link = _holder(peers, locked, began)
        if link is None:
            continue
        try:
            return there(link)
        except Lost:
            time.sleep(_PAUSE)
        finally:
            peers.leave(link)


def _holder(peers: Peers, locked: StoreLocked, began: float) -> Link | None:
    """A connection to who has the store; None if it is worth trying again."""
    path = socket_of(locked.owner)
    if path is None or time.monotonic() - began > _PATIENCE:
        raise locked
    try:
        return peers.link(path)
    except Lost:
        time.sleep(_PAUSE)
        return None


def _said(link: Link, store_id: str, name: str, *args: Any) -> Any:
    try:
        return link.wait(link.call(store_id, name, *args), _SECONDS)[0][1]
    except TimeoutError:
        raise Unreachable(f"The process that has the store {store_id!r} open does not answer.") from None
