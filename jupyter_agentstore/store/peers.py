"""The other processes of the user: the socket by which they find this one, and the connections to and from them.

What belongs here: sockets, the loop in a thread that serves them, and who may connect. What is said on a connection
is the business of ``hosting`` (they ask us) and ``link`` (we ask them).

A socket is in a folder of its own that only its owner may enter; who is at the other end is checked all the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from .backing import Lost
from .link import Link

PREFIX = "agentstore-host-"
NAME = "host.sock"
_LONGEST = 100  # bytes of a path that every system takes for a socket
_PATIENCE = 5.0  # seconds that a connection may take to come about
_YOUNG = 60.0  # seconds in which a process may not have come to listen yet
_log = logging.getLogger(__name__)


class Peers:
    """One registry's connections with other processes. Nothing is opened before it is needed.

    Args:
        serve: makes what serves a connection from another process.
    """

    def __init__(self, serve: Callable[[asyncio.AbstractEventLoop], asyncio.Protocol]) -> None:
        self._serve = serve
        self._guard = threading.RLock()
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._address: Path | None = None
        self._failed = False
        self._links: dict[str, Link] = {}
        self._given_up: set[str] = set()
        self._connecting: dict[str, threading.Lock] = {}  # the loop, which connects, may wait for the guard
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._accepting: asyncio.Task[None] | None = None
        self._closed = False
        _all.add(self)

    def address(self) -> Path | None:
        """The path of this process's socket; made now if need be. None: this system has no such sockets."""
        with self._guard:
            if self._address is None and not self._failed and not self._closed:
                try:
                    self._address = self._listen()
                except (OSError, AttributeError) as error:
                    self._failed = True
                    _log.warning("Other processes cannot share the stores of this one: %s", error)
            return self._address

    def link(self, path: str) -> Link:
        """A connection to the process behind a socket, shared by everyone here; :meth:`leave` gives it back.

        Raises:
            Lost: nobody is there, or somebody else's process.
        """
        with self._guard:
            connecting = self._connecting.setdefault(path, threading.Lock())
        with connecting:
            with self._guard:
                link = self._links.get(path)
                if link is not None and not link.closed:
                    link.users += 1
                    return link
            link = self._connect(path)
            with self._guard:
                if self._closed:
                    link.close()
                    raise Lost
                self._links[path] = link
                self._given_up.discard(path)
                link.users += 1
                return link

    def leave(self, link: Link) -> None:
        """Give a link back; the last one closes it, unless it is stuck: the next one is to know."""
        with self._guard:
            link.users -= 1
            if link.users == 0 and not link.stuck:
                self._links = {path: other for path, other in self._links.items() if other is not link}
                link.close()

    def give_up(self, owner: Mapping[str, object]) -> None:
        """A lock's holder could not be reached for long: let the next one who wants to wait know."""
        path = socket_of(owner)
        if path is not None:
            self._given_up.add(path)

    def gave_up(self, path: str) -> bool:
        """Whether somebody has waited in vain for the process behind a socket, and it was not reached since."""
        return path in self._given_up

    def close(self) -> None:
        """End every connection, after what was written to it, and let go of the socket."""
        if self._pid != os.getpid():
            return
        with self._guard:
            if self._closed:
                return
            self._closed = True
            loop, thread, address = self._loop, self._thread, self._address
        if loop is not None and thread is not None:
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._end(), loop).result(_PATIENCE)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_PATIENCE)
            if not thread.is_alive():
                loop.close()
        if address is not None:
            shutil.rmtree(address.parent, ignore_errors=True)

    async def _end(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
        for link in list(self._links.values()):
            link.close()
        for each in list(self._transports):
            each.close()  # writes what is buffered first
        for _ in range(100):
            if not any(each.get_write_buffer_size() for each in self._transports):
                break
            await asyncio.sleep(0.01)
        for each in list(self._transports):  # who takes nothing would keep them open
            each.abort()
        for link in list(self._links.values()):
            link.abort()
        await asyncio.sleep(0.01)  # they are told that it is lost
        for sock in list(self._sockets):
            if sock.fileno() >= 0 and sock is self._listening:
                sock.close()

    # ---- the loop

    _listening: socket.socket | None = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._closed:
                raise Lost
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="agentstore-peers", daemon=True
                )
                self._thread.start()
            return self._loop

    def _listen(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        _sweep(folder.parent)
        if len(os.fsencode(folder / NAME)) > _LONGEST:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sockets.add(sock)
            sock.bind(str(folder / NAME))
            (folder / NAME).chmod(0o600)
            sock.listen(128)
            sock.setblocking(False)
            self._listening = sock
            loop = self._running()

            def begin() -> None:
                self._accepting = loop.create_task(self._accept(sock))

            loop.call_soon_threadsafe(begin)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder / NAME

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:  # too many open files, as a rule
                _log.warning("Another process could not connect: %s", error)
                await asyncio.sleep(0.2)
                continue
            self._sockets.add(sock)
            sock.setblocking(False)
            if not _is_ours(sock):
                sock.close()
                continue
            try:
                transport, _ = await loop.connect_accepted_socket(lambda: self._serve(loop), sock)
            except OSError:
                sock.close()
                continue
            self._transports.add(transport)

    def _connect(self, path: str) -> Link:
        loop = self._running()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sockets.add(sock)
        link = Link(loop)
        try:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            if not _is_ours(sock):
                raise Lost
            sock.setblocking(False)
            connecting = loop.create_unix_connection(lambda: link, sock=sock)
            asyncio.run_coroutine_threadsafe(connecting, loop).result(_PATIENCE)
        except (OSError, TimeoutError) as error:
            sock.close()
            raise Lost from error
        except BaseException:
            sock.close()
            raise
        return link

    def _forget(self) -> None:
        """In a forked child: close the copies of the sockets, which would keep connections open after our end."""
        for sock in list(self._sockets):
            if (handle := sock.detach()) >= 0:
                os.close(handle)
        self._closed = True


_all: weakref.WeakSet[Peers] = weakref.WeakSet()


def _forget_all() -> None:
    for peers in list(_all):
        peers._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def socket_of(owner: Mapping[str, object]) -> str | None:
    """The path of a lock holder's socket, if it is a process of this user on this machine that has one."""
    path = owner.get("socket")
    if not isinstance(path, str) or owner.get("host") != socket.gethostname():
        return None
    place = Path(path)
    if place.name != NAME or not place.parent.name.startswith(PREFIX):
        return None
    try:
        found = place.parent.lstat()
    except FileNotFoundError:
        return path  # it has just ended, perhaps, and another one takes over
    except OSError:
        return None
    return path if found.st_uid == os.geteuid() and not place.parent.is_symlink() else None


def clean_up(owner: Mapping[str, object]) -> None:
    """Remove the socket of a lock holder that died."""
    path = socket_of(owner)
    if path is not None:
        _remove_dead(Path(path).parent)


def _sweep(parent: Path) -> None:
    """Remove sockets of processes that died and had no store that somebody took over."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _YOUNG:
                _remove_dead(folder)


def _remove_dead(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(_PATIENCE)
            probe.connect(str(folder / NAME))
        except (ConnectionRefusedError, FileNotFoundError):
            if not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            return


def _is_ours(sock: socket.socket) -> bool:
    """Whether the process at the other end is this user's, as far as the system can tell."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return bool(struct.unpack("3i", said)[1] == os.geteuid())
        if sys.platform == "darwin":
            said = sock.getsockopt(0, 1, 76)  # LOCAL_PEERCRED: version, uid, …
            return bool(struct.unpack_from("2I", said)[1] == os.geteuid())
    except OSError:
        return False
    return True  # the folder keeps others out
