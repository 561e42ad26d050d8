"""Copies of a store's tables for newcomers: made on demand, shared while they are fresh enough, and removed again.

What belongs here: which copy is there and how long it stays. How tables are copied is ``state``'s business, how a
copy travels is ``server``'s.
"""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path

import msgspec

from ..state.state import State

FAR = 20_000
"""Events that a copy may be behind; who takes it pulls those from the log."""

UNUSED_SECONDS = 3600.0
"""After which a copy that nobody asked for is removed."""

_NAME = "snapshot.*.duckdb*"


class Snapshot(msgspec.Struct, frozen=True):
    """A copy of a store's tables in a file of its own, which may be removed once it is open.

    Attributes:
        path: of the file. Another copy has another name, even one of the same event.
        seq: the last event that is in it.
        backend_id: of the log.
        schema: the hash of the schema.
        size: in bytes.
    """

    path: Path
    seq: int
    backend_id: str
    schema: str
    size: int

    @property
    def tag(self) -> str:
        """Names these very bytes: ``<backend id>.<seq>.<schema>.<file>``."""
        return f"{self.backend_id}.{self.seq}.{self.schema[:16]}.{self.path.name.split('.')[1]}"


class Snapshots:
    """The copy of one store on disk.

    Args:
        folder: the store's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._latest: Snapshot | None = None
        self._used = 0.0

    def get(self, state: State, backend_id: str, head: int) -> Snapshot:
        """The copy that is there if it will do, otherwise a new one in its place; several callers share it.

        Args:
            state: to copy.
            backend_id: of its log.
            head: of its log.

        Raises:
            OSError: it cannot be written.
        """
        with self._guard:
            self._used = time.monotonic()
            latest = self._latest
            if latest is None or head - latest.seq > FAR or not latest.path.exists():
                latest = self._make(state, backend_id)
            return latest

    def _make(self, state: State, backend_id: str) -> Snapshot:
        path = self._folder / f"snapshot.{secrets.token_hex(4)}.duckdb"
        try:
            seq = state.copy(path)
            made = Snapshot(path, seq, backend_id, state.schema.hash, path.stat().st_size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._remove(but=path)
        self._latest = made
        return made

    def sweep(self, unused_seconds: float = UNUSED_SECONDS) -> None:
        """Remove the copy if nobody has asked for it for a while."""
        if self._latest is None or not self._guard.acquire(blocking=False):  # being made or handed out
            return
        try:
            if time.monotonic() - self._used >= unused_seconds:
                self._remove()
        finally:
            self._guard.release()

    def clear(self) -> None:
        """Remove the copy, and what a process that was killed has left."""
        with self._guard:
            self._remove()

    def _remove(self, but: Path | None = None) -> None:
        self._latest = None
        for path in self._folder.glob(_NAME):
            if path != but:
                path.unlink(missing_ok=True)
