"""Files over REST: sending one in parts, and the copy of a store's tables that a new client begins with.

What belongs here: ranges, tags and headers. Making the copy is ``store``'s business.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from ..core.errors import NotFound
from .hooks import PullInfo
from .rest import Handler, operation

if TYPE_CHECKING:
    from ..store import Snapshot

MEDIA = "application/octet-stream"
_PART = 1_000_000
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")

_declared = partial(
    operation,
    action="read",
    media={MEDIA: "A DuckDB file with the tables; Agentstore-Seq says up to which event."},
    headers={
        "Range": "`bytes=<n>-`: from there on, answered with 206.",
        "If-Range": "An ETag: if the file is another one by now, all of it is sent.",
    },
    partial="The rest of the file.",
    errors={
        404: "There is no such store.",
        409: "The store is kept in memory: pull its events instead.",
        416: "The file is not as long as that.",
        507: "The disk is full.",
    },
)


class Tables(Handler):
    """``snapshot``."""

    @_declared("A copy of the store's tables, for a client to begin with; it may be some events behind")
    async def get(self) -> Any:
        await self._answer(whole=True)

    @_declared("What GET would answer, without the file")
    async def head(self) -> Any:
        await self._answer(whole=False)

    async def _answer(self, *, whole: bool) -> None:
        copy, file = await self._open()
        with file:
            first, last = self._range(copy)
            self._tag = copy.tag
            self.set_header("ETag", f'"{copy.tag}"')
            self.set_header("Accept-Ranges", "bytes")
            self.set_header("Agentstore-Seq", str(copy.seq))
            self.set_header("Agentstore-Backend-Id", copy.backend_id)
            self.set_header("Agentstore-Schema", copy.schema)
            if (first, last) != (0, copy.size):
                self.set_status(206)
                self.set_header("Content-Range", f"bytes {first}-{last - 1}/{copy.size}")
            if whole:
                file.seek(first)
                await send(self, file, last - first)
            else:
                self.set_header("Content-Length", str(last - first))
                await self.finish(set_content_type=MEDIA)

    async def _open(self) -> tuple[Snapshot, BinaryIO]:
        store_id = self.store_id
        await self.host.hooks.pull(PullInfo(store_id, self.actor, "snapshot"))

        def open_() -> tuple[Snapshot, BinaryIO]:
            store = self.stores.get(store_id, create=False)
            while True:
                copy = store.snapshot()
                try:
                    return copy, copy.path.open("rb")
                except FileNotFoundError:  # another one has just taken its place
                    continue

        try:
            return await self.host.copy(open_)
        except NotFound as error:
            raise NotFound(error.message, field="storeId") from None

    def _range(self, copy: Snapshot) -> tuple[int, int]:
        """The part that is wanted, as first byte and the one after the last.

        Raises:
            HTTPError: 416, it begins past the end.
        """
        asked = _RANGE.fullmatch(self.request.headers.get("Range", ""))
        if_range = self.request.headers.get("If-Range")
        if asked is None or (if_range is not None and if_range != f'"{copy.tag}"'):
            return 0, copy.size
        first = int(asked[1])
        last = min(int(asked[2]) + 1, copy.size) if asked[2] else copy.size
        if first >= copy.size:
            raise HTTPError(416, "The file has %d bytes.", copy.size)
        return (first, last) if first < last else (0, copy.size)

    def compute_etag(self) -> str | None:
        """The file's own tag, not one of what HEAD sends."""
        tag: str | None = getattr(self, "_tag", None)
        return f'"{tag}"' if tag else None


async def send(handler: Handler, file: BinaryIO, size: int) -> None:
    """Send so many bytes of a file as the answer, no faster than the client takes them."""
    handler.set_header("Content-Length", str(size))
    handler.set_header("Content-Type", MEDIA)
    try:
        while size and (part := await handler.host.call(file.read, min(size, _PART))):
            handler.write(part)
            await handler.flush()
            size -= len(part)
        await handler.finish(set_content_type=MEDIA)
    except StreamClosedError:
        return  # the client has gone
