"""A message as a value, and a message that was just sent and waits for its reply.

What belongs here: reading a row of ``messages``, showing it, and which later message answers which.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..core.agent_schema import AGENT, details
from ..core.errors import ReplyTimeout
from ..core.events import Event

if TYPE_CHECKING:
    from .conversation import Conversation

_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")

LOOK = 2.0
"""Seconds after which a waiting reader looks for itself, should news not come through."""


@dataclass(frozen=True)
class Message:
    """Somebody said something.

    Attributes:
        id: the message's.
        conversation_id: where it was said.
        role: ``user``, ``assistant`` or ``system``: what its author claims.
        content: the text.
        timestamp: when the store took it, in UTC.
        actor: who committed it: what the store knows.
        metadata: what else its author says of it.
        seq: its place in the store's order.
    """

    id: str
    conversation_id: str
    role: str
    content: str
    timestamp: datetime
    actor: str
    metadata: dict[str, Any] = field(default_factory=dict)
    seq: int = 0

    @classmethod
    def of(cls, row: dict[str, Any]) -> Message:
        """A row of the table ``messages`` as a message."""
        at = row["timestamp"]
        return cls(
            id=row["id"],
            conversation_id=row["conversationId"],
            role=row["role"],
            content=row["content"],
            timestamp=at if isinstance(at, datetime) else datetime.fromisoformat(at),
            actor=row["actor"],
            metadata=details(row["metadata"]),
            seq=row["seq"],
        )

    @property
    def by_agent(self) -> bool:
        """Whether an agent wrote it, which nobody else can claim."""
        return self.actor.startswith(AGENT)

    @property
    def author(self) -> str:
        """Who it is from, for a person to read: a claimed role never stands for the agent."""
        if self.by_agent:
            return "agent"
        return self.role if self.role == "user" else f"{self.role} (by {self.actor})"

    def __str__(self) -> str:
        return self.content

    def __repr__(self) -> str:
        said = textwrap.shorten(self.content, 200, placeholder=" …")
        return f"<{self.author}, {self.timestamp:%H:%M:%S}: {said}>"

    def _repr_html_(self) -> str:
        # No Markdown: a notebook trusts what its own cells show, and would run the scripts in it.
        return (
            f"<b>{html.escape(self.author)}</b><br>"
            f'<span style="white-space: pre-wrap">{html.escape(self.content)}</span>'
        )


class Sent:
    """A message that is in the store. :meth:`reply` waits for the answer to it.

    Attributes:
        id: the message's id.
        content: what was said.
        seq: its place in the store's order.
    """

    def __init__(self, conversation: Conversation, id: str, content: str, seq: int) -> None:
        self.id = id
        self.content = content
        self.seq = seq
        self._conversation = conversation

    def __repr__(self) -> str:
        said = textwrap.shorten(self.content, 60, placeholder=" …")
        return f"<Sent: {said}; .reply() waits for the answer>"

    def reply(self, timeout: float = 60.0) -> Message:
        """Wait for the agent's answer. An interrupt ends the waiting, not the agent's work.

        Args:
            timeout: seconds to wait.

        Raises:
            ReplyTimeout: none came in this time.
        """
        if not isinstance(timeout, Real) or math.isnan(timeout):
            raise TypeError(f"reply() waits a number of seconds, not {timeout!r}.")
        link = self._conversation.link
        news = threading.Event()

        def listener(events: Sequence[Event]) -> None:
            if concern(events, self._conversation.id):
                news.set()

        deadline = time.monotonic() + timeout
        unlisten = link.listen(listener)
        try:
            while True:
                news.clear()
                answer = self._answer()
                if answer is not None:
                    return answer
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ReplyTimeout(self._why(timeout))
                news.wait(min(left, LOOK))
        finally:
            unlisten()

    def _answer(self) -> Message | None:
        """The first agent's message since that answers this one, or later ones together with it."""
        after = self.seq
        since = {self.id}
        while rows := self._conversation.link.messages(self._conversation.id, after=after):
            for message in map(Message.of, rows):
                answered = message.metadata.get("replyTo")
                if message.by_agent and (answered is None or answered in since):
                    return message
                since.add(message.id)
                after = message.seq
        return None

    def _why(self, timeout: float) -> str:
        """What to say when no reply came."""
        row = self._conversation.link.row("conversations", self._conversation.id)
        if row is not None and row["status"] != "active":
            return (
                f"No reply within {timeout:g} s: the conversation is {row['status']}, and the agent answers active "
                "ones only. chat.resume() makes it active."
            )
        if self._conversation.waiting:
            return (
                f"No reply within {timeout:g} s; the agent is still expected to answer. Wait longer with "
                ".reply(timeout=…), or see chat.messages later."
            )
        return (
            f"No reply within {timeout:g} s, and none is awaited any more: somebody other than the agent may have "
            "answered. See chat.messages."
        )


def concern(events: Sequence[Event], conversation: str) -> bool:
    """Whether news may be of a conversation. It is said at a glance: true too often, never too seldom."""
    if not events or not _PLAIN.fullmatch(conversation):  # JSON may write other characters in several ways
        return True
    return any(conversation in event.body for event in events)


def now() -> int:
    """Milliseconds since 1970, for ``updatedAt``."""
    return round(datetime.now(UTC).timestamp() * 1000)
