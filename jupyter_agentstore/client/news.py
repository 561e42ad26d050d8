"""What a server tells that is in no log: who is there, and what the agent does.

What belongs here: reading such news as far as they can be understood; a server may say more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def hear(values: Sequence[Mapping[str, Any]], present: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Bring up to date who is there."""
    for value in values:
        if value.get("kind") == "presence":
            key = str(value.get("clientId")), str(value.get("sessionId"))
            if value.get("state") is None:
                present.pop(key, None)
            else:
                present[key] = {
                    name: value.get(name) for name in ("actor", "clientId", "sessionId", "state", "at")
                }


def agent_state(state: Any) -> dict[str, Any]:
    """What the agent is doing: ``isThinking``, ``currentTask``, ``lastActivity`` in milliseconds."""
    said = state if isinstance(state, Mapping) else {}
    task, last = said.get("currentTask"), said.get("lastActivity")
    try:
        at = None if last is None else round(datetime.fromisoformat(last).timestamp() * 1000)
    except (ValueError, TypeError):
        at = None
    return {
        "isThinking": said.get("isThinking") is True,
        "currentTask": task if isinstance(task, str) else None,
        "lastActivity": at,
    }
