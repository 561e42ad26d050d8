"""What is told of a store at a glance: counts, and what the agent is doing.

What belongs here: the one way to put it together, in constant time, for tables of the store's own and for a client's.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Protocol

from ..core.rows import iso


class Counted(Protocol):
    """Tables that know their numbers without looking."""

    def count(self, table: str) -> int:
        """How many rows it has."""

    def tally(self, table: str) -> dict[str, int]:
        """How many rows have each value of its tally column."""

    def size(self, table: str) -> int:
        """The bytes of its rows as JSON."""


def status(counted: Counted, tables: Container[str], agent: Mapping[str, Any], last: int) -> dict[str, Any]:
    """What ``GET agent/status`` answers.

    Args:
        counted: the tables.
        tables: the names of those that there are.
        agent: what the agent is doing: ``isThinking``, ``currentTask``, ``lastActivity`` in milliseconds.
        last: when the last event was recorded, milliseconds; 0 if there is none.
    """
    conversations = counted.count("conversations") if "conversations" in tables else 0
    messages = counted.count("messages") if "messages" in tables else 0
    last = max(agent["lastActivity"] or 0, last)
    return {
        "isThinking": agent["isThinking"],
        "currentTask": agent["currentTask"],
        "lastActivity": iso(last) if last else None,
        "totalMessages": messages,
        "activeConversations": (
            counted.tally("conversations").get("active", 0) if "conversations" in tables else 0
        ),
        "conversationCount": conversations,
        "messageCount": messages,
        "memoryUsage": sum(counted.size(name) for name in ("conversations", "messages") if name in tables),
    }
