"""What a named session keeps on disk beside its tables: who it is, and the events that the server has not yet taken.

What belongs here: one file, its lines and when they are durable. What is pending, and on what, is the session's
business. A line is one JSON object: first ``{"session": …}``, then ``{"add": …}`` for each pending event and
``{"done": n}`` when the first ``n`` of them have been confirmed. The file is written anew when pending events are
renumbered, and now and then so that it stays short.

Added events and renumbered ones are on disk before anybody relies on them. A ``done`` that is lost in a crash or on a
full disk does no harm: the session finds out again from the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ..core.errors import StoreLocked
from ..core.events import Wire
from ..core.sync_state import renumber

if sys.platform != "win32":
    import fcntl

FILE = "session.jsonl"
_LONG = 256_000  # bytes of a file that is worth writing anew once nothing is pending


class Header(msgspec.Struct):
    """Who the session is, and of which log.

    Attributes:
        storeId: of the store.
        clientId: of this client, the same as long as the file is there.
        sessionId: likewise.
        backendId: of the log that the pending events follow; None if it was never known.
        aside: how many events at the beginning were pending on an earlier log, and follow nothing in this one.
    """

    storeId: str
    clientId: str
    sessionId: str
    backendId: str | None = None
    aside: int = 0


class _Added(msgspec.Struct):
    """A pending event; ``args`` is JSON in text: half an emoji in it could not be read back otherwise."""

    name: str
    args: str
    seq: int


class _Line(msgspec.Struct, omit_defaults=True):
    session: Header | None = None
    add: _Added | None = None
    done: int = 0


_lines = msgspec.json.Decoder(_Line)


_open: weakref.WeakSet[Journal] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child: close the copies of the files, which would hold the lock beyond the parent's end."""
    for journal in list(_open):
        journal.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Journal:
    """The file of one named session, held by this process.

    Args:
        folder: the session's; made if it is not there.
        store_id: of the store.

    Attributes:
        header: who the session is.
        pending: the events that were pending when the file was opened, a chain.
        aside: those before them that were pending on an earlier log.

    Raises:
        StoreLocked: another session of this name is open, in this process or another.
        OSError: the file cannot be read or written.
    """

    def __init__(self, folder: Path, store_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / FILE
        self._lock = _take(folder)
        self._handle = -1
        _open.add(self)
        try:
            self.header, events = self._read(store_id)
            self.aside, self.pending = events[: self.header.aside], _chain(events[self.header.aside :])
            self.write(self.header.backendId, self.pending, self.aside)
        except BaseException:
            self.close()
            raise

    def _read(self, store_id: str) -> tuple[Header, list[Wire]]:
        header: Header | None = None
        pending: list[Wire] = []
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = []
        for text in lines:
            try:
                line = _lines.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break  # the crash came in the middle of this line; nobody was told that it is there
            if line.session is not None:
                header, pending = line.session, []
            elif header is None:
                break
            elif line.add is not None:
                pending.append(_event(line.add, header))
            else:
                del pending[header.aside : header.aside + line.done]
        if header is None:
            return Header(store_id, f"kernel-{secrets.token_hex(6)}", secrets.token_hex(8)), []
        return header, pending

    def add(self, events: Sequence[Wire]) -> None:
        """Keep newly pending events. On disk on return, all or none.

        Raises:
            OSError: the disk does not take them.
        """
        self._append(_added(events), os.fsync)

    def done(self, count: int, *, left: int) -> None:
        """The first ``count`` pending events were confirmed; ``left`` are still pending."""
        with contextlib.suppress(OSError):
            if not left and not self.header.aside and os.lseek(self._handle, 0, os.SEEK_END) > _LONG:
                self.write(self.header.backendId, ())
            elif count:
                self._append(b'{"done":%d}\n' % count)

    def _append(self, text: bytes, sync: Callable[[int], None] | None = None) -> None:
        end = os.lseek(self._handle, 0, os.SEEK_END)
        try:
            _put(self._handle, text)
            if sync is not None:
                sync(self._handle)
        except OSError:
            os.ftruncate(self._handle, end)
            raise

    def write(self, backend_id: str | None, pending: Sequence[Wire], aside: Sequence[Wire] = ()) -> None:
        """Write everything anew; on disk on return.

        Args:
            backend_id: of the log.
            pending: all that is pending.
            aside: what was pending on an earlier log.

        Raises:
            OSError: the disk does not take it; what was there before still is.
        """
        header = msgspec.structs.replace(self.header, backendId=backend_id, aside=len(aside))
        new = self._path.with_name(FILE + ".new")
        text = b'{"session":%b}\n' % msgspec.json.encode(header)
        text += _added(aside) + _added(pending)
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _put(handle, text)
            os.fsync(handle)
            new.replace(self._path)
        except BaseException:
            os.close(handle)
            raise
        before, self._handle, self.header = self._handle, handle, header
        if before >= 0:
            os.close(before)
        _sync_folder(self._path.parent)

    def close(self) -> None:
        """Let go of the file. Again is harmless."""
        for handle in (self._handle, self._lock):
            if handle >= 0:
                os.close(handle)
        self._handle = self._lock = -1


def _added(events: Sequence[Wire]) -> bytes:
    lines = [_Line(add=_Added(event.name, bytes(event.args).decode(), event.seqNum)) for event in events]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _event(added: _Added, header: Header) -> Wire:
    args = msgspec.Raw(added.args.encode())
    return Wire(added.name, args, added.seq, added.seq - 1, header.clientId, header.sessionId)


def _chain(events: Sequence[Wire]) -> list[Wire]:
    """The events, each after the one before; the first stays what it is."""
    head = events[0].parentSeqNum if events else 0
    return list(renumber(events, head))


def _put(handle: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _take(folder: Path) -> int:
    path = folder / "lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if sys.platform == "win32":
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        try:
            owner = json.loads(os.pread(handle, 200, 0) or b"{}")
        except ValueError:
            owner = {}
        os.close(handle)
        who = "this process already" if owner.get("pid") == os.getpid() else f"process {owner.get('pid')}"
        raise StoreLocked(
            f"The session {folder.name!r} is open in {who}; give this one another name.", owner
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid()}).encode(), 0)
    return handle


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
