"""Conversations over REST: beginning one, saying something, remembering facts, reading what was said.

What belongs here: which events each call commits, and what it answers when it is sent a second time.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.agent_schema import is_privileged
from ..core.errors import Conflict, NotFound
from ..core.events import Meta, replace_surrogates
from ..core.operations import Insert, Row
from ..core.rows import iso, jsonable
from ..core.schema import Schema
from ..events import new_id
from ..store import Draft, draft
from .rest import Handler, operation
from .shapes import FLAG, TEXT, Chat, Facts, MessagePage, NewConversation, array, record, ref

if TYPE_CHECKING:
    from ..store import Store

DOOR = "rest"
_PAGE_CHARACTERS = 16_000_000


def derived_id(actor: str, commit_id: str, index: int = 0) -> str:
    """The id of what a commit makes: the same whenever the same user sends it."""
    text = f"{len(actor)} {actor} {commit_id} {index}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Conversing(Handler):
    """What the handlers of this file share."""

    @property
    def schema(self) -> Schema:
        """The deployment's schema."""
        return self.stores.schema

    def draft(self, name: str, args: dict[str, Any], commit_id: str | None) -> Draft:
        """An event to commit.

        Raises:
            NotFound: the deployment's schema has no such event.
            InvalidEvent: a field is wrong.
        """
        if name not in self.schema.events:
            raise NotFound(
                f"The stores of this server have no event {name}; POST events takes those they have."
            )
        return draft(self.schema, name, args, door=DOOR, commit_id=commit_id)

    async def row(self, store: Store, table: str, key: str) -> dict[str, Any] | None:
        """A row as JSON, or None."""
        found = await self.host.call(store.row, table, key)
        return None if found is None else self.jsonable(table, found)

    def jsonable(self, table: str, found: Row) -> dict[str, Any]:
        """A row as JSON."""
        return jsonable(self.schema.tables[table], found)


class Conversations(Conversing):
    """``conversations``."""

    @operation(
        "All conversations, the oldest first", "read", record(conversations=array(ref("conversations")))
    )
    async def get(self) -> Any:
        store = await self.existing()

        def listed() -> list[dict[str, Any]]:
            rows = store.rows("conversations", order="createdAt")
            return [self.jsonable("conversations", found) for found in rows]

        return {"conversations": await self.host.call(listed)}

    @operation(
        "Begin a conversation",
        "write",
        record(conversationId=TEXT, conversation=ref("conversations")),
        body=NewConversation,
        errors={409: "The id or commitId was used with other content."},
    )
    async def post(self, body: NewConversation) -> Any:
        # Its own id makes the call safe to repeat, too.
        commit_id = body.commitId or (f"id:{body.id}" if body.id and body.id.isascii() else None)
        made = derived_id(self.actor, commit_id) if commit_id else new_id()
        args = {
            "id": made if body.id is None else body.id,
            "userId": body.userId,
            "title": body.title,
            "personality": body.personality,
            "instructions": body.instructions,
        }
        args = {name: value for name, value in args.items() if value is not None}
        receipt = await self.commit([self.draft("v1.ConversationCreated", args, commit_id)], commit_id)
        begun = await self.host.call(self._begun, await self.existing(), receipt.seqs[0])
        return {"conversationId": args["id"], "conversation": begun}

    def _begun(self, store: Store, seq: int) -> dict[str, Any]:
        """The row that an event made. When the call is repeated, the row itself may have changed."""
        [event] = store.read(seq - 1, 1)
        said = event.decode()
        kind = self.schema.events[said.name]
        meta = Meta(event.seq, event.recorded_at, event.actor, said.clientId, said.sessionId)
        for step in kind.materialize(kind.read(said.args), meta):
            if isinstance(step, Insert) and step.table == "conversations":
                return self.jsonable("conversations", self.schema.tables["conversations"].complete(step.row))
        raise NotFound("The event made no conversation.")


class ChatMessage(Conversing):
    """``chat``."""

    @operation(
        "Say something; the agent answers what a user says",
        "write",
        record(success=FLAG, message=ref("messages")),
        body=Chat,
        errors={
            403: "Only who may execute may speak as 'assistant' or 'system'.",
            404: "There is no such conversation.",
            409: "The id or commitId was used with other content.",
        },
    )
    async def post(self, body: Chat) -> Any:
        made = derived_id(self.actor, body.commitId) if body.commitId else new_id()
        message = {
            "id": made if body.id is None else body.id,
            "conversationId": body.conversationId,
            "role": body.role,
            "content": body.content,
            "metadata": None,
        }
        if is_privileged("v1.MessageAdded", message):
            await self.allow("execute", self.store_id)
        touched = {"id": body.conversationId, "updatedAt": iso(time.time_ns() // 1_000_000)}
        drafts = [
            self.draft("v1.MessageAdded", message, body.commitId),
            self.draft("v1.ConversationUpdated", touched, body.commitId),
        ]
        try:
            await self.commit(drafts, body.commitId)
        except Conflict:
            # The time of the second event differs from the first attempt's, so the store finds other content:
            # what counts is the message.
            found = await self._said(message)
            if found is None:
                raise
        else:
            found = await self._said(message)
        answer = found or {**message, "timestamp": touched["updatedAt"], "actor": self.actor}
        return {"success": True, "message": {**answer, "content": body.content}}

    async def _said(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The message's row, if the caller said exactly this."""
        store = await self.existing()
        wanted = replace_surrogates({**message, "actor": self.actor})
        found = await self.row(store, "messages", wanted["id"])
        if found is None or any(found[name] != value for name, value in wanted.items()):
            return None
        return found


class Memory(Conversing):
    """``agent/memory``."""

    @operation(
        "Remember facts about a conversation, all or none",
        "write",
        record(success=FLAG),
        body=Facts,
        errors={
            404: "There is no such conversation.",
            409: "The commitId was used with other content.",
        },
    )
    async def post(self, body: Facts) -> Any:
        drafts = []
        for index, fact in enumerate(body.facts):
            made = derived_id(self.actor, body.commitId, index) if body.commitId else new_id()
            args = {"id": made, "conversationId": body.conversationId, "fact": fact}
            drafts.append(self.draft("v1.MemoryAdded", args, body.commitId))
        if drafts:
            await self.commit(drafts, body.commitId)
        elif await self.row(await self.existing(), "conversations", body.conversationId) is None:
            raise unknown(body.conversationId)
        return {"success": True}


class Messages(Conversing):
    """``messages``."""

    @operation(
        "What was said in a conversation, in order; fewer messages than asked for when they are long",
        "read",
        record(messages=array(ref("messages"))),
        query=MessagePage,
        errors={404: "There is no such conversation."},
    )
    async def get(self, page: MessagePage) -> Any:
        store = await self.existing()
        read = partial(store.tail, "messages", page.conversationId, after=page.after, limit=page.limit)
        rows = await self.host.call(read)
        if not rows and await self.row(store, "conversations", page.conversationId) is None:
            raise unknown(page.conversationId)
        return {
            "messages": [
                self.jsonable("messages", found) for found in within(rows, latest=page.after is None)
            ]
        }


def within(rows: list[Row], *, latest: bool, characters: int = _PAGE_CHARACTERS) -> list[Row]:
    """As many messages as make one answer, at least one; the last ones or the first ones."""
    size = 0
    for count, found in enumerate(reversed(rows) if latest else rows):
        size += len(found["content"])
        if size > characters and count:
            return rows[-count:] if latest else rows[:count]
    return rows


def unknown(conversation_id: str) -> NotFound:
    """There is no such conversation."""
    return NotFound(f"There is no conversation {conversation_id[:80]!r}.", field="conversationId")
