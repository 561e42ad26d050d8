"""What goes wrong between a client and its server, and how the session recovers by itself."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import Store, connect, connection, joining
from jupyter_agentstore.client.remote import RemoteLink
from jupyter_agentstore.core.errors import Forbidden, Unreachable
from jupyter_agentstore.core.limits import MAX_PUSH_EVENTS
from jupyter_agentstore.sync import client_session
from tests.client.faults import HANDSHAKE, facts, known, numbers, remember, reset, said, says
from tests.client.jupyter import TOKEN, Jupyter, until
from tests.client.proxy import SNAPSHOT, WEBSOCKET, Proxy
from tests.client.worker import Worker

HELPERS = Path(__file__).parents[1] / "server" / "helpers"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this process do not wait long before they try again."""
    monkeypatch.setattr(connection, "LAST_DELAY", 1.0)


@pytest.fixture
def through(jupyter: Jupyter, proxy: Proxy, name: str) -> Iterator[Callable[..., Store]]:
    """Connects through the proxy."""
    opened: list[Store] = []

    def open_(**options: Any) -> Store:
        url = jupyter.url.replace(str(jupyter.port), str(proxy.port))
        opened.append(connect(name, url=url, token=TOKEN, **options))
        return opened[-1]

    yield open_
    proxy.heal()
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A server that may be ended and stopped; it gives up clients that do not answer its pings for a moment."""
    settings = ["--ServerApp.tornado_settings={'ws_ping_interval': 1000, 'ws_ping_timeout': 3000}"]
    server = Jupyter(tmp_path_factory.mktemp("own"), settings=settings).start()
    yield server
    server.stop()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts clients in processes of their own."""
    started: list[Worker] = []

    def start(server: Jupyter, store_id: str, **options: Any) -> Worker:
        started.append(Worker(tmp_path / "jupyter-data", server.url, store_id, token=TOKEN, **options))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


# ---- cut connections


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("after", [3, HANDSHAKE + 1, HANDSHAKE + 1_500, HANDSHAKE + 20_000])
def test_a_connection_that_is_cut_in_the_middle_of_a_frame_heals(
    jupyter: Jupyter, proxy: Proxy, through: Callable[..., Store], name: str, way: str, after: int
) -> None:
    """By the number of bytes: in the handshake, in the first frames, in a page or a push."""
    with connect(name, url=jupyter.url, token=TOKEN) as other, through() as store:
        chat = store.conversation().id
        store.flush()
        proxy.break_all()
        proxy.cut(WEBSOCKET, **{way: [after]})  # type: ignore[arg-type]
        mine = [f"mine {number} " + "x" * 100 for number in range(200)]
        theirs = [f"theirs {number} " + "x" * 100 for number in range(200)]
        until(lambda: store.sync.status == "offline" or not proxy.cuts_left())
        remember(store, chat, *mine)
        other.flush()
        until(lambda: other.link.row("conversations", chat))
        remember(other, chat, *theirs)
        other.flush()
        store.flush()
        until(lambda: not proxy.cuts_left())
        until(lambda: len(known(store)) == 400)
        assert sorted(facts(jupyter, name)) == sorted(mine + theirs)
        assert known(store) == facts(jupyter, name)
        assert "Offline: " in says(store)
        assert says(store).count("Connected to") >= 2
        assert store.sync.status == "synced"


@pytest.mark.parametrize(
    "after", [{"up": [HANDSHAKE + 100_000]}, {"down": [HANDSHAKE + 2_000]}], ids=["sent", "taken"]
)
def test_a_batch_of_1000_events_that_is_cut_arrives_once(
    jupyter: Jupyter, proxy: Proxy, through: Callable[..., Store], name: str, after: dict[str, list[int]]
) -> None:
    """Cut before the server has all of it; and after it has, but before its answer is here."""
    store = through()
    chat = store.conversation().id
    store.flush()
    store.sync.pause()
    said = [f"{number} " + "x" * 200 for number in range(MAX_PUSH_EVENTS)]
    remember(store, chat, *said)
    assert store.sync.pending == len(said)
    proxy.cut(WEBSOCKET, **after)
    store.sync.resume()
    store.flush()
    assert not proxy.cuts_left()
    assert facts(jupyter, name) == said
    assert known(store) == said


def test_two_clients_that_are_cut_again_and_again_agree_with_the_log(
    jupyter: Jupyter, proxy: Proxy, through: Callable[..., Store], name: str
) -> None:
    chance = random.Random(5)
    one, two = through(), through()
    chat = one.conversation().id
    one.flush()
    until(lambda: two.link.row("conversations", chat))
    cuts = [HANDSHAKE + chance.randrange(30_000) for _ in range(24)]
    proxy.cut(WEBSOCKET, down=cuts[:12], up=cuts[12:])
    proxy.break_all()
    said: list[str] = []
    for turn in range(120):
        for who, store in (("one", one), ("two", two)):
            new = [f"{who} {turn}.{number}" for number in range(chance.randrange(1, 20))]
            remember(store, chat, *new)
            said += new
        if turn % 10 == 0:
            proxy.break_all()
            one.sync.resume()
            two.sync.resume()
    while proxy.cuts_left():  # each needs a connection that carries so much
        proxy.break_all()
        for store in (one, two):
            store.sync.resume()
            new = [f"{id(store)} {len(said)} " + "x" * 500 for _ in range(20)]
            remember(store, chat, *new)
            said += new
    one.flush(60)
    two.flush(60)
    until(lambda: len(known(one)) == len(known(two)) == len(said))
    assert sorted(facts(jupyter, name)) == sorted(said)
    assert known(one) == known(two) == facts(jupyter, name)


# ---- snapshots


@pytest.fixture
def big(jupyter: Jupyter, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The facts of a store whose tables are a file of some megabytes, which clients fetch."""
    monkeypatch.setattr(joining, "NEAR", 1_000)
    chance = random.Random(7)
    with connect(name, url=jupyter.url, token=TOKEN, replica=False) as store:
        chat = store.conversation().id
        said = [f"{number} {chance.randbytes(300).hex()}" for number in range(2_500)]
        store.commit_many([events.MemoryAdded(conversationId=chat, fact=fact) for fact in said])
    return said


def test_a_snapshot_whose_download_is_cut_goes_on_where_it_was(
    jupyter: Jupyter, proxy: Proxy, through: Callable[..., Store], name: str, big: list[str]
) -> None:
    with jupyter.http() as http:
        size = int(http.head("agentstore/snapshot", params={"storeId": name}).headers["content-length"])
    proxy.cut(SNAPSHOT, down=[size // 2, size // 8, 100, size // 8])
    with through() as store:
        assert len(proxy.downloaded[SNAPSHOT]) == 5
        assert sum(proxy.downloaded[SNAPSHOT]) < size * 1.3
        assert known(store) == big == facts(jupyter, name)
        remember(store, store.conversations[0].id, "and on")
        store.flush()
        assert facts(jupyter, name)[-1] == "and on"


def test_a_snapshot_that_is_another_one_meanwhile_is_fetched_anew(
    jupyter: Jupyter, proxy: Proxy, through: Callable[..., Store], name: str, big: list[str]
) -> None:
    with jupyter.http() as http:
        size = int(http.head("agentstore/snapshot", params={"storeId": name}).headers["content-length"])
    said = [f"new {fact}" for fact in big[:1_200]]

    def begin_anew() -> None:
        reset(jupyter, name)
        with connect(name, url=jupyter.url, token=TOKEN, replica=False) as other:
            chat = other.conversation().id
            other.commit_many([events.MemoryAdded(conversationId=chat, fact=fact) for fact in said])

    proxy.before_cut = begin_anew
    proxy.cut(SNAPSHOT, down=[size // 2])
    with through() as store:
        assert len(proxy.downloaded[SNAPSHOT]) == 2
        assert known(store) == said == facts(jupyter, name)


# ---- servers that go away


def test_a_push_is_finished_at_the_port_where_the_server_comes_back(tmp_path: Path, name: str) -> None:
    server = Jupyter(tmp_path / "moving").start()
    proxy = Proxy(server.port)
    try:
        with connect(name, url=server.url.replace(str(server.port), str(proxy.port)), token=TOKEN) as store:
            chat = store.conversation().id
            store.flush()
            proxy.break_all()
            proxy.cut(WEBSOCKET, up=[HANDSHAKE + 150_000])
            killed = threading.Event()
            proxy.before_cut = lambda: (server.stop(kill=True), killed.set())
            said = [f"{number} " + "x" * 200 for number in range(3_000)]
            for start in range(0, len(said), 100):
                remember(store, chat, *said[start : start + 100])
            assert killed.wait(60)
            until(lambda: store.sync.status == "offline")
            assert store.sync.pending
            server.start()
            proxy.target = server.port
            store.flush(60)
            assert facts(server, name) == said == known(store)
    finally:
        proxy.close()
        server.stop()


def test_a_server_that_stands_still_is_taken_for_offline_until_it_goes_on(
    own: Jupyter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_session, "PING_SECONDS", 1.0)
    with connect(name, url=own.url, token=TOKEN) as store:
        chat = store.conversation().id
        store.flush()
        os.kill(own.pid, signal.SIGSTOP)
        try:
            remember(store, chat, "meanwhile")
            until(lambda: store.sync.status == "offline")
            remember(store, chat, "later")
            assert store.sync.pending == 2
            assert known(store) == ["meanwhile", "later"]
            with pytest.raises(Unreachable, match=r"2 events did not reach the server within 0\.1 s"):
                store.flush(0.1)
        finally:
            os.kill(own.pid, signal.SIGCONT)
        store.flush(60)
        assert facts(own, name) == ["meanwhile", "later"]
        assert "The server has not answered for" in says(store)


def test_a_store_that_was_reset_gets_what_still_fits_it(
    own: Jupyter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(own.file))
    with connect(name) as store:
        old = store.conversation().id
        store.flush()
        own.stop()
        until(lambda: store.sync.status == "offline")
        remember(store, old, "of what is gone")
        new = store.conversation(title="new").id
        remember(store, new, "of what comes along")
        shutil.rmtree(own.folder / "data" / "agentstore" / name)
        own.start()
        store.flush(60)
        assert facts(own, name) == known(store) == ["of what comes along"]
        assert [chat.id for chat in store.conversations] == [new]
        (rejected,) = store.sync.rejected
        assert (rejected.name, rejected.args["fact"]) == ("v1.MemoryAdded", "of what is gone")
        assert "There is no conversation" in rejected.reason
        assert "2 pending events sent to the new log; 1 do not fit it." in says(store)


# ---- who may not write


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Jupyter]:
    """A server to which a token is a user's name, and where users have rights of their own."""
    settings = [
        "--ServerApp.identity_provider_class=agentstore_test_access.ByToken",
        "--ServerApp.authorizer_class=agentstore_test_access.Rights",
    ]
    folder = tmp_path / "guarded"
    server = Jupyter(folder, token="owner", settings=settings, environ={"PYTHONPATH": str(HELPERS)}).start()
    yield server
    server.stop()


def test_what_is_refused_stays_until_it_is_discarded_and_reading_goes_on(guarded: Jupyter, name: str) -> None:
    with connect(name, url=guarded.url, token="owner") as owner:
        chat = owner.conversation().id
        remember(owner, chat, "the owner's")
        owner.flush()
        with connect(name, url=guarded.url, token="reader") as reader:
            remember(reader, chat, "not allowed", "nor this")
            assert known(reader) == ["the owner's", "not allowed", "nor this"]
            until(lambda: reader.sync.status == "refused")
            assert "no permission to write" in reader.sync.error
            with pytest.raises(Forbidden, match="no permission to write"):
                reader.flush()
            remember(owner, chat, "the owner's again")
            until(lambda: "the owner's again" in known(reader))
            assert reader.sync.status == "refused"
            assert reader.sync.pending == 2
            assert reader.sync.discard() == 2
            assert known(reader) == ["the owner's", "the owner's again"] == facts(guarded, name)
            assert (reader.sync.status, reader.sync.pending, reader.sync.error) == ("synced", 0, "")
            remember(owner, chat, "and again")
            until(lambda: "and again" in known(reader))
            assert "2 pending events given up." in says(reader)


# ---- clients that stand still or die


def test_a_client_that_was_suspended_recovers_by_itself(
    own: Jupyter, name: str, workers: Callable[..., Worker]
) -> None:
    with connect(name, url=own.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
        worker = workers(own, name)
        worker.tell(
            "heard = []; store.watch('conversationMemory', lambda one: one.before or heard.append(one.after['fact']))"
        )
        worker.tell("store.announce({'here': True})")
        until(lambda: other.present)
        worker.tell(f"store.commit(*{said(0, 2_500, chat)}); os.kill(os.getpid(), signal.SIGSTOP)")
        until(lambda: not other.present)  # the server has given it up
        remember(other, chat, "missed")
        other.flush()
        worker.resume()
        assert worker.ask("store.flush(60) or store.sync.pending") == 0
        assert sorted(facts(own, name)) == sorted([*numbers(0, 2_500), "missed"])
        until(lambda: "missed" in worker.ask("heard"))
        assert sorted(worker.ask("heard")) == sorted(facts(own, name))
        history = worker.ask("[entry.what for entry in store.sync.history]")
        assert any(what.startswith("Offline: ") for what in history)
        assert sum(what.startswith("Connected to ") for what in history) == 2
        until(lambda: other.present)


# ---- connecting


def test_a_connection_that_never_holds_is_given_up_and_leaves_nothing(
    jupyter: Jupyter, proxy: Proxy, through: Callable[..., Store], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN) as store:
        store.conversation()
        store.flush()
        before = left_open()
        proxy.cut(WEBSOCKET, down=[HANDSHAKE] * 100)
        monkeypatch.setattr(RemoteLink.__init__, "__defaults__", (3.0,))
        with pytest.raises(Unreachable, match="cannot be joined: "):
            through()
        with pytest.raises(Unreachable, match="cannot be joined: "):
            through()
        until(lambda: left_open() == before)


def left_open() -> tuple[int, int]:
    """Threads and files that clients of this process have."""
    threads = [thread for thread in threading.enumerate() if thread.name == "agentstore-sync"]
    files = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    return len(threads), len([path for path in files if "agentstore" in str(path)])
