"""Unmodified LiveStore apps (0.4.0, in Node) against a real Jupyter server with a token."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from jupyter_agentstore import connect, events
from tests.client.jupyter import TOKEN, Jupyter, until
from tests.livestore.apps import App, Row, conversation, ids, message
from tests.livestore.conftest import Launch
from tests.livestore.line import Line

TIMES = {"createdAt", "updatedAt", "timestamp"}
"""Columns that each device fills in by its own clock: LiveStore's materializers do not learn the log's."""

Open = Callable[..., App]


def socket_url(jupyter: Jupyter, port: int | None = None) -> str:
    """Where apps find the server; by another port if they go through a line."""
    return f"ws://127.0.0.1:{port or jupyter.port}{jupyter.base_url.rstrip('/')}/agentstore/websocket"


@pytest.fixture
def open_app(launch: Launch, jupyter: Jupyter, store_id: str) -> Open:
    """Open the test's store in a new app, and wait until that is connected."""

    def open_(client_id: str, *, line: Line | None = None, **options: Any) -> App:
        app = launch()
        app.open(socket_url(jupyter, line and line.port), store_id, TOKEN, client_id, **options)
        app.connected()
        return app

    return open_


@pytest.fixture
def http(jupyter: Jupyter, store_id: str) -> Iterator[httpx.Client]:
    """REST calls about the test's store."""
    with jupyter.http() as client:
        client.params = client.params.set("storeId", store_id)
        client.base_url = f"{jupyter.url}/agentstore/"
        yield client


@pytest.fixture
def line(jupyter: Jupyter) -> Iterator[Line]:
    """A network to the server that can be cut."""
    with Line(jupyter.port) as made:
        yield made


def get(http: httpx.Client, call: str, **params: Any) -> Any:
    answer = http.get(call, params=params)
    answer.raise_for_status()
    return answer.json()


def server_log(http: httpx.Client, count: int) -> list[Row]:
    """The log, once it has as many events, as the apps tell theirs."""
    until(lambda: get(http, "events")["head"] >= count)
    page = get(http, "events")
    assert page["head"] == count
    kept = ("name", "args", "clientId", "sessionId")
    return [{"seqNum": event["seq"], **{key: event[key] for key in kept}} for event in page["events"]]


def timeless(rows: list[Row]) -> list[Row]:
    """Rows without times and what only the server's tables have, by id."""
    other = TIMES | {"seq", "actor"}
    return sorted(({k: v for k, v in r.items() if k not in other} for r in rows), key=lambda row: row["id"])


def imported(id: str) -> tuple[str, Row]:
    """A message that the agent leaves alone."""
    name, fields = message(id, f"says {id}")
    return name, {**fields, "metadata": '{"imported":true}'}


def python_commit(store: Any, event: tuple[str, Row]) -> None:
    name, fields = event
    store.commit(getattr(events, name.removeprefix("v1."))(**fields))


def test_two_apps_and_a_kernel_talk_in_one_store(open_app: Open, jupyter: Jupyter, store_id: str) -> None:
    ada, bob = open_app("ada"), open_app("bob")
    ada.commit(conversation(), message("from-ada", "Hello"))
    assert ids(bob.wait("messages", id="from-ada")) == ["from-ada"]
    see = """
        import time
        def see(id):
            while not (rows := store.sql("select content from messages where id = ?", [id]).rows()):
                time.sleep(0.02)
            print(rows[0]["content"])
    """
    with jupyter.kernel() as kernel:
        kernel.run(f"import jupyter_agentstore as agentstore\nstore = agentstore.connect({store_id!r})")
        kernel.run("\n".join(line.strip(" ") if "def" not in see else line[8:] for line in see.splitlines()))
        assert kernel.printed("see('from-ada')") == "Hello\n"
        said = "id='from-kernel', conversationId='c1', role='user', content='Good morning'"
        kernel.run(f"store.commit(agentstore.events.MessageAdded({said}))")
        for app in (ada, bob):
            [row] = app.wait("messages", id="from-kernel")
            assert (row["content"], row["metadata"]) == ("Good morning", None)
        bob.commit(message("from-bob", "Hi, both"))
        assert ids(ada.wait("messages", id="from-bob")) == ["from-bob"]
        assert kernel.printed("see('from-bob')") == "Hi, both\n"


def test_the_agents_reply_arrives_in_both_apps(open_app: Open, http: httpx.Client) -> None:
    ada, bob = open_app("ada"), open_app("bob")
    ada.commit(conversation(), message("question", "Oat milk?"))
    [in_ada], [in_bob] = (app.wait("messages", role="assistant") for app in (ada, bob))
    [reply] = [
        row for row in get(http, "messages", conversationId="c1")["messages"] if row["id"] != "question"
    ]
    assert reply["actor"].startswith("agent:")
    assert timeless([in_ada]) == timeless([in_bob]) == timeless([reply])
    log = server_log(http, 4)
    assert ada.log(4) == bob.log(4) == log
    for app in (ada, bob):  # the reply touched the conversation
        assert app.rows("conversations")[0]["updatedAt"] == log[-1]["args"]["updatedAt"]


def test_what_rest_and_python_leave_out_reaches_an_app_with_its_defaults(
    open_app: Open, http: httpx.Client, jupyter: Jupyter, store_id: str
) -> None:
    ada = open_app("ada")
    begun = http.post("conversations", json={"userId": "ada"}).json()
    chat = begun["conversationId"]
    http.post("chat", json={"conversationId": chat, "content": "Hello"}).raise_for_status()
    paused = {"id": chat, "updatedAt": 1_700_000_000_000, "status": "paused"}
    posted = [
        {"name": "v1.ConversationCreated", "args": {"id": "c2", "userId": "bob", "title": None}},
        {"name": "v1.ConversationUpdated", "args": paused},
    ]
    http.post("events", json={"events": posted}).raise_for_status()
    with closing(connect(store_id, url=jupyter.url, token=TOKEN)) as store:
        store.commit(events.ConversationCreated(id="c3", userId="eve"))
        store.commit(events.ConversationUpdated(id="c3"))
    assert len(ada.wait("conversations", 3)) == 3
    rows = get(http, "conversations")["conversations"]
    assert timeless(ada.rows("conversations")) == timeless(rows)
    count = get(http, "events")["head"]
    assert ada.log(count) == server_log(http, count)


def test_commits_made_at_once_rebase_and_all_end_alike(
    open_app: Open, http: httpx.Client, jupyter: Jupyter, store_id: str
) -> None:
    ada, bob = open_app("ada"), open_app("bob")
    ada.commit(conversation())
    bob.wait("conversations")
    rounds = 5
    with closing(connect(store_id, url=jupyter.url, token=TOKEN)) as eve, ThreadPoolExecutor(3) as pool:
        commits: dict[str, Callable[[tuple[str, Row]], None]] = {
            "ada": ada.commit,
            "bob": bob.commit,
            "eve": lambda event: python_commit(eve, event),
        }
        until(lambda: len(eve.conversations) == 1)
        # One commit each at a time: LiveStore 0.4.0 fails by itself when an app commits again while it rebases.
        for round in range(rounds):
            list(pool.map(lambda name, n=round: commits[name](imported(f"{name}-{n}")), commits))
            for app in (ada, bob):
                app.wait("messages", 3 * (round + 1))
                app.log(1 + 3 * (round + 1))
        log = server_log(http, 1 + 3 * rounds)
        rows = timeless(get(http, "messages", conversationId="c1")["messages"])
        assert len(rows) == 3 * rounds
        for app in (ada, bob):
            assert app.log(len(log)) == log
            assert timeless(app.rows("messages")) == rows
        wanted = "select id, conversationId, role, content, metadata from messages"
        until(lambda: len(eve.sql(wanted).rows()) == len(rows))
        assert timeless(eve.sql(wanted).rows()) == rows
    for name in ("ada", "bob"):
        assert [event["clientId"] for event in log[1:]].count(name) == rounds


def test_an_app_that_was_offline_catches_up_and_what_it_said_arrives(
    open_app: Open, http: httpx.Client, line: Line
) -> None:
    ada, bob = open_app("ada", line=line), open_app("bob")
    ada.commit(conversation(), imported("before"))
    bob.wait("messages", id="before")
    line.cut()
    ada.connected(False)
    ada.commit(imported("ada-1"), imported("ada-2"))
    bob.commit(imported("bob-1"), imported("bob-2"))
    assert ids(ada.rows("messages")) == ["ada-1", "ada-2", "before"]
    assert [event["args"]["id"] for event in server_log(http, 4)] == ["c1", "before", "bob-1", "bob-2"]
    line.mend()
    ada.connected()
    log = server_log(http, 6)
    assert [event["args"]["id"] for event in log] == ["c1", "before", "bob-1", "bob-2", "ada-1", "ada-2"]
    assert ada.log(6) == bob.log(6) == log
    assert timeless(ada.wait("messages", 5)) == timeless(bob.wait("messages", 5))


def test_an_app_that_is_restarted_offline_keeps_what_it_said(
    open_app: Open,
    launch: Launch,
    http: httpx.Client,
    jupyter: Jupyter,
    line: Line,
    store_id: str,
    tmp_path: Path,
) -> None:
    ada, bob = open_app("ada", line=line, directory=str(tmp_path)), open_app("bob")
    ada.commit(conversation(), imported("before"))
    bob.wait("messages", id="before")
    line.cut()
    ada.connected(False)
    ada.commit(imported("offline"))
    ada.close()
    bob.commit(imported("meanwhile"))
    ada = launch()
    ada.open(socket_url(jupyter, line.port), store_id, TOKEN, "ada", directory=str(tmp_path))
    assert ids(ada.rows("messages")) == ["before", "offline"]
    line.mend()
    ada.connected()
    log = server_log(http, 4)
    assert [event["args"]["id"] for event in log] == ["c1", "before", "meanwhile", "offline"]
    assert ada.log(4) == bob.log(4) == log


def test_an_app_with_a_wrong_token_is_refused_and_nothing_of_it_reaches_the_log(
    open_app: Open, launch: Launch, http: httpx.Client, jupyter: Jupyter, store_id: str
) -> None:
    ada, mallory = open_app("ada"), launch()
    mallory.open(socket_url(jupyter), store_id, f"{TOKEN}x", "mallory")
    mallory.commit(conversation("forged"))
    for _ in range(2):  # it goes on trying
        refused = mallory.hear(lambda line: line["event"] == "socket")
        assert refused["error"] == "Unexpected server response: 401"
    assert not any(line["event"] == "network" and line["connected"] for line in mallory.said)
    ada.commit(conversation("genuine"))
    assert [event["args"]["id"] for event in server_log(http, 1)] == ["genuine"]
    assert ids(ada.rows("conversations")) == ["genuine"]


def test_an_app_learns_that_its_store_was_reset_and_starts_afresh(
    launch: Launch, store_id: str, tmp_path: Path
) -> None:
    jupyter = Jupyter(tmp_path / "jupyter").start()
    try:
        with Line(jupyter.port) as line, jupyter.http() as http:
            http.base_url = f"{jupyter.url}/agentstore/"
            http.params = http.params.set("storeId", store_id)
            url, data = socket_url(jupyter, line.port), str(tmp_path / "ada")
            ada, bob = launch(), launch()
            ada.open(url, store_id, TOKEN, "ada", directory=data)
            bob.open(url, store_id, TOKEN, "bob", onBackendIdMismatch="shutdown")
            ada.connected()
            ada.commit(conversation("old"))
            bob.wait("conversations", id="old")
            old = get(http, "events")["backendId"]
            line.cut()
            reset = [sys.executable, "-m", "jupyter_agentstore.server.cli", "reset", store_id, "--yes"]
            subprocess.run(reset, env=jupyter.env, check=True, capture_output=True, timeout=60)
            begun = {"id": "new", "userId": "ada"}
            http.post(
                "events", json={"events": [{"name": "v1.ConversationCreated", "args": begun}]}
            ).raise_for_status()
            line.mend(jupyter.port)
            new = get(http, "events")["backendId"]
            ended = bob.hear(lambda said: said["event"] == "shutdown")["cause"]
            assert ended == {"_tag": "BackendIdMismatchError", "expected": new, "received": old}
            ended = ada.hear(lambda said: said["event"] == "shutdown")["cause"]
            assert ended == {"_tag": "IntentionalShutdownCause", "reason": "backend-id-mismatch"}
            ada = launch()
            ada.open(url, store_id, TOKEN, "ada", directory=data)
            assert ids(ada.wait("conversations")) == ["new"]
            assert get(http, "events")["head"] == 1
    finally:
        jupyter.stop()


def test_an_event_of_the_apps_own_without_fields_goes_through(
    open_app: Open, http: httpx.Client, jupyter: Jupyter, store_id: str
) -> None:
    ada, bob = open_app("ada"), open_app("bob")
    ada.commit(("v1.Pinged", None), conversation())
    bob.wait("conversations")
    log = server_log(http, 2)
    assert (log[0]["name"], log[0]["args"]) == ("v1.Pinged", {})
    assert ada.log(2) == bob.log(2) == log
    with closing(connect(store_id, url=jupyter.url, token=TOKEN)) as store:
        until(lambda: len(store.conversations) == 1)
        store.commit(events.MemoryAdded(id="m", conversationId="c1", fact="Oat milk"))
    assert ids(ada.wait("conversationMemory")) == ["m"]
