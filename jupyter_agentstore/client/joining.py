"""Joining a store: what a session's tables begin with.

What belongs here: whether to apply the log or to fetch a copy of the server's tables, the download of that copy,
which goes on where it broke off, and its progress.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..core.errors import AgentStoreError, ForeignFile, NotFound, StoreClosed, TooLarge, Unreachable

if TYPE_CHECKING:
    import httpx

    from .remote import RemoteLink
    from .replica import Replica

NEAR = 10_000
"""Events that are applied sooner than a copy of the tables is fetched."""

MOST_BYTES = 2_000_000_000
"""A copy of a store's tables that is larger is fetched for a named session only, which keeps it."""

SHOWN_AFTER = 1.0
"""Seconds that joining may take without a progress bar."""


@dataclass(frozen=True)
class Copy:
    """A copy of a store's tables.

    Attributes:
        path: the file.
        backend_id: of the log that they come from.
        seq: the last event in them.
    """

    path: Path
    backend_id: str
    seq: int


class Progress:
    """A progress bar that shows itself only if the work is long."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._began = time.monotonic()
        self._bar: Any = None
        self._at = 0

    def to(self, done: int, total: int) -> None:
        """So much is done of so much."""
        if self._bar is None and (total <= 0 or time.monotonic() - self._began < SHOWN_AFTER):
            return
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._what, unit=self._unit, unit_scale=True, leave=False)
        self._bar.total = total
        self._bar.update(done - self._at)
        self._at = done

    def close(self) -> None:
        """It is done, or given up."""
        if self._bar is not None:
            self._bar.close()


class Join:
    """Brings tables up to the server's log, as far as that is quicker than to apply it event by event.

    Args:
        remote: the way to the server.
        most: bytes that a copy of its tables may have; None for any number.
    """

    def __init__(self, remote: RemoteLink, most: int | None = None) -> None:
        self.remote = remote
        self.most = most
        self._closing = threading.Event()

    def __call__(self, replica: Replica) -> None:
        """Bring a replica near the server's head.

        Raises:
            Unreachable: the server does not answer.
            TooLarge: its tables are.
            OSError: the copy cannot be written.
        """
        head, backend_id = self.remote.log()
        if backend_id is None:
            return
        lost = replica.backend_id == backend_id and replica.applied > head  # a torn end of the log
        known = replica.applied if replica.backend_id == backend_id and not lost else 0
        if head - known > NEAR and self._fetch(replica):
            return
        replica.begin(backend_id, anew=lost)

    def _fetch(self, replica: Replica) -> bool:
        """Take a copy of the server's tables; False if it has none to give."""
        with tempfile.TemporaryDirectory(prefix="agentstore-join-") as folder:
            try:
                copy = download(self.remote, Path(folder) / "state.duckdb", self._closing, self.most)
                replica.install(copy.path, copy.backend_id)
            except (NotFound, ForeignFile):  # a store in memory, or one that was reset meanwhile
                return False
        return True

    def close(self) -> None:
        """End a download that is under way."""
        self._closing.set()


def download(remote: RemoteLink, path: Path, closing: threading.Event, most: int | None = None) -> Copy:
    """Fetch a copy of a store's tables.

    A connection that breaks is opened again, and the download goes on where it was; it begins anew if the server has
    made another copy meanwhile.

    Args:
        remote: the way to the server.
        path: the file to write.
        closing: set by whoever no longer wants it.
        most: bytes that it may have; None for any number.

    Raises:
        TooLarge: it has more; nothing of it was fetched.
        NotFound: there is no such store, or it has no file.
        Unreachable: the server has not sent anything for as long as ``remote`` is patient.
        StoreClosed: ``closing`` was set.
        OSError: the file cannot be written.
    """
    import httpx

    progress = Progress(f"Fetching {remote.store_id}", "B")
    deadline = time.monotonic() + remote.patience
    tag, delay = "", 0.1
    try:
        with path.open("wb") as file:
            while True:
                before = file.tell()
                problem: Exception
                try:
                    headers = {"Range": f"bytes={before}-", "If-Range": tag} if before else {}
                    with remote.client().stream(
                        "GET", "/agentstore/snapshot", params={"storeId": remote.store_id}, headers=headers
                    ) as answer:
                        if answer.status_code >= 400:
                            answer.read()
                            raise remote.refusal(answer)
                        size = int(answer.headers["Content-Length"])
                        if most is not None and size > most:
                            raise TooLarge(f"its tables have {size / 1e9:.1f} GB")
                        tag = answer.headers.get("ETag", "")
                        _receive(answer, file, progress, closing)
                        return Copy(
                            path,
                            answer.headers["AgentStore-Backend-Id"],
                            int(answer.headers["AgentStore-Seq"]),
                        )
                except (httpx.TransportError, EOFError) as error:
                    problem = error
                except AgentStoreError as error:
                    if error.status not in (502, 503, 504):
                        raise
                    problem = error
                if file.tell() != before:
                    deadline, delay = time.monotonic() + remote.patience, 0.1
                if time.monotonic() + delay > deadline:
                    raise Unreachable(
                        f"The server does not send its copy of {remote.store_id!r}: {problem}"
                    ) from problem
                if closing.wait(delay * random.uniform(0.5, 1.0)):  # noqa: S311
                    raise StoreClosed("The store was closed while it was being joined.")
                delay = min(2 * delay, 2.0)
                remote.locate()
    finally:
        progress.close()


def _receive(answer: httpx.Response, file: BinaryIO, progress: Progress, closing: threading.Event) -> None:
    """Write what an answer holds; raises EOFError if it ends early."""
    if answer.status_code != 206:  # the whole of it
        file.seek(0)
        file.truncate()
    total = file.tell() + int(answer.headers["Content-Length"])
    for part in answer.iter_raw():
        file.write(part)
        progress.to(file.tell(), total)
        if closing.is_set():
            raise StoreClosed("The store was closed while it was being joined.")
    if file.tell() != total:
        raise EOFError(f"it ended after {file.tell():,} of {total:,} bytes")
