"""A backup of a store that this server has open, over REST.

What belongs here: handing the store's events to ``eventlog.backup`` and the file to the client. Files of stores that
nobody has open are ``cli``'s business.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import NotFound
from .download import MEDIA, send
from .rest import Handler, operation

if TYPE_CHECKING:
    from ..core.events import Event
    from ..eventlog import EventLog
    from ..store import Store


class Backup(Handler):
    """``backup``."""

    @operation(
        "A backup of the store's events, up to the head at the start; commits go on meanwhile",
        "execute",
        media={MEDIA: "A file that `jupyter agentstore restore` takes."},
        errors={404: "There is no such store."},
    )
    async def get(self) -> Any:
        store_id = self.store_id
        try:
            store = await self.host.call(lambda: self.stores.get(store_id, create=False))
        except NotFound as error:
            raise NotFound(error.message, field="storeId") from None
        with tempfile.TemporaryDirectory(prefix="agentstore-") as folder:
            path = Path(folder) / "backup.duckdb"
            size = await self.host.copy(_write, store, path)
            self.set_attachment_header(f"{store.id}.duckdb")
            with path.open("rb") as file:
                await send(self, file, size)


class OpenLog:
    """A store's log as a backup reads it, while the store goes on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.backend_id = store.backend_id
        self.head = store.head

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        """As :meth:`EventLog.read`."""
        return self._store.read(after, limit, max_bytes)

    def scan(self, after: int = 0, size: int = 10_000, *, end: int | None = None) -> Iterator[list[Event]]:
        """As :meth:`EventLog.scan`."""
        from ..eventlog.contract import PAGE_BYTES

        end = self.head if end is None else end
        while after < end:
            page = self.read(after, min(size, end - after), PAGE_BYTES)
            yield page
            after = page[-1].seq


def _write(store: Store, path: Path) -> int:
    """Write the backup; its size in bytes."""
    from ..eventlog.backup import backup

    with store.hold():
        backup(cast("EventLog", OpenLog(store)), path)
    return path.stat().st_size
