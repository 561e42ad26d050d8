"""Events for the tests of this room, each made of its number alone, so that a test knows what must come back."""

from __future__ import annotations

import hashlib
import json

from jupyter_agentstore.core.events import Event, wire

TIME = 1_700_000_000_000


def event(seq: int, *, size: int = 40, time: int | None = None, actor: str = "ada") -> Event:
    """Event number ``seq``, its content at least ``size`` characters that do not compress."""
    text = ""
    while len(text) < size:
        text += hashlib.sha256(f"{seq}/{len(text)}".encode()).hexdigest()
    args = json.dumps({"id": f"m{seq}", "content": text[: max(size, 1)]})
    body = wire("v1.MessageAdded", args, seq, "server", "rest")
    return Event(seq, TIME + seq if time is None else time, actor, body)


def events(first: int, last: int, *, size: int = 40) -> list[Event]:
    """Events ``first`` to ``last``."""
    return [event(seq, size=size) for seq in range(first, last + 1)]
