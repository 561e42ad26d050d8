"""A store's life: awake, asleep, another process's, and the changes from one to the other.

What belongs here: the folder's lock and who has it. A store is awake while somebody uses or holds it. Asleep it has
no files; it keeps the lock if somebody listens, so that whoever wakes it does so here. While another process has the
lock, the store is asked for there; when that process is gone, whoever is first to get the lock opens the files, and
the others ask the new one.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar, cast

from ..core.errors import AgentStoreError, NotFound, StoreClosed, StoreLocked
from ..core.events import Event
from ..core.operations import RowChange
from ..core.schema import Schema
from ..eventlog import MemoryLog
from ..eventlog.file import FILE
from ..eventlog.lock import Lock, owner_of, unclean
from .awake import Awake, Place
from .backing import Backing, Lost
from .commits import Commit, Push
from .guest import Guest, Hearing

_PATIENCE = 0.06  # seconds to wait for a lock whose holder cannot be asked
_TAKE_UP = 2.0  # seconds to see whether a store was left with something to do
_TAKEOVER = 10.0  # seconds to wait for the one who takes a store over
_WORD = 2.0  # seconds to wait for who has the lock to say who he is
_PAUSE = (0.01, 0.04)  # seconds between two tries
_RETRY = 1.0  # seconds after a failure, while somebody listens
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Deleted(StoreClosed):
    """The store was deleted."""


class Abandoned(StoreClosed):
    """It could not be opened, and was dropped; there may be another one of its name by now."""


class Watching(Hearing, Protocol):
    """Who is told of what happens to a store: the store itself."""

    @property
    def attended(self) -> bool:
        """Whether somebody listens who must hear of everything."""

    def heard(self, events: Sequence[Event]) -> None: ...

    def heard_rows(self, changes: Sequence[RowChange]) -> None: ...

    def vanished(self) -> None:
        """The store was deleted while nobody had it open."""

    def listen_to(self, guest: Guest) -> None:
        """Have listeners hear of what is done in another process."""

    def opened(self, backing: Backing) -> None:
        """There is a new backing; called in the thread that will use it."""


class Life:
    """Opens and closes what is behind a store, or finds who has it.

    Args:
        place: where stores are kept.
        store_id: the store's id, as it was first spelled.
        schema: what its events mean.
        watching: who is told.
    """

    def __init__(self, place: Place, store_id: str, schema: Schema, watching: Watching) -> None:
        self._place = place
        self._id = store_id
        self._schema = schema
        self._watching = watching
        self._folder = place.folder / store_id if place.folder else None
        self._memory_log = MemoryLog() if place.folder is None else None
        self._guard = threading.Condition()
        self._moving = False  # files are being opened or closed, or the one who has them is being looked for
        self._backing: Backing | None = None
        self._lock: Lock | None = None
        self._pid = os.getpid()
        self._users = 0
        self._used = time.monotonic()
        self._closed: type[StoreClosed] | None = None
        self._was_guest = False
        self._known = False  # it was open once: its log is there, unless it was deleted
        self._head = 0  # when something was behind it last
        self._owes = False  # replies, when it was closed
        self._orphans: deque[Commit | Push] = deque()  # to be written by the next host
        self._recovering = False

    @property
    def backing(self) -> Backing | None:
        """What is behind the store at this moment."""
        return self._backing

    @property
    def head(self) -> int:
        """The log's head, as far as it is known here."""
        backing = self._backing
        return self._head if backing is None else backing.head

    @property
    def mine(self) -> bool:
        """Whether this process has the store's lock, open or asleep."""
        return self._lock is not None or self._memory_log is not None

    @property
    def ended(self) -> bool:
        """Whether the store was deleted."""
        return self._closed is Deleted

    @property
    def ready(self) -> bool:
        """Whether something can be put without waiting for files."""
        return self._backing is not None and not self._moving

    # ---- using

    @contextmanager
    def use(self) -> Iterator[Backing]:
        """What is behind the store, opened or found if need be, kept meanwhile.

        Raises:
            StoreLocked, DamagedLog, ForeignFile, OSError: it cannot be opened.
            StoreClosed: the store was closed.
        """
        backing = self._enter()
        try:
            yield backing
        finally:
            self._leave()

    def call(self, function: Callable[[Backing], _T]) -> _T:
        """Do something with what is behind the store; again with the next one, if that goes away."""
        while True:
            with self.use() as backing:
                try:
                    return function(backing)
                except Lost:
                    pass
            self._forget(backing)
            time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - a pause is no secret

    def put(self, entry: Commit | Push) -> None:
        """Have something written, after what waits for a new host.

        It returns at once if it is :attr:`ready`, also when the other process is gone by then.
        """
        with self._guard:
            if self._recovering:
                self._orphans.append(entry)
                return
        with self.use() as backing:
            try:
                backing.put(entry)
            except Lost:
                self.lost(backing, [entry])

    def _enter(self) -> Backing:
        with self._guard:
            self._guard.wait_for(lambda: not self._moving or self._closed)
            self._check()
            if self._backing is not None:
                self._users += 1
                return self._backing
            self._moving = True
        found: Backing | None = None
        try:
            found = self._acquire()
        finally:
            with self._guard:
                self._moving = False
                self._backing = found
                self._users += found is not None
                self._guard.notify_all()
        try:
            self._watching.opened(found)
        except BaseException:
            self._leave()
            raise
        return found

    def _leave(self) -> None:
        with self._guard:
            self._users -= 1
            self._used = time.monotonic()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise StoreClosed("The store was opened before this process was forked; open it anew.")
        if self._closed is not None:
            raise self._over(self._closed)

    def _over(self, why: type[StoreClosed]) -> StoreClosed:
        return why(f"The store {self._id!r} {'was deleted' if why is Deleted else 'is closed'}.")

    # ---- opening

    def _acquire(self) -> Backing:
        """Open the files, or find who has them."""
        began = time.monotonic()
        patience = _TAKEOVER if self._was_guest else _PATIENCE
        while True:
            try:
                return self._open()
            except StoreLocked as error:
                locked = error
            guest, wait = self._visit(locked)
            if guest is not None:
                return guest
            if wait is not None:
                patience = wait
            if self._closed or time.monotonic() - began > patience:
                if self._place.peers is not None:
                    self._place.peers.give_up(locked.owner)
                raise locked
            time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - a pause is no secret

    def _open(self) -> Awake:
        folder = self._folder
        if folder is not None and self._lock is None:
            self._take_lock(folder)
        elif self._lock is not None:
            self._lock.wake()
        try:
            awake = Awake(
                self._place,
                folder,
                self._id,
                self._schema,
                self._memory_log,
                self._watching.heard,
                self._watching.heard_rows,
            )
        except BaseException:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release(work_waiting=lock.unclean)
            raise
        self._was_guest = False
        self._known = True
        return awake

    def _take_lock(self, folder: Path) -> None:
        if self._known and not (folder / FILE).exists():
            self._closed = Deleted
            self._watching.vanished()
            self._check()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = Lock.take(folder, self._place.owner, tries=1)
        if lock.left:
            from .peers import clean_up

            clean_up(lock.left)
        self._lock = lock

    def _visit(self, locked: StoreLocked) -> tuple[Guest | None, float | None]:
        """Ask who has the lock to be their guest; for how many seconds it is worth trying, if that says something."""
        from .peers import socket_of

        peers = self._place.peers
        path = socket_of(locked.owner)
        if peers is None or path is None:
            return None, None if locked.owner else _WORD
        try:
            link = peers.link(path)
        except Lost:
            return None, _PATIENCE if peers.gave_up(path) else _TAKEOVER
        try:
            guest = Guest(link, self._id, self._schema, locked.owner, self._watching)
        except Lost:
            peers.leave(link)
            return None, _TAKEOVER
        except BaseException:
            peers.leave(link)
            raise
        self._was_guest = self._known = True
        return guest, None

    # ---- losing

    def lost(self, guest: Backing | None, entries: Sequence[Commit | Push]) -> None:
        """The other process is gone; what it was to write goes to the next one. Returns at once."""
        if not entries and not self._watching.attended:
            self._forget(guest)
            self._in_a_thread(self._take_up)
            return
        with self._guard:
            closed = self._closed
            if closed is None:
                self._orphans.extend(entries)
                if self._recovering:
                    return
                self._recovering = True
        if closed is not None:
            for entry in entries:
                _refuse(entry, self._over(closed))
            return
        self._in_a_thread(self._recover, guest)

    def _in_a_thread(self, work: Callable[..., None], *args: object) -> None:
        name = f"agentstore-takeover-{self._id}"
        threading.Thread(target=work, args=args, name=name, daemon=True).start()

    def _take_up(self) -> None:
        """Nobody listens here, but the process that is gone may have owed replies: see that somebody gives them."""
        folder = self._folder
        ends = time.monotonic() + _TAKE_UP
        while folder is not None and self._closed is None and time.monotonic() < ends:
            time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - a pause is no secret
            try:
                if unclean(folder):
                    self.call(lambda backing: None)
                if not owner_of(folder) or self._backing is not None:
                    return  # it was closed in order, or is open here
            except (AgentStoreError, OSError) as error:
                _log.debug("%s: it cannot be seen to: %s", self._id, error)
                return

    def _recover(self, guest: Backing | None) -> None:
        self._forget(guest)
        while True:
            with self._guard:
                if not self._orphans and (self._backing is not None or not self._watching.attended):
                    self._recovering = False
                    return
            try:
                self.call(lambda backing: None)
            except Exception as error:
                with self._guard:
                    given_up = list(self._orphans)
                    self._orphans.clear()
                    self._recovering = False
                for entry in given_up:
                    _refuse(entry, error)
                if isinstance(error, StoreClosed) or not self._watching.attended:
                    return
                _log.warning("%s: nobody can be found who has it: %s", self._id, error)
                time.sleep(_RETRY)
                with self._guard:
                    if self._recovering or self._closed:
                        return
                    self._recovering = True
                continue
            while self._orphans:
                entry = self._orphans[0]
                try:
                    self.call(lambda backing, entry=entry: backing.put(entry))  # type: ignore[misc]
                except Exception as error:
                    _refuse(entry, error)
                self._orphans.popleft()

    def _forget(self, backing: Backing | None) -> None:
        """What was behind the store is of no use any more."""
        with self._guard:
            if backing is None or self._backing is not backing or backing.own:
                return
            self._backing = None
        self._part(cast("Guest", backing))

    def _part(self, guest: Guest) -> None:
        self._head = guest.head
        peers = self._place.peers
        if peers is not None:
            guest.leave(lambda: peers.leave(guest.link))

    def end(self, guest: Guest) -> None:
        """The store was deleted, where it was. Returns at once."""
        with self._guard:
            self._closed = Deleted
            self._guard.notify_all()
        self._forget(guest)

    def attend(self) -> None:
        """Somebody listens: have the store where it hears of everything. Returns at once."""
        with self._guard:
            backing = self._backing
            settled = not self._moving and (backing is not None or self.mine)
            closed = self._closed is not None
        if isinstance(backing, Guest):
            self._watching.listen_to(backing)
        if not settled and not closed:
            self.lost(None, ())

    # ---- closing

    def abandon(self) -> bool:
        """Let nobody use it any more if nothing is behind it; whether that is so. Returns at once."""
        with self._guard:
            if self._closed is None and (self._moving or self._backing is not None or self._lock is not None):
                return False
            self._closed = self._closed or Abandoned
            self._guard.notify_all()
            return True

    def sleep(self, idle_seconds: float) -> bool:
        """Close the files if nobody has used them for a while; whether they are closed."""
        with self._guard:
            self._guard.wait_for(lambda: not self._moving)
            backing, lock = self._backing, self._lock
            if backing is None:
                if lock is None or self._watching.attended:
                    return True
                self._moving = True
            elif self._users or not backing.idle or time.monotonic() - self._used < idle_seconds:
                return False
            elif not backing.own:
                if self._watching.attended:
                    return False
                self._backing = None
            else:
                self._moving = True
        if backing is None:
            self._let_go(work_waiting=self._owes)
        elif backing.own:
            self._put_to_sleep(cast("Awake", backing), keep_lock=self._watching.attended)
        else:
            self._part(cast("Guest", backing))
        return True

    def close(self, why: type[StoreClosed] = StoreClosed) -> None:
        """Write what waits and close; every later call raises ``why``."""
        with self._guard:
            self._closed = self._closed or why
            self._guard.wait_for(lambda: not self._moving)
            backing, self._backing = self._backing, None
            if self._pid != os.getpid():
                return
            self._moving = True
        if backing is None:
            self._let_go(work_waiting=self._owes)
        elif backing.own:
            self._put_to_sleep(cast("Awake", backing), keep_lock=False)
        else:
            self._part(cast("Guest", backing))
            self._moved()

    def _put_to_sleep(self, awake: Awake, *, keep_lock: bool) -> None:
        """Close the files. Others wait meanwhile, without holding what the store's own threads may need."""
        self._owes = True
        try:
            self._owes = awake.close()
            self._head = awake.head
        finally:
            if keep_lock and self._lock is not None:
                with suppress(OSError):
                    self._lock.rest(work_waiting=self._owes)
                self._moved()
            else:
                self._let_go(work_waiting=self._owes)

    def _let_go(self, *, work_waiting: bool) -> None:
        lock, self._lock = self._lock, None
        try:
            if lock is not None:
                lock.release(work_waiting=work_waiting)
        finally:
            self._moved()

    def _moved(self) -> None:
        with self._guard:
            self._backing = None
            self._moving = False
            self._guard.notify_all()

    def renew(self, work: Callable[[Path], _T], *, ends: bool) -> _T:
        """Close the files, do something to the folder, and let others use what is there then.

        Args:
            work: what is done, with the lock held.
            ends: the store is no more afterwards.

        Raises:
            NotFound: the folder has no log.
            StoreLocked: another process has it.
        """
        folder = self._folder
        if folder is None:
            raise NotFound("A store in memory has no files.")
        with self._guard:
            self._guard.wait_for(lambda: not self._moving)
            self._check()
            backing = self._backing
            if backing is None or backing.own:
                self._moving, self._backing = True, None
        if backing is not None and not backing.own:
            guest = cast("Guest", backing)
            raise StoreLocked(f"The store {self._id!r} is open in another process.", guest.owner)
        try:
            if backing is not None:
                cast("Awake", backing).close()
                self._head = backing.head
            if self._lock is None:
                if not (folder / FILE).exists():
                    raise NotFound(f"There is no event log in {folder}.")
                self._lock = Lock.take(folder, self._place.owner)
            done = work(folder)
            self._owes = False
            if ends:
                self._closed = Deleted
            return done
        finally:
            if self._lock is not None and self._watching.attended and self._closed is None:
                self._moved()
            else:
                self._let_go(work_waiting=self._owes)


def _refuse(entry: Commit | Push, error: Exception) -> None:
    with suppress(Exception):  # nobody waits any more
        entry.future.set_exception(error)
