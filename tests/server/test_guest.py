"""Two servers on one folder: the second one's REST calls and websockets are as good as the first one's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pyarrow
import pytest
from websockets.sync.client import connect

from jupyter_agentstore.eventlog.lock import owner_of
from tests.server.phone import Client, address
from tests.server.servers import TOKEN, Server, ok, refused, until


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Server]:
    """A server that has the store ``s`` with the conversation ``c``."""
    server = Server(tmp_path / "host", f"c.AgentStoreApp.folder = {str(tmp_path / 'stores')!r}")
    with server.client(params={"storeId": "s"}) as http:
        ok(http.post("conversations", json={"id": "c", "userId": "ada"}))
    assert owner_of(tmp_path / "stores" / "s")["pid"] == server.process.pid
    yield server
    server.kill()


@pytest.fixture
def guest(tmp_path: Path, host: Server) -> Iterator[Server]:
    """A server beside it."""
    server = Server(tmp_path / "guest", f"c.AgentStoreApp.folder = {str(tmp_path / 'stores')!r}")
    yield server
    server.kill()


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as sockets:
        yield sockets


def opened(sockets: ExitStack, server: Server) -> Client:
    headers = {"Authorization": f"token {TOKEN}"}
    return Client(
        sockets.enter_context(connect(address(server, "s"), additional_headers=headers, proxy=None)), "s"
    )


def say(http: httpx.Client, content: str) -> dict[str, Any]:
    """A user's message, durable."""
    id = str(uuid.uuid4())
    body = {"id": id, "commitId": id, "conversationId": "c", "content": content}
    message: dict[str, Any] = ok(http.post("chat", json=body))["message"]
    return message


def replies(http: httpx.Client) -> list[str]:
    messages = ok(http.get("messages", params={"conversationId": "c"}))["messages"]
    return [
        json.loads(each["metadata"])["replyTo"] for each in messages if each["actor"].startswith("agent:")
    ]


def numbers(items: list[dict[str, Any]]) -> list[int]:
    return [item["eventEncoded"]["seqNum"] for item in items]


def test_every_call_of_the_guest_answers_as_the_hosts(host: Server, guest: Server, tmp_path: Path) -> None:
    with host.client(params={"storeId": "s"}) as one, guest.client(params={"storeId": "s"}) as other:
        message = say(other, "Does the other one answer?")
        until(lambda: replies(other) == [message["id"]])
        for path, params in (
            ("conversations", {}),
            ("messages", {"conversationId": "c"}),
            ("events", {"after": 1}),
            ("row", {"table": "messages", "key": message["id"]}),
            ("stores", {}),
        ):
            assert ok(other.get(path, params=params)) == ok(one.get(path, params=params)), path
        until(lambda: ok(other.get("agent/status")) == ok(one.get("agent/status")))
        question = {"sql": "select role, count(*) as n from messages group by all order by all"}
        assert ok(other.post("query", json=question)) == ok(one.post("query", json=question))
        arrow = {"Accept": "application/vnd.apache.arrow.stream"}
        for answer in (
            other.post("query", json=question, headers=arrow),
            other.get("tables/messages", headers=arrow),
        ):
            assert pyarrow.ipc.open_stream(answer.content).read_all().num_rows == 2
        taken = {"id": "c", "userId": "eve"}
        refused(other.post("conversations", json=taken), 409, "conflict", "commitId")
        refused(other.post("query", json={"sql": "drop table messages"}), 400, "query_refused")
        assert other.get("backup").status_code == 200
        copy = other.get("snapshot")
        assert (copy.status_code, len(copy.content)) == (200, int(copy.headers["Content-Length"]))


def test_sync_clients_of_both_servers_are_clients_of_one_store(
    host: Server, guest: Server, sockets: ExitStack
) -> None:
    here, there = opened(sockets, host), opened(sockets, guest)
    here.pull()
    there.pull()
    assert numbers(here.events(1)) == numbers(there.events(1)) == [1]
    assert here.backend_id == there.backend_id
    assert there.exit(there.push(1, {"n": 2}, {"n": 3}))["_tag"] == "Success"
    assert numbers(here.events(2)) == [2, 3]
    assert here.exit(here.push(3, {"n": 4}))["_tag"] == "Success"
    late = opened(sockets, guest)
    assert late.error(late.push(3, {"n": 5})) == here.error(here.push(3, {"n": 5}))
    late.pull()
    assert numbers(late.events(4)) == [1, 2, 3, 4]


def test_when_the_host_is_killed_the_guests_clients_notice_nothing(
    host: Server, guest: Server, sockets: ExitStack, tmp_path: Path
) -> None:
    live, pusher = opened(sockets, guest), opened(sockets, guest)
    live.pull()
    with guest.client(params={"storeId": "s"}) as http:
        first = say(http, "Who are you?")
        until(lambda: replies(http) == [first["id"]])
        host.kill()
        second = say(http, "And who are you?")
        until(lambda: replies(http) == [first["id"], second["id"]])
        head = ok(http.get("events", params={"limit": 1}))["head"]
        pusher.backend_id = None
        assert pusher.exit(pusher.push(head, {"n": 1}))["_tag"] == "Success"
        assert numbers(live.events(head + 1)) == list(range(1, head + 2))
    assert owner_of(tmp_path / "stores" / "s")["pid"] == guest.process.pid
