"""A conversation as somebody in a notebook holds it.

What belongs here: saying things, waiting, reading, and the conversation's own state. Every call reads anew: other
people and the agent change the same conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING, Any

from ..core.errors import AgentStoreError, Conflict, InvalidRequest, NotFound
from ..core.events import replace_surrogates
from ..events import ConversationUpdated, MemoryAdded, MessageAdded, new_id
from .message import Message, Sent

if TYPE_CHECKING:
    import pandas

    from .link import Link
    from .store import Store

pane: Callable[[Conversation], Any] | None = None
"""Makes what a bare conversation at the end of a cell shows; ``widgets`` puts it here, which this room knows not."""

PAGE = 1_000
"""Messages that a link gives at once."""

SHOWN = 20
"""Messages of a conversation that its text form shows."""


class Conversation:
    """One conversation of a store. Get it from :meth:`~jupyter_agentstore.client.store.Store.conversation`.

    Attributes:
        id: the conversation's.
        store: the store it is in.
    """

    def __init__(self, store: Store, id: str) -> None:
        self.id = id
        self.store = store
        self._pane: Any = None

    @property
    def link(self) -> Link:
        """The way to the store."""
        return self.store.link

    # saying

    def send(self, text: str, *, id: str | None = None, patience: float | None = None) -> Sent:
        """Say something, as the user. It is durable on return.

        Args:
            text: what to say.
            id: the message's id; the same one with the same text is said once, however often it is sent.
            patience: seconds for which a server that does not answer is tried again; None for the usual time.

        Raises:
            InvalidRequest: there is no text.
            TypeError: it is something else than text.
            Conflict: the id belongs to another message.
            Unreachable: the server did not answer.
        """
        if not isinstance(text, str):
            raise TypeError(f"send() says text, not {type(text).__name__}.")
        if not text.strip():
            raise InvalidRequest("A message needs some text.", field="content")
        message = MessageAdded(id=id or new_id(), conversationId=self.id, role="user", content=text)
        try:
            receipt = self.store.commit(message, ConversationUpdated(id=self.id), patience=patience)
        except Conflict:
            row = self.link.row("messages", message.id) if id else None
            if row is None or (row["conversationId"], row["content"]) != (
                self.id,
                replace_surrogates(text),
            ):
                raise
            return Sent(self, message.id, text, row["seq"])
        except AgentStoreError as error:  # who says something knows of no other event
            error.message = error.message.removeprefix("Event 1: ")
            error.args = (error.message,)
            raise
        return Sent(self, message.id, text, receipt.seqs[0])

    def remember(self, *facts: str) -> None:
        """Have the agent know these facts in this conversation; all of them or, if one is refused, none."""
        if facts:
            self.store.commit(*(MemoryAdded(conversationId=self.id, fact=fact) for fact in facts))

    # reading

    @property
    def messages(self) -> pandas.DataFrame:
        """Everything said so far, in order, as a DataFrame."""
        return self.store.sql("select * from messages where conversationId = ? order by seq", [self.id]).df()

    def last(self, count: int = SHOWN) -> list[Message]:
        """The last messages, in order; none if ``count`` is not above 0."""
        count = index(count)
        if count <= 0:
            return []
        if count <= PAGE:
            return [Message.of(row) for row in self.link.messages(self.id, limit=count)]
        sql = "select * from messages where conversationId = ? order by seq desc limit ?"
        return [Message.of(row) for row in reversed(self.store.sql(sql, [self.id, count]).rows())]

    @property
    def facts(self) -> list[str]:
        """What the agent was told to remember, oldest first."""
        rows = self.store.sql(
            "select fact from conversationMemory where conversationId = ? order by createdAt, id", [self.id]
        ).rows()
        return [row["fact"] for row in rows]

    @property
    def details(self) -> dict[str, Any]:
        """The conversation's row: title, status, instructions, times."""
        row = self.link.row("conversations", self.id)
        if row is None:
            raise NotFound(f"There is no conversation {self.id!r} in the store {self.store.id!r}.")
        return row

    @property
    def title(self) -> str:
        """What it is called."""
        return str(self.details["title"])

    @property
    def status(self) -> str:
        """``active``, ``paused`` or ``archived``; the agent answers in active ones."""
        return str(self.details["status"])

    @property
    def waiting(self) -> bool:
        """Whether a reply of the agent's is awaited."""
        return self.link.row("pendingReplies", self.id) is not None

    # its state

    def pause(self) -> None:
        """Have the agent answer no more until :meth:`resume`."""
        self._set("paused")

    def resume(self) -> None:
        """Have the agent answer again, what was said meanwhile included."""
        self._set("active")

    def archive(self) -> None:
        """Put it away; :meth:`resume` brings it back."""
        self._set("archived")

    def _set(self, status: str) -> None:
        self.store.commit(ConversationUpdated(id=self.id, status=status))

    # showing

    def transcript(self, count: int = SHOWN) -> str:
        """The last messages as text."""
        said = [f"{message.author}: {message.content}" for message in self.last(count)]
        return "\n".join([f"{self.title} ({self.status})", *said])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if pane is None:
            return {"text/plain": self.transcript()}
        if self._pane is None or self._pane.closed:
            self._pane = pane(self)
        return self._pane._repr_mimebundle_(include=include, exclude=exclude)

    def __repr__(self) -> str:
        return f"<Conversation {self.id!r} in {self.store.id!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conversation) and (self.id, self.link) == (other.id, other.link)

    def __hash__(self) -> int:
        return hash((self.id, id(self.link)))
