"""What one client may cost: connections, events in a time, and memory when it does not keep up."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus

from jupyter_agentstore.core.errors import RateLimited, TooManyConnections
from jupyter_agentstore.server.limits import Bucket, Connections
from jupyter_agentstore.sync.server_session import WINDOW_BYTES
from tests.server.phone import AUTHORIZED, address, opened
from tests.server.servers import TOKEN, Serve, Server, ok, until


def test_a_bucket_gives_what_flows_in_and_says_how_long_to_wait() -> None:
    now = [0.0]
    bucket = Bucket(10, 20, "events", lambda: now[0])
    bucket.take(15)
    with pytest.raises(RateLimited) as caught:
        bucket.take(10)
    assert caught.value.retry_after == pytest.approx(0.5)
    now[0] += caught.value.retry_after
    bucket.take(10)
    now[0] += 100
    bucket.take(20)
    with pytest.raises(RateLimited):
        bucket.take()
    now[0] += 100
    bucket.take(1_000)  # more than it can ever hold counts as all of it
    Bucket(0, 1, "events").take(1_000_000)


def test_connections_are_counted_by_user_and_in_all() -> None:
    connections = Connections(3, 2)
    with connections.one("ada"), connections.one("ada"):
        with pytest.raises(TooManyConnections) as caught, connections.one("ada"):
            pass
        assert caught.value.status == 429
        with connections.one("bob"):
            with pytest.raises(TooManyConnections) as caught, connections.one("cy"):
                pass
            assert caught.value.status == 503
        assert len(connections) == 2
    assert len(connections) == 0


def refusal(server: Server, **headers: str) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as refused:
        opened(server, "s", **headers)
    response = refused.value.response
    return response.status_code, json.loads(bytes(response.body or b""))["error"]


def test_more_connections_than_may_be_are_refused_until_one_ends(serve: Serve) -> None:
    server = serve(
        "import agentstore_test_access as access\n"
        "c.ServerApp.identity_provider_class = access.ByHeader\n"
        "c.ServerApp.authorizer_class = access.Rights\n"
        "c.AgentStoreApp.max_connections = 3\n"
        "c.AgentStoreApp.max_user_connections = 2\n",
        token="",
    )
    first, _ = opened(server, "s", X_User="owner"), opened(server, "s", X_User="owner")
    status, error = refusal(server, X_User="owner")
    assert (status, error["code"]) == (429, "too_many_connections")
    assert "max_user_connections" in error["message"]
    opened(server, "s", X_User="writer")
    status, error = refusal(server, X_User="reader")
    assert (status, error["code"]) == (503, "too_many_connections")
    first.socket.close()

    def again() -> bool:
        try:
            opened(server, "s", X_User="owner")
        except InvalidStatus:
            return False
        return True

    until(again)


def test_handshakes_that_fail_are_not_counted(serve: Serve) -> None:
    server = serve("c.AgentStoreApp.max_user_connections = 1")
    with server.client(params={"storeId": "s"}) as http:
        for _ in range(5):
            assert http.get("websocket").status_code == 400
    opened(server, "s", **AUTHORIZED)


def test_a_client_that_pushes_too_fast_is_told_when_to_go_on(serve: Serve) -> None:
    server = serve("c.AgentStoreApp.push_events_per_second = 10")
    client = opened(server, "s", **AUTHORIZED)
    many = [{"n": n} for n in range(1_000)]
    assert client.exit(client.push(0, *many))["_tag"] == "Success"
    error = client.error(client.push(1_000, *many[:900]))
    assert error["_tag"] == "UnknownError"
    assert error["cause"]["name"] == "rate_limited"
    assert 0 < error["cause"]["retryAfter"] <= 90
    other = opened(server, "s", **AUTHORIZED)
    assert other.exit(other.push(1_000, {"n": 1}))["_tag"] == "Success"
    until(lambda: client.exit(client.push(1_001, {"n": 2}))["_tag"] == "Success")


# ---- who does not keep up

PROBE = """
import json, pathlib
from jupyter_agentstore.server.websocket import SyncHandler

most = {}
before = SyncHandler._do

def probed(self, actions):
    before(self, actions)
    if self.ws_connection is not None and "slow" in self.request.headers.get("User-Agent", ""):
        # What waits in the session's host, and all that was ever given to the socket: it may be in any buffer.
        held = self._out_bytes + self.ws_connection._wire_bytes_out
        if held > most.get("held", -1):
            most["held"] = held
            pathlib.Path("held.json").write_text(json.dumps(most))

SyncHandler._do = probed
"""


def deaf(server: Server, store_id: str) -> socket.socket:
    """A client that has opened a live pull and never reads."""
    where = urlsplit(address(server, store_id))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((where.hostname, where.port))
    client.sendall(
        f"GET {where.path}?{where.query} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"User-Agent: slow\r\nAuthorization: token {TOKEN}\r\n\r\n".encode()
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    payload = {"storeId": store_id, "live": True, "cursor": {"_tag": "None"}}
    frame = json.dumps({"_tag": "Request", "id": "1", "tag": "SyncWsRpc.Pull", "payload": payload}).encode()
    client.sendall(b"\x81\xfe" + len(frame).to_bytes(2, "big") + bytes(4) + frame)
    return client


def test_a_client_that_never_reads_costs_one_window_and_slows_nobody(serve: Serve) -> None:
    server = serve(PROBE)
    held = Path(server.folder / "root" / "held.json")
    with deaf(server, "s"):
        until(held.exists)
        pusher, reader = opened(server, "s", **AUTHORIZED), opened(server, "s", **AUTHORIZED)
        reader.pull()
        text = "x" * 600
        for parent in range(0, 20_000, 1_000):
            pushed = pusher.push(parent, *[{"n": n, "text": text} for n in range(1_000)])
            assert pusher.exit(pushed)["_tag"] == "Success"
        events = reader.events(20_000)
        assert [item["eventEncoded"]["seqNum"] for item in events] == list(range(1, 20_001))
        most = json.loads(held.read_text())["held"]
        assert 100_000 < most <= 2 * WINDOW_BYTES
    with server.client(params={"storeId": "s"}) as http:
        assert ok(http.get("events", params={"limit": 1}))["head"] == 20_000


WAITING = """
import asyncio, pathlib

waiting = 0

async def on_pull(info):
    global waiting
    if info.live:
        return
    waiting += 1
    pathlib.Path("waiting.txt").write_text(str(waiting))
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    waiting -= 1

c.AgentStoreApp.on_pull = on_pull
"""


def test_requests_that_are_interrupted_do_not_pile_up_in_the_server(serve: Serve) -> None:
    server = serve(WAITING)
    client = opened(server, "s", **AUTHORIZED)
    client.pull()
    client.receive()  # the store is open
    for _ in range(500):
        client.send({"_tag": "Interrupt", "requestId": client.pull(live=False)})
    client.send({"_tag": "Ping"})
    waiting = server.folder / "root" / "waiting.txt"
    until(lambda: waiting.exists() and int(waiting.read_text() or 0) > 32)
    with server.client() as http:  # a turn of the loop or two, in which more would come
        for _ in range(20):
            ok(http.get("health"))
    assert int(waiting.read_text()) < 60
    (server.folder / "root" / "go").touch()
    until(lambda: client.receive()["_tag"] == "Pong")
