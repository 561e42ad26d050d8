"""From a waiting conversation to a request, and from a reply to a commit. Blocking calls on a store, in any thread.

What belongs here: what is read before an answer and what is written after it, and the rule that each message is
answered exactly once: a reply's id is derived from the message it answers, and the store's writer refuses a second
one. When to do either is the desk's business.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from ..core.agent_schema import AGENT, details
from ..core.errors import Conflict
from ..core.events import encode_args
from ..core.operations import Row
from ..store import Draft, Store, draft
from .responder import Reply, Request

_log = logging.getLogger(__name__)

MESSAGES = 200
FACTS = 1_000
_IDS = 8
_DOOR = "agent"


def reply_id(message_id: str, attempt: int = 0) -> str:
    """The id of the reply to a message.

    Args:
        message_id: of the message it answers.
        attempt: 0, unless somebody else's message has that id; then 1, and so on.
    """
    text = message_id if not attempt else f"{message_id}\n{attempt}"
    return "reply-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def gather(store: Store, conversation_id: str) -> Request | None:
    """What a responder needs to know, or None if the conversation waits for nobody or is not active."""
    pending = store.row("pendingReplies", conversation_id)
    conversation = store.row("conversations", conversation_id)
    if pending is None or conversation is None or conversation["status"] != "active":
        return None
    last = store.row("messages", pending["lastMessageId"])
    if last is None:
        return None
    messages = store.tail("messages", conversation_id, limit=MESSAGES)
    return Request(
        conversation,
        messages,
        [*(m for m in unanswered(messages, last["seq"]) if m["id"] != last["id"]), last],
        _facts(store, conversation_id),
    )


def _facts(store: Store, conversation_id: str) -> list[str]:
    """What the conversation's memory holds, oldest first."""
    if not store.count("conversationMemory"):  # most stores: spare them a query for each reply
        return []
    where = {"conversationId": conversation_id}
    rows = store.rows("conversationMemory", where, order="createdAt desc", limit=FACTS)
    return [row["fact"] for row in reversed(rows)]


def unanswered(messages: Sequence[Row], until: int) -> list[Row]:
    """The user's messages up to sequence number ``until`` that no reply has answered."""
    numbers = {message["id"]: message["seq"] for message in messages}
    asked, answered = [], 0
    for message in messages:
        about = details(message["metadata"])
        if about.get("imported"):
            continue
        if message["role"] == "user" and message["seq"] <= until:
            asked.append(message)
        elif message["role"] == "assistant":
            to = about.get("replyTo")
            answered = max(answered, numbers.get(to, 0) if isinstance(to, str) else message["seq"])
    return [message for message in asked if message["seq"] > answered]


def hand_in(store: Store, request: Request, reply: Reply, actor: str) -> bool:
    """Commit the reply, durably.

    Returns:
        Whether the message is answered now, by this reply or another one of an agent. False: the answer is no
        longer wanted, and nothing was written.

    Raises:
        InvalidEvent: the reply's text or metadata cannot be an event's.
        TooLarge: the reply is over the limit of one event.
        Conflict: all ids that the reply could have are taken by somebody else's messages.
        AgentStoreError, OSError: the store could not take it.
    """
    message_id = request.message["id"]
    for attempt in range(_IDS):
        if not wanted(store, request):
            return False
        reply_to = reply_id(message_id, attempt)
        try:
            store.commit(_drafts(store, request, reply, reply_to), actor=actor).result()
            return True
        except Conflict:
            # The usual reason is that another runtime was faster. But an id can be guessed, and a message that
            # somebody put there must not leave the conversation without an answer.
            taken = store.row("messages", reply_to)
            if taken is not None and _answers(taken, message_id):
                return True
            _log.warning("%s: the id %s is taken by a message that is no reply.", store.id, reply_to)
    raise Conflict(f"Every id for a reply to {message_id} is taken.", field="id")


def wanted(store: Store, request: Request) -> bool:
    """Whether the request's conversation is active and its message still without an answer."""
    conversation_id, message = request.conversation["id"], request.message
    conversation = store.row("conversations", conversation_id)
    pending = store.row("pendingReplies", conversation_id)
    if conversation is None or conversation["status"] != "active" or pending is None:
        return False
    if pending["lastMessageId"] == message["id"]:
        return True
    messages = store.tail(
        "messages", conversation_id, limit=MESSAGES
    )  # a later one waits: does this one, too?
    if messages and messages[0]["seq"] > message["seq"]:
        return True  # too long ago to tell
    return any(other["id"] == message["id"] for other in unanswered(messages, message["seq"]))


def _answers(message: Row, message_id: str) -> bool:
    """Whether a message is an agent's reply to another."""
    by_agent: bool = message["actor"].startswith(AGENT)
    return by_agent and details(message["metadata"]).get("replyTo") == message_id


def _drafts(store: Store, request: Request, reply: Reply, reply_to: str) -> list[Draft]:
    conversation_id = request.conversation["id"]
    metadata: dict[str, Any] = {**reply.metadata, "replyTo": request.message["id"]}
    metadata.pop("imported", None)  # an imported message answers nobody
    message = {
        "id": reply_to,
        "conversationId": conversation_id,
        "role": "assistant",
        "content": reply.content,
        "metadata": encode_args(metadata),
    }
    touched = {"id": conversation_id, "updatedAt": time.time_ns() // 1_000_000}
    return [
        draft(store.schema, "v1.MessageAdded", message, door=_DOOR),
        draft(store.schema, "v1.ConversationUpdated", touched, door=_DOOR),
    ]
