"""The chat pane in a cell: a conversation's traits for the front end, and what the front end sends.

What belongs here: keeping the traits as the store is, and handing messages over. How it looks is the front end's
business (``labextension/``, built into ``static/``). The store's news come in other threads than the kernel's; all
traits are set by one thread at a time, under a lock, and sending a message waits in a thread of its own, so that
neither holds up the kernel.
"""

from __future__ import annotations

import html
import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..client import Conversation, Message, Store
from ..client.message import concern
from ..core.errors import AgentStoreError, StoreClosed, Unreachable
from ..core.events import Event
from ..core.limits import MAX_ID_CHARS

_log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"

SHOWN = 200
"""Messages that a pane shows, the last ones; a DataFrame has all."""

SAVED = 50
"""Messages that a notebook keeps as text, for whoever reads it without the pane."""

PATIENCE = 8.0
"""Seconds for which a message is tried to be sent before the reader is told that it was not."""

RETRY = 3.0
"""Seconds after which the pane looks again at a store that it could not read."""


class ChatPane(anywidget.AnyWidget):
    """A conversation to read and write in, live.

    Args:
        chat: the conversation; or a store, and then
        conversation: the id of its conversation. None for the one last touched, or a new one if there is none.

    Attributes:
        messages: the last ones, a dict each: ``id``, ``role``, ``content``, ``timestamp`` (ISO-8601), ``actor`` and
            ``agent``, whether an agent wrote it (whatever its role claims).
        thinking: whether a reply is awaited.
        title: the conversation's.
        status: ``connected``, ``connecting``, ``embedded`` or ``closed``.
        error: what is in the way, a sentence, or "".
        pending: what was written here and is not yet in the store.
        me: the user who reads and writes here, as the store knows them.
    """

    _esm = STATIC / "chat.js"
    _css = STATIC / "chat.css"

    messages: Any = traitlets.List().tag(sync=True)
    thinking: Any = traitlets.Bool(False).tag(sync=True)
    title: Any = traitlets.Unicode("").tag(sync=True)
    status: Any = traitlets.Unicode("connecting").tag(sync=True)
    error: Any = traitlets.Unicode("").tag(sync=True)
    pending: Any = traitlets.Int(0).tag(sync=True)
    me: Any = traitlets.Unicode("").tag(sync=True)

    closed = True  # until it is made; what could not be made has nothing to close

    def __init__(self, chat: Conversation | Store, conversation: str | None = None) -> None:
        self.conversation = _choose(chat, conversation)
        self.closed = False
        self._setting = threading.RLock()
        self._reading = threading.Condition()
        self._begun = self._done = 0  # readings of the store
        self._sending: set[str] = set()
        self._outgoing: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._news = threading.Event()
        super().__init__(me=self.conversation.link.user, **self._read())
        self.on_msg(self._received)
        self._unlisten = self.conversation.link.listen(self._heard)
        for name, run in (("news", self._follow), ("send", self._send_all)):
            threading.Thread(target=run, name=f"agentstore-pane-{name}", daemon=True).start()
        self._news.set()

    def close(self) -> None:
        """Take the pane away; the conversation stays."""
        if not self.closed:
            self.closed = True
            self._unlisten()
            self._news.set()
            self._outgoing.put(None)
        super().close()

    # what comes from the store

    def _heard(self, events: Sequence[Event]) -> None:
        if concern(events, self.conversation.id):
            self._news.set()

    def _follow(self) -> None:
        """Read again after every news."""
        failed = False
        while not self.closed:
            self._news.wait(RETRY if failed else None)
            self._news.clear()
            if self.closed:
                return
            self._refresh()
            failed = bool(self.error) or self.status == "connecting"

    def _refresh(self) -> None:
        with self._reading:
            self._begun += 1
        try:
            self._set({"status": self.conversation.link.state})
            self._set(self._read())
        except Exception:  # the kernel's way to the front end is gone, for now or for good
            _log.debug("The pane could not be brought up to date.", exc_info=True)
        finally:
            with self._reading:
                self._done = self._begun
                self._reading.notify_all()

    def refresh(self, timeout: float = 2.0) -> None:
        """Bring the traits up to date with the store, as far as that goes in a moment.

        Args:
            timeout: seconds to wait for a server that may be away.
        """
        with self._reading:
            wanted = self._begun + 1
            self._news.set()
            self._reading.wait_for(lambda: self._done >= wanted or self.closed, timeout)

    def _set(self, state: dict[str, Any]) -> None:
        with self._setting, self.hold_sync():
            for name, value in state.items():
                setattr(self, name, value)

    def _read(self) -> dict[str, Any]:
        """The traits as the store has them; what cannot be read stays as it is."""
        chat = self.conversation
        state: dict[str, Any] = {"status": chat.link.state, "error": ""}
        standing = chat.store.sync.standing
        if standing.status == "refused":
            state["error"] = f"The server does not take what was written here: {standing.error}"
        state["pending"] = len(self._sending) + standing.pending
        try:
            if state["status"] != "closed":
                state["messages"] = [_shown(message) for message in chat.last(SHOWN)]
                row = chat.details
                state["title"] = row["title"]
                state["thinking"] = row["status"] == "active" and chat.waiting
        except (StoreClosed, Unreachable):
            pass
        except AgentStoreError as error:
            state["error"] = error.message
        except Exception as error:  # whatever it is, the thread that reads must live on
            state["error"] = f"The conversation could not be read ({type(error).__name__}: {error})."
        state["status"] = chat.link.state
        if state["status"] == "closed":
            state["thinking"] = False
        return state

    # what comes from the front end

    def _received(self, _: Any, content: Any, buffers: Any) -> None:
        """In the kernel's thread: a message of the front end's."""
        if not isinstance(content, dict) or content.get("type") != "send":
            return
        id, text = content.get("id"), content.get("content")
        if not isinstance(id, str) or not 0 < len(id) <= MAX_ID_CHARS or not isinstance(text, str):
            return
        self._count(id, True)
        self._outgoing.put((id, text))

    def _send_all(self) -> None:
        while (entry := self._outgoing.get()) is not None:
            id, text = entry
            try:
                self.conversation.send(text, id=id, patience=PATIENCE)
            except AgentStoreError as error:
                answer = {"type": "failed", "id": id, "message": error.message}
            except Exception as error:
                answer = {"type": "failed", "id": id, "message": f"{type(error).__name__}: {error}"}
            else:
                answer = {"type": "sent", "id": id}
            try:
                self._count(id, False)
                with self._setting:
                    self.send(answer)
            except Exception:
                _log.debug("The front end could not be told.", exc_info=True)

    def _count(self, id: str, on_its_way: bool) -> None:
        with self._setting:
            (self._sending.add if on_its_way else self._sending.discard)(id)
            self.pending = len(self._sending) + self.conversation.store.sync.pending

    # what a cell shows, and a saved notebook keeps

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> Any:
        if not self.closed:
            self.refresh()
        bundle: Any = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data = {**data, "text/plain": self.transcript(), "text/html": self._html()}
        return data, metadata

    def __repr__(self) -> str:
        return f"<ChatPane of {self.conversation!r}, {self.status}>"

    def transcript(self) -> str:
        """The last messages as text."""
        said = [f"{_author(message)}: {message['content']}" for message in self._last()]
        return "\n".join([self.title, *said])

    def _html(self) -> str:
        said = "".join(
            f"<p><b>{html.escape(_author(message))}</b>: "
            f'<span style="white-space: pre-wrap">{html.escape(message["content"])}</span></p>'
            for message in self._last()
        )
        return f"<div><p><i>{html.escape(self.title)}</i></p>{said}</div>"

    def _last(self) -> list[dict[str, Any]]:
        return list(self.messages[-SAVED:])


def _choose(chat: Conversation | Store, conversation: str | None) -> Conversation:
    if isinstance(chat, Conversation):
        return chat
    if not isinstance(chat, Store):
        raise TypeError(f"ChatPane() shows a conversation or a store's, not {type(chat).__name__}.")
    if conversation is not None:
        return chat.conversation(conversation)
    known = chat.conversations
    return known[0] if known else chat.conversation()


def _shown(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "timestamp": message.timestamp.isoformat().replace("+00:00", "Z"),
        "actor": message.actor,
        "agent": message.by_agent,
    }


def _author(message: dict[str, Any]) -> str:
    """Who it is from: a claimed role never stands for the agent."""
    if message["agent"]:
        return "agent"
    role = str(message["role"])
    return role if role == "user" else f"{role} (by {message['actor']})"
