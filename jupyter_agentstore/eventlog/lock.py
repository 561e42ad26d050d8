"""The lock of a store's folder: one process has a store open, and others are told which.

What belongs here: holding the lock file, reading who holds it, and whether the folder's file system can be trusted
with locks. DuckDB's own lock is not enough: it is a POSIX one, which vanishes when the process opens and closes the
same file by other means.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from ..core.errors import NotFound, StoreLocked

if sys.platform != "win32":
    import fcntl

FILE = "lock"
_ASLEEP = "asleep"
_LONGEST = 10_000  # bytes of a lock file that are read
_TRIES = 6
_PAUSE = 0.01

_NETWORK = {
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
}  # fmt: skip
_LOCAL_FUSE = {"fuseblk", "fuse.bindfs", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g"}


class Lock:
    """The hold on a store's folder; make one with :meth:`take`.

    As a context it is for those who work on a store without running it: on leaving, what :func:`unclean` says of it
    is what it was before.

    The file itself is never removed: whoever had opened it before would then lock a file that nobody else sees.

    Attributes:
        unclean: whether the last holder crashed, or left replies waiting (see :func:`unclean`).
        left: what the last holder said of itself, if it did not let go in an orderly way.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._owner: Mapping[str, object] = {}
        self.left = _said(os.pread(handle, _LONGEST, 0))
        self.unclean = os.fstat(handle).st_size > 0 and self.left.get(_ASLEEP) is not True
        _held.add(self)

    @classmethod
    def take(
        cls,
        folder: Path,
        owner: Mapping[str, object] | Callable[[], Mapping[str, object]] | None = None,
        *,
        tries: int = _TRIES,
    ) -> Lock:
        """Take the lock of a folder, which must be there.

        Args:
            folder: the store's.
            owner: what others are told beside ``pid`` and ``host``, such as the server's ``url``; JSON values. A
                function is called once the lock is ours.
            tries: how often to look whether it is free, 10 ms apart.

        Raises:
            StoreLocked: somebody has it, in another process or in this one; ``owner`` says who.
            NotFound: there is no such folder.
            OSError: the folder's file system has no locks, or may not be written to.
        """
        if sys.platform == "win32":
            raise OSError("Stores on disk need flock, which Windows has not; use WSL, or a store in memory.")
        path = folder / FILE
        for attempt in range(tries):
            if attempt:  # somebody may only be looking, or may not have written yet who he is
                time.sleep(_PAUSE)
            handle = _open(path)
            try:
                if not _flock(handle, path, fcntl.LOCK_EX):
                    continue
                if not _is_at(handle, path):  # the folder was removed and made anew
                    continue
                lock = cls(handle)
                more = owner() if callable(owner) else owner or {}
                lock._owner = {"pid": os.getpid(), "host": socket.gethostname(), **more}
                lock._write(lock._owner)
                handle = -1
                return lock
            finally:
                if handle >= 0:
                    os.close(handle)
        raise _locked(folder)

    def rest(self, work_waiting: bool = False) -> None:
        """Say that the store is closed although its lock is held; should we be killed, that is no crash of it.

        Args:
            work_waiting: it is all the same to be opened again without being asked for.
        """
        if self._handle >= 0 and not work_waiting:
            self._write({**self._owner, _ASLEEP: True})

    def wake(self) -> None:
        """Say that the store is open again.

        Raises:
            OSError: that cannot be written.
        """
        if self._handle >= 0:
            self._write(self._owner)

    def release(self, work_waiting: bool = False) -> None:
        """Let go of the folder. A second call does nothing.

        Args:
            work_waiting: leave a note that the store is to be opened again without being asked for.
        """
        handle, self._handle = self._handle, -1
        _held.discard(self)
        if handle < 0 or sys.platform == "win32":
            return
        try:
            if not work_waiting:
                os.ftruncate(handle, 0)
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(work_waiting=self.unclean)

    def _write(self, owner: Mapping[str, object]) -> None:
        text = json.dumps(owner).encode()
        os.pwrite(self._handle, text, 0)  # first, so that a full disk leaves a note that was there
        os.ftruncate(self._handle, len(text))
        os.fsync(self._handle)

    def _forget(self) -> None:
        """In a forked child: close the copy of the file, which would hold the lock beyond the parent's end."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def unclean(folder: Path) -> bool:
    """Whether a store that nobody has open was not closed cleanly, or closed with replies waiting."""
    if sys.platform == "win32":
        return False
    path = folder / FILE
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        said = os.pread(handle, _LONGEST, 0)
        return bool(said) and _said(said).get(_ASLEEP) is not True and _flock(handle, path, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def holder_of(folder: Path) -> dict[str, object]:
    """What the lock file says of the process that holds it; empty when nobody does."""
    if sys.platform == "win32":
        return {}
    path = folder / FILE
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return {} if _flock(handle, path, fcntl.LOCK_SH) else owner_of(folder)
    finally:
        os.close(handle)


def owner_of(folder: Path) -> dict[str, object]:
    """What the lock file says of its last holder; empty when it says nothing."""
    try:
        return _said((folder / FILE).read_bytes())
    except OSError:
        return {}


def network_filesystem(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the network file system that a path is on, such as ``nfs4``; None if it is local or not known.

    Locks on such file systems may not hold between machines, and an fsync there may not reach a disk.

    Args:
        path: of a file or folder, which need not be there yet.
        mounts: Linux's list of mounts; other systems have none.
    """
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    found, depth = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        if len(point.parts) >= depth and place.is_relative_to(point):  # of equals the later one lies on top
            found, depth = after.split(" ")[0], len(point.parts)
    remote = found in _NETWORK or (found.startswith("fuse") and found not in _LOCAL_FUSE)
    return found if remote else None


def _said(content: bytes) -> dict[str, object]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        raise NotFound(f"There is no folder {path.parent}.") from None


def _flock(handle: int, path: Path, how: int) -> bool:
    """Whether the lock was free and is now ours."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            error.errno, f"{path} cannot be locked; use a folder on a local disk", str(path)
        ) from error
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _locked(folder: Path) -> StoreLocked:
    owner = owner_of(folder)
    who = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
    if owner.get("url"):
        who += f" ({owner['url']})"
    if owner.get("pid") == os.getpid() and owner.get("host") == socket.gethostname():
        who = f"this process already: {who}"
    return StoreLocked(f"The store in {folder} is open in {who}.", owner)
