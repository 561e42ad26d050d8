"""Tables over REST: SQL, and whole tables for DataFrames.

What belongs here: running queries in threads of their own and writing what they give. What SQL may do is decided by
``state``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from ..core.rows import jsonable
from .rest import ARROW, Handler, operation
from .shapes import FLAG, NUMBER, TEXT, Query, RowKey, array, nullable, record

if TYPE_CHECKING:
    import pyarrow

    from ..store import Answer

_ROWS = 16_384  # of a table that is sent in parts


class Sql(Handler):
    """``query``."""

    @operation(
        "Run one read-only SQL statement over the store's tables",
        "read",
        record({"stale": FLAG}, columns=array(TEXT), rows=array({"type": "object"}), seq=NUMBER),
        body=Query,
        media={
            ARROW: "The rows as an Arrow stream; the headers Agentstore-Seq and Agentstore-Stale say the rest."
        },
        errors={
            408: "The statement ran too long and was interrupted.",
            503: "The tables are being rebuilt and do not reach 'atLeast' yet.",
        },
    )
    async def post(self, body: Query) -> Any:
        store = await self.existing()
        run = partial(store.query, body.sql, body.params, self.host.limits, at_least=body.atLeast)
        answer: Answer = await self.host.query(run)
        if ARROW not in self.request.headers.get("Accept", ""):
            rows = await self.host.call(_rows, answer.table)
            stale = {"stale": True} if answer.stale else {}
            return {"columns": answer.table.column_names, "rows": rows, "seq": answer.seq, **stale}
        self.set_header("Agentstore-Seq", str(answer.seq))
        self.set_header("Agentstore-Stale", "true" if answer.stale else "false")
        await send(self, answer.table)
        return None


class TableRows(Handler):
    """``tables/<name>``."""

    @operation(
        "A whole table as an Arrow stream",
        "read",
        media={ARROW: "The rows, sent in parts."},
        errors={404: "There is no such table."},
    )
    async def get(self, name: str) -> Any:
        store = await self.existing()
        await send(self, await self.host.query(store.table, name))


class OneRow(Handler):
    """``row``."""

    @operation(
        "One row by its key, or null; times as text",
        "read",
        record(row=nullable({"type": "object"})),
        query=RowKey,
        errors={404: "There is no such table."},
    )
    async def get(self, which: RowKey) -> Any:
        store = await self.existing()
        found = await self.host.call(store.row, which.table, which.key)
        return {"row": None if found is None else jsonable(store.schema.tables[which.table], found)}


async def send(handler: Handler, table: pyarrow.Table) -> None:
    """Send a table as an Arrow stream, part after part, no faster than the client takes it."""
    parts = arrow_parts(table)
    begun = False
    try:
        while (part := await handler.host.call(next, parts, None)) is not None:
            handler.set_header("Content-Type", ARROW)
            handler.write(part)
            await handler.flush()
            begun = True
        await handler.finish(set_content_type=ARROW)
    except StreamClosedError:
        return  # the client has gone
    except Exception:
        if begun:  # too late to say so with a status; a stream that ends in order would look whole
            cast(HTTP1Connection, handler.request.connection).close()
        raise


def arrow_parts(table: pyarrow.Table) -> Iterator[bytes]:
    """A table as the pieces of an Arrow stream."""
    import pyarrow

    buffer = io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=_ROWS):
            writer.write_batch(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _rows(table: pyarrow.Table) -> list[dict[str, Any]]:
    from ..state.query import to_json

    return to_json(table)
