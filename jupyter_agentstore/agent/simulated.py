"""The responder that needs no network: it answers at once or after a short while, and shows that it has understood
whom it answers and what it remembers. It is there to try things out and to test with, not to be clever.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

from .memory import relevant
from .responder import Reply, Request

MODEL = "simulated"
_QUOTED = 120
"""Characters of a message, and of a fact, that a reply repeats."""

_OPENINGS = (
    "Good question, let me think it through.",
    "Going by our conversation so far, this is what I would say.",
    "I see what you are asking.",
    "That ties in with what we have talked about.",
    "I can help with that.",
)


class Simulated:
    """Answers by repeating the message and the facts that have to do with it.

    The wording and the wait depend on the message's id and on nothing else.

    Args:
        delay: the shortest and the longest wait before an answer, in seconds; ``(0, 0)`` answers at once.

    Raises:
        ValueError: a negative delay, or the longest is below the shortest.
    """

    def __init__(self, delay: tuple[float, float] = (1.0, 3.0)) -> None:
        shortest, longest = delay
        if not 0 <= shortest <= longest:
            raise ValueError(f"The delay {delay} must be two numbers of seconds, the smaller first.")
        self._shortest, self._longest = shortest, longest

    async def reply(self, request: Request) -> Reply:
        """Answer; see :class:`~jupyter_agentstore.agent.responder.Responder`."""
        chance = hashlib.sha256(request.message["id"].encode("utf-8", "replace")).digest()
        fraction = int.from_bytes(chance[:4]) / 2**32
        await asyncio.sleep(self._shortest + (self._longest - self._shortest) * fraction)
        parts = [_OPENINGS[chance[4] % len(_OPENINGS)]]
        quoted = ", ".join(f"“{_short(message['content'])}”" for message in request.waiting[-3:])
        parts.append(f"(Responding to: {quoted})")
        text = " ".join(message["content"] for message in request.waiting)
        facts = [_short(fact).rstrip(".") for fact in relevant(request.facts, text)]
        if facts:
            parts.append(f"I remember: {'; '.join(facts)}.")
        content = " ".join(parts)
        return Reply(content, {"model": MODEL, "tokens": len(content.split())})


def _short(text: str) -> str:
    """The text on one line, cut at a word if it is long."""
    line = re.sub(r"\s+", " ", text).strip()
    if len(line) <= _QUOTED:
        return line
    return line[:_QUOTED].rsplit(" ", 1)[0].rstrip() + "…"
