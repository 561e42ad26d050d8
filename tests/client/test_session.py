"""What holds of a store whose tables are here too, and of sessions that have a name."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import Store, connect, joining
from jupyter_agentstore.client.remote import RemoteLink
from jupyter_agentstore.client.synced import SyncedLink
from jupyter_agentstore.client.watch import Change
from jupyter_agentstore.core.errors import InvalidRequest, NotFound, Unreachable
from tests.client.jupyter import TOKEN, Jupyter, until


@pytest.fixture
def name() -> str:
    return f"session-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def pair(jupyter: Jupyter, name: str) -> Iterator[tuple[Store, Store]]:
    with (
        connect(name, url=jupyter.url, token=TOKEN) as one,
        connect(name, url=jupyter.url, token=TOKEN) as other,
    ):
        yield one, other


def imported(conversation: str, text: str) -> events.MessageAdded:
    return events.MessageAdded(
        conversationId=conversation, role="user", content=text, metadata='{"imported": true}'
    )


def test_a_commit_is_there_at_once_and_reaches_others(pair: tuple[Store, Store]) -> None:
    one, other = pair
    heard: list[Change] = []
    other.watch("messages", heard.append)
    chat = one.conversation(title="Shared")
    one.commit(imported(chat.id, "hello"))
    assert chat.messages["content"].tolist() == ["hello"]
    until(lambda: heard)
    assert heard[0].before is None
    assert heard[0].after is not None
    assert heard[0].after["content"] == "hello"
    one.flush()
    assert (one.sync.status, one.sync.pending) == ("synced", 0)


def test_a_watch_sees_the_rows_it_asks_for_and_no_others(pair: tuple[Store, Store]) -> None:
    one, other = pair
    mine, yours = one.conversation(title="mine"), one.conversation(title="yours")
    heard: list[str] = []
    watch = other.watch(
        "messages", lambda change: heard.append(change.after["content"]), conversationId=mine.id
    )  # type: ignore[index]
    one.commit(imported(yours.id, "not this"), imported(mine.id, "this"), imported(mine.id, "and this"))
    until(lambda: heard == ["this", "and this"])
    watch.close()
    assert not watch.active
    with pytest.raises(NotFound, match="no table"):
        other.watch("nothing", print)
    with pytest.raises(NotFound, match="no column"):
        other.watch("messages", print, colour="red")


def test_a_subscription_is_not_asked_again_for_what_it_does_not_read(pair: tuple[Store, Store]) -> None:
    one, other = pair
    chat = one.conversation(title="quiet")
    one.flush()
    until(lambda: other.status()["conversationCount"] == 1)
    asked: list[int] = []
    subscription = other.subscribe("select count(*) as n from conversations", lambda f: asked.append(f.n[0]))
    looked: list[None] = []
    ask = subscription._get
    subscription._get = lambda: (looked.append(None), ask())[1]
    one.commit(imported(chat.id, "a message"))
    until(lambda: other.status()["messageCount"] == 1)
    one.conversation(title="another")
    until(lambda: asked == [1, 2])
    assert len(looked) == 1


def test_what_others_are_doing_is_told_and_ends_with_them(pair: tuple[Store, Store]) -> None:
    one, other = pair
    one.announce({"typing": "c1"})
    until(lambda: [who["state"] for who in other.present] == [{"typing": "c1"}])
    one.announce({"typing": "c2"})
    until(lambda: [who["state"] for who in other.present] == [{"typing": "c2"}])
    one.close()
    until(lambda: other.present == [])


def test_what_the_agent_is_doing_is_told(pair: tuple[Store, Store]) -> None:
    one, other = pair
    seen: list[bool] = []
    other.link.listen(lambda _: seen.append(other.status()["isThinking"]))
    one.conversation(title="Thinking").send("Think about this").reply(30)
    until(lambda: True in seen and seen[-1] is False)


def test_offline_everything_goes_on_and_is_made_up_for(pair: tuple[Store, Store]) -> None:
    one, other = pair
    chat = one.conversation(title="Away")
    one.flush()
    one.sync.pause()
    assert one.sync.status == "offline"
    one.commit(imported(chat.id, "from here"))
    until(lambda: other.status()["conversationCount"] == 1)
    other.commit(imported(chat.id, "from there"))
    other.flush()
    assert (one.sync.status, one.sync.pending) == ("offline", 1)
    assert chat.messages["content"].tolist() == ["from here"]
    with pytest.raises(Unreachable, match="1 event did not reach"):
        one.flush(0.01)
    one.sync.resume()
    one.flush()
    until(lambda: chat.messages["content"].tolist() == ["from there", "from here"])
    assert any("set behind" in entry.what for entry in one.sync.history)
    assert "Offline: paused." in str(one.sync)


def test_a_named_session_survives_the_process(jupyter: Jupyter, name: str) -> None:
    code = (
        "import sys, jupyter_agentstore as agentstore\n"
        "url, token, name = sys.argv[1:]\n"
        "store = agentstore.connect(name, url=url, token=token, session='laptop')\n"
        "store.flush(); store.sync.pause()\n"
        "store.conversation(title='Kept')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, jupyter.url, TOKEN, name], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "They are kept, and sent the next time." in ended.stderr
    with connect(name, url=jupyter.url, token=TOKEN, session="laptop") as store:
        store.flush()
    with connect(name, url=jupyter.url, token=TOKEN, replica=False) as store:
        assert [chat.title for chat in store.conversations] == ["Kept"]


def test_a_named_session_that_is_open_here_is_the_same_store(jupyter: Jupyter, name: str) -> None:
    store = connect(name, url=jupyter.url, token=TOKEN, session="again")
    assert connect(name, url=jupyter.url, token=TOKEN, session="again") is store
    store.close()
    with connect(name, url=jupyter.url, token=TOKEN, session="again") as other:
        assert other is not store


@pytest.mark.parametrize("session", ["", "a/b", "../up", ".hidden", "x" * 65])
def test_a_name_that_is_no_name_is_refused(session: str) -> None:
    with pytest.raises(InvalidRequest, match="name is 1 to 64"):
        connect("x", session=session)


def test_a_session_is_for_a_server(jupyter: Jupyter) -> None:
    with pytest.raises(InvalidRequest, match="with tables here"):
        connect("x", url=jupyter.url, token=TOKEN, session="s", replica=False)
    with pytest.raises(InvalidRequest, match="with tables here"):
        connect("x", embedded=True, session="s")


def test_a_store_that_nobody_holds_is_let_go_of(jupyter: Jupyter, name: str) -> None:
    def session_threads() -> int:
        return sum(thread.name == "agentstore-sync" for thread in threading.enumerate())

    before = session_threads()
    store = connect(name, url=jupyter.url, token=TOKEN)
    store.conversation(title="Sent all the same")
    assert session_threads() == before + 1
    del store
    until(lambda: session_threads() == before)
    with connect(name, url=jupyter.url, token=TOKEN) as again:
        assert [chat.title for chat in again.conversations] == ["Sent all the same"]


def test_a_store_whose_tables_are_too_large_to_copy_is_asked_over_the_network(
    jupyter: Jupyter, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN) as store:
        store.conversation(title="Large")
    monkeypatch.setattr(joining, "NEAR", 0)
    monkeypatch.setattr(joining, "MOST_BYTES", 1_000)
    with connect(name, url=jupyter.url, token=TOKEN) as store:
        assert "are not kept in this process (its tables have 0.0 GB)" in capsys.readouterr().out
        assert isinstance(store.link, RemoteLink)
        assert [chat.title for chat in store.conversations] == ["Large"]
    with connect(name, url=jupyter.url, token=TOKEN, session="kept") as store:
        assert isinstance(store.link, SyncedLink)
        assert [chat.title for chat in store.conversations] == ["Large"]
