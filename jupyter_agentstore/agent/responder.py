"""What the runtime asks of whoever writes the replies: a request in, a reply out.

What belongs here: the two values and the protocol. How a reply comes about is a responder's business; when one is
wanted, and what becomes of it, is the runtime's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core.operations import Row


@dataclass(frozen=True)
class Request:
    """A conversation that waits for a reply, as it stood when the runtime looked.

    Attributes:
        conversation: its row in ``conversations``.
        messages: its last messages (at most 200), oldest first; rows of ``messages``.
        waiting: the user's messages that nobody has answered yet, oldest first, at least one. One reply answers
            them all.
        facts: what its memory holds (at most the last 1,000), oldest first.
    """

    conversation: Row
    messages: Sequence[Row]
    waiting: Sequence[Row]
    facts: Sequence[str] = ()

    @property
    def message(self) -> Row:
        """The last of the waiting messages: the one that the reply says it answers."""
        return self.waiting[-1]


@dataclass(frozen=True)
class Reply:
    """What the agent says, and what there is to know about it.

    Attributes:
        content: the text.
        metadata: JSON values, such as ``model`` and ``tokens``; ``replyTo`` is added by the runtime.
    """

    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Responder(Protocol):
    """Writes replies."""

    async def reply(self, request: Request) -> Reply:
        """Answer the request's waiting messages.

        It is cancelled when the answer is no longer wanted (the conversation is paused, somebody else answered, the
        runtime stops). Whatever it raises counts as a failure, and it is asked again later.
        """
