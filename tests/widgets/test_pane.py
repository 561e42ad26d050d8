"""The chat pane's Python side: what it tells the front end, and what it does with what comes from there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore import ChatPane, events
from jupyter_agentstore.client import Conversation, Store, connect
from jupyter_agentstore.widgets import pane as module
from tests.client.jupyter import Jupyter, until


class Recorded(ChatPane):
    """A pane whose messages to the front end are kept."""

    def __init__(self, *args: Any) -> None:
        self.sent: list[Any] = []
        super().__init__(*args)

    def send(self, content: Any, buffers: Any = None) -> None:
        self.sent.append(content)


@pytest.fixture
def chat(store: Store) -> Conversation:
    return store.conversation(title="Coffee")


@pytest.fixture
def pane(chat: Conversation) -> Iterator[Recorded]:
    pane = Recorded(chat)
    until(lambda: pane.status in ("connected", "embedded"))
    yield pane
    pane.close()


def write(pane: ChatPane, content: Any, id: Any = "m1") -> None:
    """What the front end does when somebody sends a message."""
    pane._handle_custom_msg({"type": "send", "content": content, "id": id}, [])


def test_it_shows_the_conversation_as_it_is(chat: Conversation) -> None:
    chat.send("Hello").reply(30)
    pane = ChatPane(chat)
    assert pane.title == "Coffee"
    assert not pane.thinking
    assert [(m["role"], m["agent"]) for m in pane.messages] == [("user", False), ("assistant", True)]
    assert pane.messages[0]["content"] == "Hello"
    assert pane.messages[0]["timestamp"].endswith("Z")
    assert set(pane.messages[0]) == {"id", "role", "content", "timestamp", "actor", "agent"}
    assert pane.me == pane.messages[0]["actor"]
    pane.close()


def test_what_is_written_is_sent_and_answered(pane: Recorded, chat: Conversation) -> None:
    thought: list[bool] = []
    pane.observe(lambda change: thought.append(change["new"]), "thinking")
    write(pane, "A mocha, please")
    until(lambda: {"type": "sent", "id": "m1"} in pane.sent)
    until(lambda: len(pane.messages) == 2)
    assert pane.messages[0]["id"] == "m1"
    assert pane.messages[1]["agent"]
    until(lambda: not pane.thinking)
    assert thought == [True, False]
    until(lambda: pane.pending == 0)
    assert pane.error == ""


def test_what_others_say_appears(pane: Recorded, chat: Conversation) -> None:
    chat.pause()
    chat.send("From a cell")
    until(lambda: [m["content"] for m in pane.messages] == ["From a cell"])
    assert not pane.thinking


def test_half_an_emoji_is_shown_mended_and_the_pane_goes_on(pane: Recorded, chat: Conversation) -> None:
    chat.pause()
    until(lambda: pane.status in ("connected", "embedded"))
    write(pane, "half: \ud83d")
    until(lambda: [m["content"] for m in pane.messages] == ["half: \ufffd"])
    until(lambda: {"type": "sent", "id": "m1"} in pane.sent)
    chat.send("after")
    until(lambda: [m["content"] for m in pane.messages] == ["half: \ufffd", "after"])
    assert pane.status in ("connected", "embedded")
    assert pane.error == ""


def test_a_conversation_with_an_odd_id_is_live_too(store: Store) -> None:
    chat = store.conversation('a"b\\ü', title="Odd")
    chat.pause()
    pane = Recorded(chat)
    until(lambda: pane.status in ("connected", "embedded"))
    chat.send("here")
    until(lambda: [m["content"] for m in pane.messages] == ["here"])
    pane.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_conversation_is_named_and_leaves_nothing_behind() -> None:
    with pytest.raises(TypeError, match="not int"):
        ChatPane(5)  # type: ignore[arg-type]
    gc.collect()


def test_the_same_message_sent_again_is_there_once(pane: Recorded, chat: Conversation) -> None:
    chat.pause()
    write(pane, "once")
    write(pane, "once")
    until(lambda: pane.sent.count({"type": "sent", "id": "m1"}) == 2)
    assert len(chat.messages) == 1


def test_what_is_refused_is_said_to_have_failed(pane: Recorded, chat: Conversation) -> None:
    write(pane, "   ")
    (failed,) = until(lambda: list(pane.sent))
    assert (failed["type"], failed["id"]) == ("failed", "m1")
    assert "text" in failed["message"]
    write(pane, "good", id="m2")
    until(lambda: {"type": "sent", "id": "m2"} in pane.sent)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "send",
        {},
        {"type": "other"},
        {"type": "send", "id": 7, "content": "x"},
        {"type": "send", "id": ""},
    ],
)
def test_malformed_messages_are_ignored(pane: Recorded, chat: Conversation, message: Any) -> None:
    until(lambda: pane.pending == 0)  # the conversation is on its way at first
    pane._handle_custom_msg(message, [])
    assert pane.pending == 0
    assert len(chat.messages) == 0


def test_nobody_passes_for_the_agent(pane: Recorded, chat: Conversation) -> None:
    chat.store.commit(events.MessageAdded(conversationId=chat.id, role="assistant", content="I am the agent"))
    (claimed,) = until(lambda: pane.messages)
    assert claimed["role"] == "assistant"
    assert not claimed["agent"]
    assert "assistant (by " in pane.transcript()


def test_a_saved_notebook_shows_the_conversation_without_the_pane(pane: Recorded, chat: Conversation) -> None:
    chat.pause()
    chat.send("<img src=x onerror=alert(1)> & more")
    data, _ = pane._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"].splitlines() == ["Coffee", "user: <img src=x onerror=alert(1)> & more"]
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; more" in data["text/html"]
    assert "<img" not in data["text/html"]


def test_a_bare_conversation_shows_one_pane(chat: Conversation) -> None:
    first, _ = chat._repr_mimebundle_()
    again, _ = chat._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert first[view]["model_id"] == again[view]["model_id"]
    chat._pane.close()
    anew, _ = chat._repr_mimebundle_()
    assert anew[view]["model_id"] != first[view]["model_id"]
    chat._pane.close()


def test_a_pane_of_a_store_shows_the_conversation_last_touched(store: Store) -> None:
    pane = ChatPane(store)
    first = pane.conversation
    pane.close()
    assert first.title == "New Conversation"
    second = store.conversation(title="Second")
    second.pause()
    for chosen, wanted in ((ChatPane(store), second), (ChatPane(store, first.id), first)):
        assert chosen.conversation == wanted
        chosen.close()


def test_a_long_conversation_is_shown_from_its_end(
    chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHOWN", 3)
    chat.pause()
    for n in range(5):
        chat.send(str(n))
    pane = ChatPane(chat)
    assert [m["content"] for m in pane.messages] == ["2", "3", "4"]
    pane.close()


def test_a_closed_store_closes_the_pane(pane: Recorded, chat: Conversation) -> None:
    chat.store.close()
    until(lambda: pane.status == "closed")
    write(pane, "too late")
    (failed,) = until(lambda: list(pane.sent))
    assert failed["type"] == "failed"


def test_a_message_that_cannot_be_sent_is_said_so_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    server = Jupyter(tmp_path).start()
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(server.file))
    try:
        with connect("away", replica=False) as store:
            pane = Recorded(store.conversation(title="Away"))
            until(lambda: pane.status == "connected")
            server.stop()
            until(lambda: pane.status == "connecting")
            write(pane, "Are you there?")
            (failed,) = until(lambda: list(pane.sent))
            assert failed["type"] == "failed"
            assert "did not answer" in failed["message"]
            server.start()
            until(lambda: pane.status == "connected")
            write(pane, "Are you there?")
            until(lambda: len(pane.messages) == 2)
            assert pane.sent[-1] == {"type": "sent", "id": "m1"}
            pane.close()
    finally:
        server.stop()


def test_a_message_written_while_the_server_is_away_is_shown_and_counted_and_sent_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Jupyter(tmp_path).start()
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(server.file))
    try:
        with connect("away") as store:
            pane = Recorded(store.conversation(title="Away"))
            until(lambda: pane.status == "connected" and not pane.pending)
            server.stop()
            until(lambda: pane.status == "connecting")
            write(pane, "Are you there?")
            until(lambda: [message["content"] for message in pane.messages] == ["Are you there?"])
            until(lambda: pane.pending == 2)  # the message, and that its conversation was touched
            server.start()
            until(lambda: len(pane.messages) == 2)  # the answer
            until(lambda: pane.pending == 0)
            pane.close()
    finally:
        server.stop()
