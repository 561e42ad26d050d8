"""A server that goes away and comes back, while its stores are in use."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import Store, connect
from jupyter_agentstore.client.remote import RemoteLink
from jupyter_agentstore.core.errors import Unreachable
from tests.client.jupyter import Jupyter, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path / "server").start()
    yield server
    server.stop()


@pytest.fixture
def replica() -> bool:
    return False


@pytest.fixture
def store(server: Jupyter, monkeypatch: pytest.MonkeyPatch, replica: bool) -> Iterator[Store]:
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(server.file))
    with connect("restarted", replica=replica) as store:
        yield store


@pytest.mark.parametrize("replica", [False, True], ids=["remote", "synced"])
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_store_goes_on_when_its_server_comes_back_on_another_port(
    server: Jupyter, store: Store, kill: bool
) -> None:
    seen: list[int] = []
    store.subscribe("conversations", lambda frame: seen.append(len(frame)))
    until(lambda: store.link.state == "connected")
    before = store.conversation(title="before")
    old = store.link.where
    server.stop(kill=kill)
    until(lambda: store.link.state == "connecting")
    back = threading.Thread(target=server.start)
    back.start()
    during = store.conversation(title="during")  # without tables here it waits for the server
    back.join()
    store.flush()
    assert store.link.where != old
    assert {chat.id for chat in store.conversations} == {before.id, during.id}
    until(lambda: seen[-1] == 2)
    until(lambda: store.link.state == "connected")
    store.conversation(title="after")
    until(lambda: seen[-1] == 3)


def test_a_server_that_stays_away_is_named_after_a_while(server: Jupyter, store: Store) -> None:
    assert isinstance(store.link, RemoteLink)
    chat = store.conversation()
    store.link.patience = 0.5
    server.stop()
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer for 0\.5 s"):
        chat.send("Anybody?")
    assert time.monotonic() - began < 10
    server.start()
    store.link.patience = 30
    assert "Anybody" in chat.send("Anybody?").reply(30).content


def test_an_answer_that_got_lost_doubles_nothing(
    server: Jupyter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    chat = store.conversation()
    chat.pause()
    request = httpx.Client.request
    lost: list[str] = []

    def lossy(self: httpx.Client, method: str, url: str, **kwargs: object) -> httpx.Response:
        answer = request(self, method, url, **kwargs)  # type: ignore[arg-type]
        if method == "POST" and not lost:
            lost.append(url)
            raise httpx.ReadError("The connection was reset.")
        return answer

    monkeypatch.setattr(httpx.Client, "request", lossy)
    chat.send("only once")
    assert lost == ["/agentstore/events"]
    lost.clear()
    store.commit(events.MemoryAdded(conversationId=chat.id, fact="only once"))
    lost.clear()
    store.conversation(title="only once")
    assert len(lost) == 1
    assert chat.messages["content"].tolist() == ["only once"]
    assert chat.facts == ["only once"]
    assert len(store.conversations) == 2


@pytest.mark.parametrize("replica", [False, True], ids=["remote", "synced"])
def test_a_store_whose_log_was_replaced_is_followed_anew(server: Jupyter, store: Store) -> None:
    store.conversation()
    store.flush()
    seen: list[int] = []
    store.subscribe("conversations", lambda frame: seen.append(len(frame)))
    until(lambda: store.sync.status == "synced")
    server.stop()
    shutil.rmtree(server.folder / "data" / "agentstore" / "restarted")
    server.start()
    until(lambda: seen[-1] == 0)
    until(lambda: store.sync.status == "synced")
    store.conversation()
    until(lambda: seen[-1] == 1)
