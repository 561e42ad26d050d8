"""Drafts of the agent schema's events, for tests that commit to a store directly."""

from __future__ import annotations

from typing import Any

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.store import Draft, draft


def conversation(id: str, **more: Any) -> Draft:
    args = {"id": id, "userId": "ada", "title": "Coffee", **more}
    return draft(agent_schema, "v1.ConversationCreated", args, door="python")


def message(
    id: str,
    conversation: str = "c",
    content: str = "A mocha",
    *,
    commit_id: str | None = None,
    **more: Any,
) -> Draft:
    args = {"id": id, "conversationId": conversation, "role": "user", "content": content, **more}
    return draft(agent_schema, "v1.MessageAdded", args, door="python", commit_id=commit_id)
