"""What a store makes of inputs that are wrong, odd or many, the same whichever way it is reached."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jupyter_agentstore
from jupyter_agentstore import events
from jupyter_agentstore.client import Store
from jupyter_agentstore.core.errors import (
    AgentStoreError,
    Conflict,
    InvalidEvent,
    InvalidRequest,
    NotFound,
)
from jupyter_agentstore.core.events import Event
from tests.client.jupyter import until

HALF = "half an emoji: \ud83d, and a whole one: 🎂"
MENDED = HALF.replace("\ud83d", "�")


def said(conversation: str, *texts: str) -> list[Any]:
    """Messages that the agent leaves alone."""
    return [
        events.MessageAdded(conversationId=conversation, role="user", content=text, metadata='{"imported":1}')
        for text in texts
    ]


def test_half_an_emoji_is_stored_and_what_follows_it_still_comes_live(
    open_store: Callable[[], Store],
) -> None:
    store, other = open_store(), open_store()
    chat = store.conversation(title="Emojis")
    seen: list[list[str]] = []
    heard: list[Event] = []
    store.link.listen(heard.extend)
    store.subscribe(
        "select content from messages order by seq", lambda frame: seen.append(frame["content"].tolist())
    )
    until(lambda: store.link.state != "connecting")
    chat.send("before").reply(30)
    other.commit(*said(chat.id, HALF))
    until(lambda: seen[-1][-1] == MENDED)
    other.commit(*said(chat.id, "after"))
    until(lambda: seen[-1][-1] == "after")
    until(lambda: heard and heard[-1].body.count('"after"'))  # not only because everything is read again
    assert any("\\ud83d" in event.body and event.decode().args["content"] == MENDED for event in heard)
    assert store.status()["connection"] in ("connected", "embedded")
    assert [message.content for message in chat.last(2)] == [MENDED, "after"]


def test_a_store_that_begins_with_half_an_emoji_is_followed_too(open_store: Callable[[], Store]) -> None:
    store, other = open_store(), open_store()
    other.commit(events.ConversationCreated(id="c", userId="u", title=HALF))
    counts: list[int] = []
    store.subscribe("conversations", lambda frame: counts.append(len(frame)))
    other.conversation(title="next")
    until(lambda: counts[-1] == 2)
    assert store.conversation("c").title == MENDED


def test_half_an_emoji_said_again_by_its_id_is_said_once(store: Store) -> None:
    chat = store.conversation()
    chat.pause()
    assert chat.send(HALF, id="m").seq == chat.send(HALF, id="m").seq


def test_half_an_emoji_finds_nothing_and_breaks_nothing(store: Store) -> None:
    with pytest.raises(NotFound):
        store.conversation("\ud83d")
    with pytest.raises(NotFound):
        store.df("\ud83d")
    assert store.sql("select ? as x", ["\ud83d"]).rows() == [{"x": "�"}]
    assert store.sql("select '\ud83d' as x").rows() == [{"x": "�"}]


@pytest.mark.parametrize("id", ['a"b', "c\\d", "Gespräch 🎂"])
def test_a_reply_comes_at_once_whatever_the_conversations_id(store: Store, id: str) -> None:
    chat = store.conversation(id, title="odd")
    assert "hello" in chat.send("hello").reply(30).content
    assert store.link.row("conversations", id) == chat.details


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1, 2}, object(), 5, ["text"]])
def test_what_is_no_text_is_an_invalid_event(store: Store, value: Any) -> None:
    chat = store.conversation()
    event = SimpleNamespace(name="v1.MemoryAdded", args={"id": "f", "conversationId": chat.id, "fact": value})
    with pytest.raises(InvalidEvent):
        store.commit(event)
    with pytest.raises(InvalidEvent, match=r"^Event 2: "):
        store.commit(events.MemoryAdded(conversationId=chat.id, fact="right"), event)
    with pytest.raises(InvalidEvent, match=r"^Event 2: .*No event was written\.$"):
        store.commit_many([events.MemoryAdded(conversationId=chat.id, fact="right"), event])
    assert chat.facts == []


def test_scalars_of_numpy_and_pandas_are_taken_as_pythons(store: Store) -> None:
    chat = store.conversation()
    at = pd.Timestamp("2030-01-02T03:04:05Z")
    store.commit(SimpleNamespace(name="v1.ConversationUpdated", args={"id": chat.id, "updatedAt": at}))
    assert store.sql("select updatedAt from conversations").rows() == [{"updatedAt": at.to_pydatetime()}]
    assert store.sql("select list_sum(?::int[]) as n", [np.array([1, 2])]).rows() == [{"n": 3}]
    assert store.sql("select ? + ? as n", pd.Series([1, 2])).rows() == [{"n": 3}]  # type: ignore[arg-type]
    numbers = [np.int64(7), np.float64(0.5), np.bool_(True), pd.NaT]
    assert list(store.sql("select ? as a, ? as b, ? as c, ? as d", numbers).rows()[0].values()) == [
        7,
        0.5,
        True,
        None,
    ]


def test_times_as_parameters_are_compared_with_times(store: Store) -> None:
    store.conversation()
    sql = "select count(*) as n from conversations where createdAt between $since and $until"
    now = datetime.now(UTC)
    for since, until_, found in (
        (now - timedelta(hours=1), now + timedelta(hours=1), 1),
        (now + timedelta(hours=1), now + timedelta(hours=2), 0),
        (pd.Timestamp(now) - pd.Timedelta("1h"), pd.Timestamp(now) + pd.Timedelta("1h"), 1),
        ((now - timedelta(hours=1)).replace(tzinfo=None), now + timedelta(hours=1), 1),
    ):
        assert store.sql(sql, since=since, until=until_).rows() == [{"n": found}]
    assert store.sql("select $t::timestamptz as t", t=now).rows() == [{"t": now}]


@pytest.mark.parametrize("value", [math.nan, b"bytes", {1}, object()])
def test_a_parameter_that_json_has_no_word_for_is_refused(store: Store, value: Any) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        store.sql("select ? as x", [value]).df()


def test_arguments_of_a_wrong_type_are_named_at_once(store: Store) -> None:
    chat = store.conversation()
    wrong: Any = 5
    for call, says in (
        (lambda: store.conversation(wrong), "id is text, not int"),
        (lambda: chat.send(wrong), "text, not int"),
        (lambda: store.df(wrong), "text, not int"),
        (lambda: store.sql(wrong), "text, not int"),
        (lambda: store.sql("select ?", wrong), "mapping, not int"),
        (lambda: store.sql("select ?", "text"), "mapping, not str"),
        (lambda: store.subscribe(wrong, print), "not int"),
        (lambda: store.subscribe("conversations", wrong), "not int"),
        (lambda: store.subscribe("conversations", None), "not NoneType"),  # type: ignore[arg-type]
        (lambda: chat.last("x"), "str"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=says):
            call()
    chat.pause()
    sent = chat.send("hello")
    for timeout in ("x", None, math.nan):
        with pytest.raises(TypeError, match="seconds"):
            sent.reply(timeout=timeout)  # type: ignore[arg-type]


def test_what_is_nested_in_itself_or_no_event_is_refused(store: Store) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for name, args in (("v1.MemoryAdded", {"fact": endless}), ("v1.MemoryAdded", None), (5, {})):
        with pytest.raises(InvalidEvent):
            store.commit(SimpleNamespace(name=name, args=args))
    with pytest.raises(InvalidRequest):
        store.sql("select ?", [endless]).df()


def test_an_id_of_any_length_is_just_not_there(store: Store) -> None:
    for length in (1_000, 50_000, 100_000):
        with pytest.raises((NotFound, InvalidRequest)):
            store.conversation("x" * length)


def test_a_message_that_is_refused_is_not_called_the_first_of_two(store: Store) -> None:
    chat = store.conversation()
    with pytest.raises(InvalidEvent, match=r"^v1\.MessageAdded: the field 'content' holds a NUL") as refused:
        chat.send("a\0b")
    assert refused.value.field == "content"


def test_the_last_messages_are_as_many_as_were_asked_for(store: Store) -> None:
    chat = store.conversation()
    store.commit_many(said(chat.id, *map(str, range(1_200))))
    assert chat.last(0) == chat.last(-3) == []
    assert [message.content for message in chat.last(2)] == ["1198", "1199"]
    for count in (1_000, 1_001, 5_000):
        found = chat.last(count)
        assert [message.content for message in found] == [str(n) for n in range(1_200)][-count:]
        assert found[-1] == chat.last(1)[0]


def test_messages_are_read_from_the_end_or_from_a_place(store: Store) -> None:
    chat = store.conversation()
    store.commit(*said(chat.id, "a", "b", "c"))

    def contents(**where: int) -> list[str]:
        return [row["content"] for row in store.link.messages(chat.id, limit=2, **where)]

    assert contents() == ["b", "c"]
    assert contents(after=0) == ["a", "b"]
    assert contents(after=store.link.messages(chat.id)[0]["seq"]) == ["b", "c"]


def test_a_row_is_read_by_its_key(store: Store) -> None:
    chat = store.conversation(title="Tea")
    row = store.link.row("conversations", chat.id)
    assert row is not None
    assert row["title"] == "Tea"
    assert datetime.fromisoformat(row["createdAt"]).tzinfo is not None
    assert store.link.row("conversations", "nowhere") is None
    assert store.link.row("pendingReplies", chat.id) is None
    with pytest.raises(NotFound):
        store.link.row("no_such", "x")


@pytest.mark.parametrize(
    ("fault", "kind"), [("nowhere", NotFound), ("taken", Conflict), ("wrong", InvalidEvent)]
)
def test_of_many_events_the_one_at_fault_is_named(
    store: Store, fault: str, kind: type[AgentStoreError]
) -> None:
    many: list[Any] = [events.ConversationCreated(id="c", userId="u"), *said("c", *map(str, range(1_500)))]
    many[1_204] = {
        "nowhere": events.MemoryAdded(conversationId="nowhere", fact="x"),
        "taken": events.ConversationCreated(id="c", userId="u"),
        "wrong": events.MessageAdded(conversationId="c", role="robot", content="beep"),
    }[fault]
    with pytest.raises(kind, match=r"^Event 1,205: .* The first 1,000 events are in the store\.$") as refused:
        store.commit_many(many)
    assert str(refused.value) == refused.value.message
    assert refused.value.field == {"nowhere": "conversationId", "taken": "id", "wrong": "role"}[fault]
    assert store.sql("select count(*) as n from events where clientId = 'server'").rows()[0]["n"] == 1_000
    many[1_204] = said("c", "mended")[0]
    assert store.commit_many(many) == 501


def test_the_only_event_of_a_batch_is_named_too(store: Store) -> None:
    with pytest.raises(NotFound, match=r"^Event 1: .*No event was written\.$"):
        store.commit_many([events.MemoryAdded(conversationId="nowhere", fact="x")])
    with pytest.raises(InvalidEvent, match=r"^Event 2: str is no event"):
        store.commit_many([events.ConversationCreated(userId="u"), "x"])  # type: ignore[list-item]


def test_only_public_names_are_listed() -> None:
    assert dir(jupyter_agentstore) == sorted(jupyter_agentstore.__all__)
