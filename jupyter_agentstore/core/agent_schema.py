"""The built-in schema: an agent's conversations, messages, memory, and who waits for a reply.

Names, defaults and fields are those of the LiveStore example that this package grew out of, so that its web and
mobile apps work unchanged. New event types are added beside these, never by changing them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from .events import Meta
from .operations import Delete, Insert, Operation, Update, Upsert
from .schema import Column, EventType, Field, Schema, Table

VERSION = 1
"""Raise it when a materializer below changes what it does; a golden log in the tests notices."""

AGENT = "agent:"
"""What the actor of every event by an agent begins with; nobody else's may."""

ROLES = ("user", "assistant", "system")
PRIVILEGED = ("assistant", "system")
"""Roles in which only some may speak."""

STATUSES = ("active", "paused", "archived")
TITLE = "New Conversation"
PERSONALITY = "helpful and friendly"
INSTRUCTIONS = "Be helpful and accurate"

TABLES = (
    Table(
        "conversations",
        (
            Column("id", "id"),
            Column("userId", "text"),
            Column("title", "text", ""),
            Column("createdAt", "timestamp"),
            Column("updatedAt", "timestamp"),
            Column("personality", "text", PERSONALITY),
            Column("instructions", "text", INSTRUCTIONS),
            Column("status", "text", "active"),
        ),
        tally="status",
        sized=True,
    ),
    Table(
        "messages",
        (
            Column("id", "id"),
            Column("conversationId", "id"),
            Column("role", "text"),
            Column("content", "text"),
            Column("timestamp", "timestamp"),
            Column("metadata", "json", nullable=True),
            Column("seq", "integer"),
            Column("actor", "text"),
        ),
        group="conversationId",
        sized=True,
    ),
    Table(
        "conversationMemory",
        (
            Column("id", "id"),
            Column("conversationId", "id"),
            Column("fact", "text"),
            Column("createdAt", "timestamp"),
        ),
    ),
    Table(
        "pendingReplies",
        (Column("conversationId", "id"), Column("lastMessageId", "id"), Column("seq", "integer")),
        key="conversationId",
    ),
)


def conversation_created(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    """Insert the conversation, empty texts replaced by their defaults."""
    return (
        Insert(
            "conversations",
            {
                "id": fields["id"],
                "userId": fields["userId"],
                "title": fields["title"] or TITLE,
                "createdAt": meta.recorded_at,
                "updatedAt": meta.recorded_at,
                "personality": fields["personality"] or PERSONALITY,
                "instructions": fields["instructions"] or INSTRUCTIONS,
                "status": "active",
            },
        ),
    )


def message_added(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    """Insert the message, and say whether its conversation now waits for a reply."""
    message = Insert(
        "messages",
        {
            "id": fields["id"],
            "conversationId": fields["conversationId"],
            "role": fields["role"],
            "content": fields["content"],
            "timestamp": meta.recorded_at,
            "metadata": fields["metadata"],
            "seq": meta.seq,
            "actor": meta.actor,
        },
    )
    role = fields["role"]
    about = details(fields["metadata"])
    if role == "system" or about.get("imported"):
        return (message,)
    conversation = fields["conversationId"]
    if role == "user":
        waiting = {"conversationId": conversation, "lastMessageId": fields["id"], "seq": meta.seq}
        return (message, Upsert("pendingReplies", waiting))
    answered = about.get("replyTo")
    if_ = {"lastMessageId": answered} if isinstance(answered, str) else None
    return (message, Delete("pendingReplies", conversation, if_))


def is_privileged(name: str, args: Any) -> bool:
    """Whether an event speaks for the agent or the system, which takes the right to ``execute``.

    Args:
        name: the event's type.
        args: its fields, whatever they are.
    """
    return name == "v1.MessageAdded" and isinstance(args, dict) and args.get("role") in PRIVILEGED


def details(metadata: str | None) -> dict[str, Any]:
    """A message's ``metadata`` as an object; empty when it is absent or none."""
    if not metadata:
        return {}
    try:
        value = json.loads(metadata)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def memory_added(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    """Insert the fact."""
    return (
        Insert(
            "conversationMemory",
            {
                "id": fields["id"],
                "conversationId": fields["conversationId"],
                "fact": fields["fact"],
                "createdAt": meta.recorded_at,
            },
        ),
    )


def conversation_updated(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    """Set when the conversation was last touched and, if given, its status."""
    values: dict[str, Any] = {"updatedAt": fields["updatedAt"]}
    if fields["status"] is not None:
        values["status"] = fields["status"]
    return (Update("conversations", fields["id"], values),)


EVENTS = (
    EventType(
        "v1.ConversationCreated",
        (
            Field("id", "id"),
            Field("userId", "text"),
            Field("title", "text", required=False, nullable=True, blank=TITLE),
            Field("personality", "text", required=False, nullable=True, blank=PERSONALITY),
            Field("instructions", "text", required=False, nullable=True, blank=INSTRUCTIONS),
        ),
        conversation_created,
        unique=("conversations", "id"),
    ),
    EventType(
        "v1.MessageAdded",
        (
            Field("id", "id"),
            Field("conversationId", "id"),
            Field("role", "text", choices=ROLES),
            Field("content", "text"),
            Field("metadata", "json", required=False, nullable=True, blank=None),
        ),
        message_added,
        unique=("messages", "id"),
        requires=(("conversations", "conversationId"),),
    ),
    EventType(
        "v1.MemoryAdded",
        (Field("id", "id"), Field("conversationId", "id"), Field("fact", "text")),
        memory_added,
        unique=("conversationMemory", "id"),
        requires=(("conversations", "conversationId"),),
    ),
    EventType(
        "v1.ConversationUpdated",
        (
            Field("id", "id"),
            Field("updatedAt", "timestamp"),
            Field("status", "text", required=False, nullable=True, choices=STATUSES, blank=UNSET),
        ),
        conversation_updated,
        requires=(("conversations", "id"),),
    ),
)

agent_schema = Schema(VERSION, TABLES, EVENTS)
"""The schema of a store unless a deployment brings its own."""
