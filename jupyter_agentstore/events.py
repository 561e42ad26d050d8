"""The agent schema's events as typed values, for ``store.commit(...)``.

Times are milliseconds since 1970 UTC. ``id`` is made at random where it is left out.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec

from .core.agent_schema import INSTRUCTIONS, PERSONALITY


def new_id() -> str:
    """A fresh id: 32 hex digits, random."""
    return uuid.uuid4().hex


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the typed events: ``name`` and ``args`` are what goes into the log."""

    @property
    def name(self) -> str:
        """The event type's name, such as ``v1.MessageAdded``."""
        return f"v1.{type(self).__name__}"

    @property
    def args(self) -> dict[str, Any]:
        """The event's fields."""
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not msgspec.UNSET}


class ConversationCreated(AgentEvent, frozen=True, kw_only=True):
    """A conversation begins; an empty title becomes 'New Conversation'."""

    id: str = msgspec.field(default_factory=new_id)
    userId: str
    title: str = ""
    personality: str = PERSONALITY
    instructions: str = INSTRUCTIONS


class MessageAdded(AgentEvent, frozen=True, kw_only=True):
    """Somebody said something. ``metadata`` is JSON text or None."""

    id: str = msgspec.field(default_factory=new_id)
    conversationId: str
    role: str
    content: str
    metadata: str | None = None


class MemoryAdded(AgentEvent, frozen=True, kw_only=True):
    """A fact to remember about a conversation."""

    id: str = msgspec.field(default_factory=new_id)
    conversationId: str
    fact: str


class ConversationUpdated(AgentEvent, frozen=True, kw_only=True):
    """A conversation was touched at ``updatedAt`` (milliseconds), or its status changes."""

    id: str
    updatedAt: int = msgspec.field(default_factory=lambda: time.time_ns() // 1_000_000)
    status: str | msgspec.UnsetType = msgspec.UNSET


__all__ = [
    "AgentEvent",
    "ConversationCreated",
    "ConversationUpdated",
    "MemoryAdded",
    "MessageAdded",
    "new_id",
]
