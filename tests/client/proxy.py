"""A TCP proxy before a server, which can break connections where a test wants it."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress

WEBSOCKET, SNAPSHOT, OTHER = "websocket", "snapshot", "other"
_SIGNS = {b"/agentstore/websocket?": WEBSOCKET, b"/agentstore/snapshot?": SNAPSHOT}
_PART = 1 << 16


class Proxy:
    """Carries connections to a port of this machine.

    Attributes:
        target: the port; connections that come later go there.
        refusing: whether connections that come are closed at once.
        downloaded: bytes that the server has sent, by what was asked for; one number for each time.
        before_cut: called when a connection is about to be cut.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.refusing = False
        self.before_cut: Callable[[], object] = bool
        self.downloaded: dict[str, list[int]] = defaultdict(list)
        self._cuts: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, kind: str, *, down: list[int] | None = None, up: list[int] | None = None) -> None:
        """Cut the next connections of a kind, one after each of these numbers of bytes from or to the server."""
        with self._guard:
            self._cuts[kind, "down"].extend(down or ())
            self._cuts[kind, "up"].extend(up or ())

    def cuts_left(self) -> int:
        """Connections that are still to be cut."""
        with self._guard:
            return sum(map(len, self._cuts.values()))

    def heal(self) -> None:
        """Cut no more."""
        with self._guard:
            self._cuts.clear()

    def break_all(self) -> None:
        """Cut all connections that there are."""
        with self._guard:
            broken = list(self._open)
        for end in broken:
            _end(end)

    def close(self) -> None:
        """Refuse what comes, and cut what is there."""
        _end(self._listener)
        self._listener.close()
        self.break_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refusing:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                with self._guard:
                    self._open |= {client, server}
                _Carried(self, client, server)

    def _ended(self, carried: _Carried) -> None:
        """One way of a connection has ended."""
        with self._guard:
            carried.running -= 1
            if carried.running == 0:
                self._open -= carried.ends
                for end in carried.ends:
                    end.close()

    def _budget(self, kind: str, way: str) -> int | None:
        with self._guard:
            cuts = self._cuts[kind, way]
            return cuts.popleft() if cuts else None


class _Carried:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._kind, self._place = OTHER, 0
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self.running = 2
        self.ends = {client, server}
        for way, source, sink in (("up", client, server), ("down", server, client)):
            threading.Thread(target=self._carry, args=(way, source, sink), daemon=True).start()

    def _carry(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(_PART):
                if way == "up":
                    self._recognise(part)
                elif self._kind != OTHER:
                    self._proxy.downloaded[self._kind][self._place] += len(part)
                left = self._left[way]
                if left is not None:
                    part = part[:left]
                    self._left[way] = left - len(part)
                sink.sendall(part)
                if self._left[way] == 0:
                    self._proxy.before_cut()
                    break
        for end in self.ends:
            _end(end)
        self._proxy._ended(self)

    def _recognise(self, part: bytes) -> None:
        for sign, kind in _SIGNS.items():
            if sign in part[:400]:
                self._proxy.downloaded[kind].append(0)
                self._place = len(self._proxy.downloaded[kind]) - 1
                self._left = {way: self._proxy._budget(kind, way) for way in ("up", "down")}
                self._kind = kind


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
