"""What holds of a store whichever way it is reached."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import Store
from jupyter_agentstore.core.errors import (
    Conflict,
    InvalidEvent,
    InvalidRequest,
    NotFound,
    QueryFailed,
    QueryRefused,
    ReplyTimeout,
    StoreClosed,
)
from tests.client.jupyter import until

OpenStore = Callable[[], Store]


def test_a_message_gets_its_reply(store: Store) -> None:
    chat = store.conversation(title="Coffee")
    sent = chat.send("A mocha with oat milk, please")
    reply = sent.reply(timeout=30)
    assert reply.by_agent
    assert reply.role == "assistant"
    assert "oat milk" in reply.content
    assert reply.metadata["replyTo"] == sent.id
    assert reply.timestamp.tzinfo is not None
    assert list(chat.messages["role"]) == ["user", "assistant"]
    assert not chat.waiting


def test_each_message_gets_its_own_reply_when_they_are_sent_together(store: Store) -> None:
    chat = store.conversation()
    first, second = chat.send("one"), chat.send("two")
    replies = [first.reply(timeout=30), second.reply(timeout=30)]
    assert all("two" in reply.content or "one" in reply.content for reply in replies)
    assert "two" in replies[1].content


def test_no_reply_in_time_says_what_may_be_done(store: Store) -> None:
    chat = store.conversation()
    chat.pause()
    sent = chat.send("Anybody there?")
    with pytest.raises(ReplyTimeout, match=r"paused.*chat\.resume"):
        sent.reply(timeout=0.2)
    chat.resume()
    assert "Anybody there?" in sent.reply(timeout=30).content


def test_an_assistant_message_that_is_not_the_agents_is_no_reply(store: Store) -> None:
    chat = store.conversation()
    chat.pause()
    sent = chat.send("Is it you?")
    store.commit(events.MessageAdded(conversationId=chat.id, role="assistant", content="Sure, it is me"))
    with pytest.raises(ReplyTimeout):
        sent.reply(timeout=0.2)
    (_, claimed) = chat.last()
    assert not claimed.by_agent
    assert claimed.author.startswith("assistant (by ")
    assert "assistant (by " in repr(claimed)


def test_a_conversation_is_opened_by_its_id(store: Store) -> None:
    chat = store.conversation(title="Tea", personality="terse", instructions="Say little")
    same = store.conversation(chat.id)
    assert same == chat
    assert (same.title, same.status) == ("Tea", "active")
    assert (same.details["personality"], same.details["instructions"]) == ("terse", "Say little")
    assert [c.id for c in store.conversations] == [chat.id]


def test_a_conversation_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="'nowhere'"):
        store.conversation("nowhere")


def test_an_id_with_a_title_begins_a_conversation_once(store: Store) -> None:
    first = store.conversation("the-one", title="The one")
    again = store.conversation("the-one", title="Another title")
    assert first == again
    assert again.title == "The one"
    assert len(store.conversations) == 1


def test_what_is_committed_is_read_at_once(store: Store) -> None:
    chat = store.conversation(title="Facts")
    receipt = store.commit(
        events.MemoryAdded(conversationId=chat.id, fact="Likes oat milk"),
        events.MemoryAdded(conversationId=chat.id, fact="Has a dog"),
    )
    assert len(receipt.seqs) == 2
    assert receipt.head >= receipt.seqs[-1]
    assert sorted(chat.facts) == ["Has a dog", "Likes oat milk"]
    chat.remember("Is 42")
    assert len(store.df("conversationMemory")) == 3


def test_a_commit_is_all_or_none(store: Store) -> None:
    chat = store.conversation()
    with pytest.raises(NotFound):
        store.commit(
            events.MemoryAdded(conversationId=chat.id, fact="kept?"),
            events.MemoryAdded(conversationId="nowhere", fact="refused"),
        )
    assert chat.facts == []


def test_a_refused_event_names_the_field(store: Store) -> None:
    chat = store.conversation()
    with pytest.raises(InvalidEvent) as refused:
        store.commit(events.MessageAdded(conversationId=chat.id, role="robot", content="beep"))
    assert refused.value.field == "role"
    with pytest.raises(InvalidEvent):
        store.commit("not an event")  # type: ignore[arg-type]


def test_an_empty_message_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        store.conversation().send("  ")


def test_the_same_message_id_is_said_once(store: Store) -> None:
    chat = store.conversation()
    chat.pause()
    first = chat.send("hello", id="m1")
    again = chat.send("hello", id="m1")
    assert (first.id, first.seq) == (again.id, again.seq)
    assert len(chat.messages) == 1
    with pytest.raises(Conflict):
        chat.send("something else", id="m1")


def test_the_same_commit_sent_twice_is_written_once(store: Store) -> None:
    chat = store.conversation()
    event = events.MemoryAdded(conversationId=chat.id, fact="once")
    pair = [(event.name, event.args)]
    first = store.link.load(pair, "commit-1")
    again = store.link.load(pair, "commit-1")
    assert first.seqs == again.seqs
    assert chat.facts == ["once"]


def test_many_events_go_in_by_batches_and_only_once(store: Store) -> None:
    many: list[Any] = [events.ConversationCreated(id="import", userId="u", title="Imported")]
    many += [
        events.MessageAdded(
            id=f"m{n}", conversationId="import", role="user", content=f"{n}", metadata='{"imported": true}'
        )
        for n in range(2500)
    ]
    assert store.commit_many(many) == 2501
    store.commit_many(many)
    assert store.status()["messageCount"] == 2500
    assert list(store.conversation("import").messages["content"]) == [str(n) for n in range(2500)]
    assert not store.conversation("import").waiting


def test_a_progress_bar_is_shown_on_demand(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    one: list[Any] = [events.ConversationCreated(userId="u")]
    store.commit_many(one, progress=True)
    assert "1/1" in capsys.readouterr().err
    store.commit_many([events.ConversationCreated(userId="u")])
    assert capsys.readouterr().err == ""


def test_a_table_is_a_dataframe_with_times_that_know_their_zone(store: Store) -> None:
    before = datetime.now(UTC)
    chat = store.conversation(title="Naïve ☕")
    chat.pause()
    chat.send("What time is it? 🕰️")
    frame = store.df("messages")
    assert isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype)
    assert str(frame["timestamp"].dt.tz) == "UTC"
    assert abs((frame["timestamp"][0] - before).total_seconds()) < 60
    assert frame["content"][0] == "What time is it? 🕰️"
    assert frame["metadata"].isna().all()
    assert store.df("events")["name"].iloc[0] == "v1.ConversationCreated"
    with pytest.raises(NotFound, match="no_such"):
        store.df("no_such")


def test_an_empty_store_has_its_tables(store: Store) -> None:
    assert len(store.df("messages")) == 0
    assert "content" in store.df("messages").columns
    assert len(store.conversations) == 0
    assert store.status()["messageCount"] == 0


def test_a_query_is_asked_anew_each_time(store: Store) -> None:
    query = store.sql("select count(*) as n from conversations")
    assert query.rows() == [{"n": 0}]
    store.conversation()
    assert query.df()["n"].tolist() == [1]
    assert query.arrow().num_rows == 1
    bundle = query._repr_mimebundle_()
    assert "<td>1</td>" in bundle["text/html"]
    assert "1" in bundle["text/plain"]


def test_a_query_takes_parameters(store: Store) -> None:
    chat = store.conversation(title="A")
    store.conversation(title="B")
    sql = "select title from conversations where id = "
    assert store.sql(sql + "?", [chat.id]).rows() == [{"title": "A"}]
    assert store.sql(sql + "$id", {"id": chat.id}).rows() == [{"title": "A"}]
    assert store.sql(sql + "$id", id=chat.id).rows() == [{"title": "A"}]
    later = store.sql(
        "select count(*) as n from conversations where createdAt < $t", t=datetime(2001, 1, 1, tzinfo=UTC)
    )
    assert later.rows() == [{"n": 0}]


def test_sums_are_ordinary_numbers(store: Store) -> None:
    frame = store.sql(
        "select sum(x) as s, avg(x) as a, sum(x)::decimal(10,2) as d from (values (1),(2)) t(x)"
    ).df()
    assert frame["s"].dtype == "int64"
    assert frame["a"].dtype == frame["d"].dtype == "float64"


def test_html_is_escaped_in_what_is_shown(store: Store) -> None:
    chat = store.conversation(title="<script>alert(1)</script>")
    for shown in (
        store.sql("select title from conversations")._repr_html_(),
        store.conversations._repr_html_(),
    ):
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown
    assert "<script>" not in (store._repr_html_() or "")
    assert chat.title == "<script>alert(1)</script>"


def test_sql_that_writes_is_refused_and_wrong_sql_fails(store: Store) -> None:
    with pytest.raises(QueryRefused):
        store.sql("delete from messages").df()
    with pytest.raises((QueryFailed, QueryRefused)):
        store.sql("select nothing from messages").df()


def test_a_subscription_calls_at_once_and_after_every_change(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    seen: list[int] = []
    subscription = store.subscribe(
        "select count(*) as n from conversations", lambda frame: seen.append(int(frame["n"][0]))
    )
    assert seen == [0]
    until(lambda: store.link.state != "connecting")
    store.conversation()
    until(lambda: seen[-1] == 1)
    other.conversation()
    until(lambda: seen[-1] == 2)
    subscription.close()
    store.conversation()
    assert store.status()["conversationCount"] == 3
    assert seen == [0, 1, 2]


def test_a_subscription_is_silent_about_changes_that_alter_nothing(store: Store) -> None:
    chat = store.conversation()
    counts: list[int] = []
    seen: list[int] = []
    store.subscribe(
        "select count(*) as n from conversations", lambda frame: counts.append(int(frame["n"][0]))
    )
    store.subscribe("conversationMemory", lambda frame: seen.append(len(frame)))
    until(lambda: store.link.state != "connecting")
    chat.remember("one")
    until(lambda: seen[-1] == 1)
    chat.remember("two")
    until(lambda: seen[-1] == 2)
    assert counts == [1]


def test_a_callback_that_fails_is_reported_and_called_again(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def callback(frame: pd.DataFrame) -> None:
        seen.append(len(frame))
        raise RuntimeError(f"no good at {len(frame)}")

    store.subscribe("conversations", callback)
    until(lambda: store.link.state != "connecting")
    store.conversation()
    until(lambda: seen == [0, 1])
    reported = ""

    def both() -> bool:
        nonlocal reported
        reported += capsys.readouterr().err
        return "no good at 0" in reported and "no good at 1" in reported

    until(both)


def test_a_slow_callback_sees_the_last_state_in_the_end(store: Store) -> None:
    seen: list[int] = []
    free = threading.Event()

    def callback(frame: pd.DataFrame) -> None:
        seen.append(len(frame))
        if len(frame) == 1:
            free.wait(30)

    store.subscribe("conversations", callback)
    until(lambda: store.link.state != "connecting")
    store.conversation()
    until(lambda: seen == [0, 1])
    for _ in range(5):
        store.conversation()
    free.set()
    until(lambda: seen[-1] == 6)
    assert len(seen) < 7


def test_a_subscription_can_be_closed_by_its_own_callback(store: Store) -> None:
    seen: list[int] = []
    subscriptions: list[Any] = []

    def callback(frame: pd.DataFrame) -> None:
        seen.append(len(frame))
        if subscriptions:
            subscriptions[0].close()

    subscriptions.append(store.subscribe("conversations", callback))
    until(lambda: store.link.state != "connecting")
    store.conversation()
    until(lambda: not subscriptions[0].active)
    store.conversation()
    assert seen == [0, 1]


def test_a_subscription_with_wrong_sql_fails_where_it_is_made(store: Store) -> None:
    with pytest.raises((QueryFailed, QueryRefused)):
        store.subscribe("select nothing from messages", print)


def test_a_closed_store_says_so(store: Store) -> None:
    chat = store.conversation()
    subscription = store.subscribe("conversations", lambda frame: None)
    store.close()
    store.close()
    assert not subscription.active
    assert "closed" in repr(store)
    assert "closed" in store._repr_html_()
    with pytest.raises(StoreClosed):
        chat.send("too late")


def test_what_one_client_writes_another_reads(open_store: OpenStore) -> None:
    one, other = open_store(), open_store()
    chat = one.conversation(title="Shared")
    chat.pause()
    chat.send("hello")
    one.flush()
    until(lambda: other.status()["messageCount"] == 1)
    assert other.conversation(chat.id).messages["content"].tolist() == ["hello"]
    assert one.id == other.id


def test_no_call_needs_more_than_a_moment(store: Store) -> None:
    chat = store.conversation()
    chat.pause()
    chat.send("warm")
    store.df("messages")
    began = datetime.now(UTC)
    for _ in range(10):
        chat.send("quick")
        chat.last(1)
    assert (datetime.now(UTC) - began).total_seconds() < 5
