"""A network between an app and a server, which a test can cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Line:
    """Hands on TCP connections to a port of this machine.

    Args:
        port: the server's.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._up = True
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End all connections, and every new one at once."""
        with self._lock:
            self._up = False
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self, port: int | None = None) -> None:
        """Hand on connections again, to another port if one is given."""
        with self._lock:
            self._up, self._to = True, port or self._to

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    far = self._connect() if self._up else None
                    if far is None:
                        near.close()
                        continue
                    self._ends |= {near, far}
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            return None

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
        with self._lock:
            self._ends.discard(one)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
