"""The paths of the extension, and the calls about the server and its stores as a whole."""

from __future__ import annotations

from typing import Any

from tornado.web import HTTPError

from .._version import __version__
from .backup import Backup
from .base import Access
from .conversations import ChatMessage, Conversations, Memory, Messages
from .download import Tables
from .events import Events
from .query import OneRow, Sql, TableRows
from .rest import Handler, operation
from .shapes import FLAG, NUMBER, TEXT, TIME, array, nullable, record

PREFIX = "/agentstore"


class Status(Handler):
    """``agent/status``."""

    @operation(
        "What the agent is doing, and how much there is; in constant time",
        "read",
        record(
            isThinking=FLAG,
            currentTask=nullable(TEXT),
            lastActivity=nullable(TIME),
            totalMessages=NUMBER,
            activeConversations=NUMBER,
            conversationCount=NUMBER,
            messageCount=NUMBER,
            memoryUsage=NUMBER,
        ),
    )
    async def get(self) -> Any:
        store = await self.existing()
        return await self.host.call(store.status)


class Stores(Handler):
    """``stores``."""

    @operation(
        "The stores that the caller may read", None, record(stores=array(record(id=TEXT))), store=False
    )
    async def get(self) -> Any:
        ids = await self.host.call(self.stores.ids)
        return {"stores": [{"id": name} for name in ids if await self.may("read", name)]}


class Health(Handler):
    """``health``."""

    _track_activity = False

    @operation(
        "Whether the extension is up, and which events and tables its stores have",
        None,
        record(status=TEXT, version=TEXT, schema=TEXT),
        store=False,
    )
    async def get(self) -> Any:
        # A server that cannot answers 503 before it comes here.
        return {"status": "ok", "version": __version__, "schema": self.stores.schema.hash}


class Description(Handler):
    """``openapi.json``."""

    @operation("This description", None, {"type": "object"}, store=False)
    async def get(self) -> Any:
        from .openapi import describe

        return describe(self.stores.schema, f"{self.base_url.rstrip('/')}{PREFIX}")


class Nowhere(Handler):
    """Any other path."""

    async def _none(self, *_: Any) -> None:
        self.refuse_late()
        raise HTTPError(404, "There is nothing at this address.")

    get = head = post = put = patch = delete = _none


ROUTES: tuple[tuple[str, type[Handler]], ...] = (
    ("conversations", Conversations),
    ("chat", ChatMessage),
    ("agent/status", Status),
    ("agent/memory", Memory),
    ("messages", Messages),
    ("events", Events),
    ("query", Sql),
    ("row", OneRow),
    ("tables/{name}", TableRows),
    ("backup", Backup),
    ("snapshot", Tables),
    ("stores", Stores),
    ("health", Health),
    ("openapi.json", Description),
)
"""Each path under the prefix, as OpenAPI writes it, and its handler."""


def handlers() -> list[tuple[str, type[Access]]]:
    """What the extension adds to the server's web application."""
    from .websocket import SyncHandler

    found: list[tuple[str, type[Access]]] = [(f"{PREFIX}/websocket", SyncHandler)]
    for path, handler in ROUTES:
        pattern = path.replace(".", r"\.").replace("{name}", "([^/]+)")
        found.append((f"{PREFIX}/{pattern}", handler))
    return [*found, (f"{PREFIX}(?:/.*)?", Nowhere)]
