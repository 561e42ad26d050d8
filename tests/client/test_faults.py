"""What goes wrong between a client and its server, and how the session recovers by itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import Store, connect, connection, joining
from jupyter_agentstore.client.discovery import sessions_folder
from jupyter_agentstore.client.remote import RemoteLink
from jupyter_agentstore.client.replica import Replica
from jupyter_agentstore.core.errors import Forbidden, Unreachable
from jupyter_agentstore.core.limits import MAX_PUSH_EVENTS
from jupyter_agentstore.sync import client_session
from tests.client.jupyter import TOKEN, Jupyter, until
from tests.client.proxy import SNAPSHOT, WEBSOCKET, Proxy
from tests.client.worker import Worker

HELPERS = Path(__file__).parents[1] / "server" / "helpers"
HANDSHAKE = 600
"""Bytes, about, of either side's part of a websocket's handshake."""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this process do not wait long before they try again."""
    monkeypatch.setattr(connection, "LAST_DELAY", 1.0)


@pytest.fixture
def name() -> str:
    return f"faults-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def proxy(jupyter: Jupyter) -> Iterator[Proxy]:
    proxy = Proxy(jupyter.port)
    yield proxy
    proxy.close()


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


def log(server: Jupyter, store_id: str) -> list[dict[str, Any]]:
    """All events of a store, as the server has them."""
    found: list[dict[str, Any]] = []
    with server.http() as http:
        while True:
            asked = {"storeId": store_id, "after": len(found), "limit": 1_000}
            answer = http.get("agentstore/events", params=asked).raise_for_status().json()
            found += answer["events"]
            if len(found) == answer["head"]:
                return found


def facts(server: Jupyter, store_id: str) -> list[str]:
    """The facts in a store's log, in order."""
    return [event["args"]["fact"] for event in log(server, store_id) if "fact" in event["args"]]


def known(store: Store) -> list[str]:
    """The facts in a client's tables, in order; each is there as an event and as a row."""
    query = """select (select list(args order by seq) from events) as args,
                      (select list(fact) from "conversationMemory") as facts"""
    (row,) = store.sql(query).rows()
    said = [json.loads(args) for args in row["args"] or ()]
    found = [args["fact"] for args in said if "fact" in args]
    assert sorted(found) == sorted(row["facts"] or ())
    return found


def says(store: Store) -> str:
    return "\n".join(entry.what for entry in store.sync.history)


def reset(jupyter: Jupyter, name: str) -> None:
    command = [sys.executable, "-m", "jupyter_agentstore.server.cli", "reset", "--yes", name]
    subprocess.run(command, env=jupyter.env, check=True, capture_output=True)


def remember(store: Store, chat: str, *said: str) -> None:
    store.commit(*[events.MemoryAdded(conversationId=chat, fact=fact) for fact in said])


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
        assert "2 events that were pending are sent to the new log; 1 do not fit it." in says(store)


# ---- who no permission to write


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
            assert "2 pending events were given up." in says(reader)


# ---- clients that stand still or die


def said(start: int, stop: int, chat: str) -> str:
    """Code that makes events."""
    return f"[events.MemoryAdded(conversationId={chat!r}, fact=str(n)) for n in range({start}, {stop})]"


def numbers(start: int, stop: int) -> list[str]:
    return [str(number) for number in range(start, stop)]


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


def test_what_a_named_session_has_committed_arrives_once_however_often_it_is_killed(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    with connect(name, url=jupyter.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
    url = jupyter.url.replace(str(jupyter.port), str(proxy.port))

    def start() -> Worker:
        return Worker(tmp_path / "jupyter-data", url, name, token=TOKEN, session="mine")

    worker = start()
    worker.ask("store.sql('select 1').rows()")  # reading writes the tables to disk
    worker.kill()
    count = 0
    for offline in (False, True, True, False, False, False):
        proxy.refusing = offline
        worker = start()
        for _ in range(4):
            more = chance.randrange(1, 600)
            worker.ask(f"store.commit(*{said(count, count + more, chat)}).head")
            count += more
        if not offline:
            threading.Event().wait(chance.uniform(0, 0.1))
        worker.kill()
    worker = start()
    assert worker.ask("store.flush(60) or store.sync.pending") == 0
    assert facts(jupyter, name) == numbers(0, count)
    assert worker.ask("store.sql('select count(*) c from \"conversationMemory\"').rows()[0]['c']") == count
    assert worker.close() == (0, "")


INTERRUPTED = """
def interrupted(count, chat, seed):
    def ring(*_):
        raise KeyboardInterrupt
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, ring)
    done = []
    for number in range(count):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-3))
                store.commit(events.MemoryAdded(conversationId=chat, fact=str(number)))
                done.append(str(number))
                if number % 2:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 8e-3))
                    store.sql('select * from "conversationMemory"').rows()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if not isinstance(error, KeyboardInterrupt) and 'nterrupt' not in str(error):
                raise
    return done
"""


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_commit_that_is_interrupted_from_the_keyboard_is_whole_or_not_there(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path, offline: bool
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
    url = jupyter.url.replace(str(jupyter.port), str(proxy.port))
    worker = Worker(tmp_path / "jupyter-data", url, name, token=TOKEN, session="mine")
    worker.tell(INTERRUPTED)
    if offline:
        worker.tell("store.sync.pause()")
    done = worker.ask(f"interrupted(300, {chat!r}, 11)")
    assert 0 < len(done) < 300
    if offline:
        worker.kill()  # what was on its way to the disk must be readable, too
        worker = Worker(tmp_path / "jupyter-data", url, name, token=TOKEN, session="mine")
    assert worker.ask("store.flush(60) or store.sync.pending") == 0
    there = facts(jupyter, name)
    assert len(set(there)) == len(there)
    assert set(there) >= set(done)
    seen = "[row['fact'] for row in store.sql('select fact from \"conversationMemory\"').rows()]"
    assert sorted(worker.ask(seen)) == sorted(there)
    assert worker.close() == (0, "")


CONNECTING = """
def connecting(count, seed, *args, **options):
    def ring(*_):
        raise KeyboardInterrupt
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, ring)
    interrupted = 0
    for _ in range(count):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0, 0.15))
                one = connect(*args, session='mine', **options)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            one.close()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) and 'nterrupt' not in str(error):
                raise
            interrupted += 1
    connect(*args, session='mine', **options).close()
    return interrupted
"""


def test_connecting_that_is_interrupted_from_the_keyboard_leaves_nothing(
    jupyter: Jupyter, name: str, tmp_path: Path
) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    worker.tell(CONNECTING)
    assert worker.ask(f"connecting(40, 2, {name!r}, url={jupyter.url!r}, token={TOKEN!r})") > 0
    worker.tell("names = sorted(thread.name for thread in threading.enumerate())")
    assert worker.ask("[name for name in names if name.startswith('agentstore-s')]") == ["agentstore-sync"]
    assert worker.close()[0] == 0


def test_a_full_disk_refuses_commits_and_nothing_else(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
        worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN, session="mine")
        worker.ask(f"store.commit(*{said(0, 100, chat)}).head")
        worker.ask("store.flush()")
        worker.tell(
            "heard = []; store.watch('conversationMemory', lambda one: one.before or heard.append(one.after['fact']))"
        )
        worker.tell("limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))")
        (journal,) = (tmp_path / "jupyter-data").glob("agentstore-sessions/*/mine/session.jsonl")
        worker.tell(f"limit({journal.stat().st_size + 100})")
        worker.tell("problem = None")
        worker.tell(
            f"try: store.commit(*{said(100, 200, chat)})\nexcept OSError as error: problem = str(error)"
        )
        assert worker.ask("problem")
        assert worker.ask("store.sync.pending") == 0
        remember(other, chat, "of another")
        until(lambda: worker.ask("heard") == ["of another"])
        worker.tell("limit(-1)")
        worker.ask(f"store.commit(*{said(200, 300, chat)}).head")
        worker.ask("store.flush()")
        assert facts(jupyter, name) == [*numbers(0, 100), "of another", *numbers(200, 300)]
        worker.kill()
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN, session="mine")
    assert worker.ask("store.sync.pending") == 0
    assert worker.close() == (0, "")


WRITING = """
def writing(count, folder, seed):
    from pathlib import Path
    from jupyter_agentstore.client.replica import Replica
    from jupyter_agentstore.core.events import Event, wire
    def ring(*_):
        raise KeyboardInterrupt
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, ring)
    replica = Replica(Path(folder))
    replica.begin('log')
    interrupted = 0
    for seq in range(1, count + 1):
        args = json.dumps({'id': str(seq), 'conversationId': 'c', 'fact': str(seq)})
        replica.confirm([Event(seq, seq, 'user', wire('v1.MemoryAdded', args, seq, 'c', 's'))], 0, (), False)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 5e-3))
                replica.flush()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            interrupted += 1
    asked = 'select (select count(*) from events), (select count(*) from "conversationMemory")'
    found = list(replica.query(asked).to_pylist()[0].values())
    replica.close()
    return [interrupted > 0, *found]
"""


def test_tables_that_are_written_when_ctrl_c_comes_are_whole(
    jupyter: Jupyter, name: str, tmp_path: Path
) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    worker.tell(WRITING)
    assert worker.ask(f"writing(200, {str(tmp_path / 'tables')!r}, 4)") == [True, 200, 200]
    worker.kill()


# ---- processes that end, or divide


def test_a_process_that_ends_sends_what_is_pending(jupyter: Jupyter, name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    chat = worker.ask("store.conversation().id")
    worker.tell(f"store.commit(*{said(0, 3_000, chat)})")
    assert worker.close() == (0, "")
    assert facts(jupyter, name) == numbers(0, 3_000)


def test_a_process_ends_without_its_server_and_says_what_is_lost(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path
) -> None:
    url = jupyter.url.replace(str(jupyter.port), str(proxy.port))
    worker = Worker(tmp_path / "jupyter-data", url, name, token=TOKEN)
    worker.ask("store.flush()")
    proxy.refusing = True
    proxy.break_all()
    worker.tell("store.conversation()")
    code, errors = worker.close()
    assert code == 0
    assert errors.startswith("agentstore: 1 events did not reach the server within 5 s.")
    assert errors.count("\n") == 1


DIVIDED = """
def divided(times):
    ending = threading.Event()
    def work():
        while not ending.is_set():
            store.conversation()
    thread = threading.Thread(target=work)
    thread.start()
    codes = []
    for _ in range(times):
        child = os.fork()
        if not child:
            signal.alarm(20)
            refused = 0
            for use in (store.conversation, store.flush, lambda: store.sql('select 1').rows(), store.close):
                try:
                    use()
                except Exception as error:
                    refused += type(error).__name__ == 'StoreClosed'
            store.sync.status == 'closed' or os._exit(50)
            sys.exit(refused)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    ending.set()
    thread.join()
    return codes
"""


def test_a_forked_child_is_told_to_connect_anew_and_ends(jupyter: Jupyter, name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    worker.tell("import warnings; warnings.simplefilter('ignore')")
    worker.tell(DIVIDED)
    assert worker.ask("divided(5)") == [3] * 5
    worker.ask("store.flush()")
    assert worker.close() == (0, "")


# ---- sessions on disk


@pytest.mark.parametrize("tables", ["as they were", "gone", "of the new log already"])
def test_a_named_session_whose_store_was_reset_while_it_was_closed_goes_on(
    jupyter: Jupyter, name: str, tables: str
) -> None:
    """Tables may be gone after an update of the package; they are ahead of the journal after a crash."""
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        old = store.conversation().id
        store.flush()
        store.sync.pause()
        remember(store, old, "of what is gone")
        new = store.conversation(title="new").id
        remember(store, new, "of what comes along")
        store.close(0)
    reset(jupyter, name)
    with connect(name, url=jupyter.url, token=TOKEN, replica=False) as other:
        other.conversation(title="another's")
    (folder,) = sessions_folder().glob("*/mine/tables")
    if tables == "gone":
        shutil.rmtree(folder)
    elif tables == "of the new log already":
        with jupyter.http() as http:
            answer = http.get("agentstore/events", params={"storeId": name, "limit": 1}).json()
        replica = Replica(folder)
        replica.begin(answer["backendId"])
        replica.close()
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        store.flush()
        assert facts(jupyter, name) == known(store) == ["of what comes along"]
        assert [one.args["fact"] for one in store.sync.rejected] == ["of what is gone"]
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        assert store.sync.pending == 0
        assert {chat.title for chat in store.conversations} == {"another's", "new"}


def test_a_named_session_whose_tables_are_gone_gets_them_again_and_sends_what_is_pending(
    jupyter: Jupyter, name: str
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        chat = store.conversation().id
        remember(store, chat, "sent")
        store.flush()
        store.sync.pause()
        remember(store, chat, "pending")
        store.close(0)
    (folder,) = sessions_folder().glob("*/mine/tables")
    shutil.rmtree(folder)
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        store.flush()
        assert known(store) == ["sent", "pending"] == facts(jupyter, name)


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
