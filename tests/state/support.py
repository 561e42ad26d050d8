"""Events for states, and what tests ask of them."""

from __future__ import annotations

import json
from typing import Any

from jupyter_agentstore.core.events import Event, wire
from jupyter_agentstore.state.state import State


def event(seq: int, name: str, args: Any, *, actor: str = "ann", session: str = "s") -> Event:
    """An event as a log would have it; ``args`` may be JSON text already."""
    text = args if isinstance(args, str) else json.dumps(args)
    body = wire(name, text, seq, "server" if session.startswith("commit:") else "client", session)
    return Event(seq, 1_700_000_000_000 + seq, actor, body)


def created(seq: int, id: str = "c1", **more: Any) -> Event:
    """A conversation begins."""
    return event(seq, "v1.ConversationCreated", {"id": id, "userId": "u", **more})


def said(seq: int, id: str, content: str = "hello", conversation: str = "c1", **more: Any) -> Event:
    """Somebody says something."""
    args = {"id": id, "conversationId": conversation, "role": "user", "content": content, **more}
    return event(seq, "v1.MessageAdded", args)


def query(state: State, sql: str) -> list[tuple[Any, ...]]:
    """What a reader finds once everything is written."""
    state.flush()
    with state.reader() as cursor:
        return cursor.execute(sql).fetchall()
