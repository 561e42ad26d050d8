"""The sync protocol over a real server: who gets in, what they may do, what comes through, and what ends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.server.phone import AUTHORIZED, PATIENCE, Client, opened
from tests.server.servers import TOKEN, Server, until

Serve = Callable[..., Server]


def refusal(server: Server, store_id: str, query: str = "", **headers: str) -> int:
    """The status of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        opened(server, store_id, query, **headers)
    return int(refused.value.response.status_code)


def payload(token: str) -> str:
    """The parameter in which a LiveStore client sends a token."""
    return "&payload=" + quote(quote(json.dumps({"authToken": token}), safe=""), safe="")


# ---- who gets in


@pytest.mark.parametrize("way", ["header", "bearer", "query", "payload", "once-encoded"])
def test_the_token_lets_in_by_every_way_and_names_the_same_user(
    server: Server, store_id: str, way: str
) -> None:
    once = "&payload=" + quote(json.dumps({"authToken": TOKEN}), safe="")
    query = {"query": f"&token={TOKEN}", "payload": payload(TOKEN), "once-encoded": once}.get(way, "")
    headers = {"header": AUTHORIZED, "bearer": {"Authorization": f"Bearer {TOKEN}"}}.get(way, {})
    client = opened(server, store_id, query, **headers)
    client.pull()
    client.push(0, {"n": 1})
    with server.client(params={"storeId": store_id}) as http:
        http.post("events", json={"events": [{"name": "v1.MemoryAdded", "args": {}}]})
    (item,) = client.events(1)
    with server.client(params={"storeId": store_id}) as http:
        (event,) = http.get("events").json()["events"]
    assert item["metadata"]["value"]["actor"] == event["actor"]
    assert event["actor"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "&token=wrong",
        payload("wrong"),
        "&payload=%2522tok%2522",
        "&payload=%FF%25",
        "&payload={",
        "&payload=[1]",
    ],
)
def test_a_stranger_is_told_so(server: Server, store_id: str, query: str) -> None:
    assert refusal(server, store_id, query) == 401


def test_a_token_that_would_break_a_header_is_no_token(server: Server, store_id: str) -> None:
    assert refusal(server, store_id, payload(f"{TOKEN}\r\nX-User: root")) == 401


def test_the_secret_of_the_announcement_is_no_token(server: Server, store_id: str) -> None:
    secret = server.announced["secret"]
    assert refusal(server, store_id, payload(secret)) == 401
    opened(server, store_id, Authorization=f"agentstore {secret}")


def test_a_cookie_lets_in_from_the_servers_own_pages_only(server: Server, store_id: str) -> None:
    where = urlsplit(server.announced["url"])
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        browser.get(f"{server.announced['url']}tree?token={TOKEN}")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    assert cookie
    opened(server, store_id, Cookie=cookie, Origin=f"http://{where.netloc}")
    assert refusal(server, store_id, Cookie=cookie, Origin="https://evil.example") == 403
    assert refusal(server, store_id, payload("wrong"), Cookie=cookie, Origin="https://evil.example") == 403


def test_an_app_on_another_site_gets_in_with_a_token(server: Server, store_id: str) -> None:
    opened(server, store_id, payload(TOKEN), Origin="https://app.example")


@pytest.mark.parametrize("name", ["..", "a/b", "%20", ""])
def test_an_impossible_store_is_refused(server: Server, name: str) -> None:
    assert refusal(server, name, **AUTHORIZED) == 400


def test_no_log_holds_a_token(serve: Serve) -> None:
    server = serve(
        "from jupyter_server.auth import Authorizer\n"
        "class Broken(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        if 'broken' in resource:\n"
        "            raise RuntimeError('broken')\n"
        "        return 'closed' not in resource\n"
        "c.ServerApp.authorizer_class = Broken\n"
    )
    for query in (payload(TOKEN), f"&token={TOKEN}"):
        client = opened(server, "s", query)
        client.push(0, {"n": 1})
        client.request("SyncWsRpc.Pull", live=1, payload={"authToken": TOKEN})
        client.socket.send(f"no frame {TOKEN}")
        client.closed()
        assert refusal(server, "broken", query) == 500
        assert refusal(server, "closed", query) == 403
        assert refusal(server, "a/b", query) == 400
    assert refusal(server, "s", payload("another-secret")) == 401
    assert refusal(server, "s", "&token=another-secret") == 401
    assert server.terminate() == 0
    assert "agentstore/websocket" in server.log
    assert "broken" in server.log
    assert TOKEN not in server.log.replace(f"?token={TOKEN}\n", "")
    assert "another-secret" not in server.log


# ---- what comes through


def test_what_one_client_pushes_reaches_the_other_at_once(clients: tuple[Client, Client]) -> None:
    one, two = clients
    for client in clients:
        client.pull()
        assert client.receive()["values"][0]["pageInfo"] == {"_tag": "NoMore"}
    assert one.exit(one.push(0, {"n": 1}, {"n": 2})) == {"_tag": "Success", "value": {}}
    assert [frame["_tag"] for frame in one.frames] == ["Chunk", "Chunk", "Exit"]
    assert [item["eventEncoded"]["args"] for item in two.events(2)] == [{"n": 1}, {"n": 2}]
    two.push(2, {"n": 3})
    assert [item["eventEncoded"]["seqNum"] for item in one.events(1)] == [3]


def test_what_is_committed_over_rest_reaches_a_live_pull_and_so_does_the_reply(
    client: Client, server: Server, store_id: str
) -> None:
    client.pull()
    with server.client(params={"storeId": store_id}) as http:
        made = http.post("conversations", json={"userId": "ada"}).json()
        http.post("chat", json={"conversationId": made["conversationId"], "content": "Hello"})
    messages: list[dict[str, Any]] = []
    while len(messages) < 2:
        messages += [i for i in client.events(1) if i["eventEncoded"]["name"] == "v1.MessageAdded"]
    assert [m["eventEncoded"]["args"]["role"] for m in messages] == ["user", "assistant"]
    assert messages[1]["metadata"]["value"]["actor"].startswith("agent:")


def test_args_come_back_as_they_were_pushed(clients: tuple[Client, Client]) -> None:
    one, two = clients
    args = r'{"z":1.0, "a":1e2,"unknown":{"b":null},"half":"\ud83d","text":"ü\/","z":2}'
    event = f'{{"name":"x","args":{args},"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}}'
    one.socket.send(
        f'{{"_tag":"Request","id":"1","tag":"SyncWsRpc.Push","payload":{{"storeId":"{one.store_id}",'
        f'"batch":[{event}],"backendId":{{"_tag":"None"}}}}}}'
    )
    assert one.exit("1")["_tag"] == "Success"
    two.pull()
    assert args in str(two.socket.recv(PATIENCE))


def test_a_long_log_comes_in_pages_to_a_client_that_acknowledges(client: Client) -> None:
    for parent in range(0, 1000, 100):
        client.push(parent, *[{"n": n} for n in range(100)])
    client.exit("10")
    client.pull(live=False)
    assert [item["eventEncoded"]["seqNum"] for item in client.events(1000)] == list(range(1, 1001))
    assert client.receive()["exit"] == {"_tag": "Success"}


def test_the_largest_event_goes_through_and_a_larger_one_does_not(client: Client) -> None:
    assert client.exit(client.push(0, {"text": "x" * 799_000}))["_tag"] == "Success"
    assert client.error(client.push(1, {"text": "x" * 801_000}))["cause"]["name"] == "too_large"
    client.pull()
    assert len(client.events(1)[0]["eventEncoded"]["args"]["text"]) == 799_000


def test_a_push_out_of_order_is_told_the_head_and_above_it_that_the_log_is_another(client: Client) -> None:
    client.exit(client.push(0, {"n": 1}, {"n": 2}))
    assert client.error(client.push(1, {"n": 3})) == {
        "_tag": "ServerAheadError",
        "minimumExpectedNum": 2,
        "providedNum": 1,
    }
    assert client.error(client.push(5, {"n": 3}))["_tag"] == "BackendIdMismatchError"
    client.pull(live=False)
    client.events(2)
    assert client.error(client.pull(9))["_tag"] == "BackendIdMismatchError"
    assert client.exit(client.push(2, {"n": 3}))["_tag"] == "Success"


def test_clients_that_push_at_once_all_get_through_in_one_order(clients: tuple[Client, Client]) -> None:
    def insist(client: Client) -> list[dict[str, Any]]:
        """Push 20 events one by one, each as often as it takes; the log as it came in."""
        log: list[dict[str, Any]] = []
        client.pull()
        for number in range(20):
            ended: dict[str, Any] = {"_tag": "Failure"}
            while ended["_tag"] == "Failure":
                before = len(client.frames)
                ended = client.exit(client.push(len(log), {"by": id(client), "n": number}))
                log += received(client.frames[before:])
                while ended["_tag"] == "Failure" and ended["cause"]["error"]["minimumExpectedNum"] > len(log):
                    log += received([client.receive()])
        while len(log) < 40:
            log += client.events(1)
        return log

    def received(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [item for frame in frames if frame["_tag"] == "Chunk" for item in frame["values"][0]["batch"]]

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(insist, clients)
    assert one == two
    assert [item["eventEncoded"]["seqNum"] for item in one] == list(range(1, 41))


def test_a_store_that_sleeps_is_woken_unnoticed(serve: Serve) -> None:
    server = serve("c.AgentStoreApp.idle_seconds = 1.0")
    client, other = opened(server, "s", **AUTHORIZED), opened(server, "s", **AUTHORIZED)
    other.pull()
    client.exit(client.push(0, {"n": 1}))
    lock = server.stores / "s" / "lock"
    until(lambda: "asleep" in lock.read_text())
    client.exit(client.push(1, {"n": 2}))
    assert [item["eventEncoded"]["seqNum"] for item in other.events(2)] == [1, 2]


def test_a_client_goes_on_after_the_server_was_started_again(serve: Serve) -> None:
    server = serve()
    client = opened(server, "s", **AUTHORIZED)
    client.pull()
    client.receive()
    client.exit(client.push(0, {"n": 1}))
    assert server.terminate() == 0
    client.closed()
    again = opened(serve(folder=server.folder), "s", **AUTHORIZED)
    again.backend_id = client.backend_id
    again.pull(1)
    assert again.receive()["values"][0]["batch"] == []
    assert again.exit(again.push(1, {"n": 2}))["_tag"] == "Success"


# ---- what they may do


def test_a_reader_who_pushes_is_refused_and_a_writer_is_not(ruled: Server, store_id: str) -> None:
    writer = opened(ruled, store_id, X_User="writer")
    assert writer.exit(writer.push(0, {"n": 1}))["_tag"] == "Success"
    reader = opened(ruled, store_id, X_User="reader")
    assert reader.error(reader.push(1, {"n": 2}))["cause"]["name"] == "forbidden"
    reader.pull()
    (item,) = reader.events(1)
    assert item["metadata"]["value"]["actor"] == "writer"
    assert reader.error(reader.push(1, {"n": 2}))["cause"]["name"] == "forbidden"
    writer.push(1, {"n": 2})
    assert reader.events(1)[0]["eventEncoded"]["args"] == {"n": 2}


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_a_message_in_the_agents_name_needs_more_than_to_write(
    ruled: Server, store_id: str, role: str
) -> None:
    message = {"id": "m", "conversationId": "c", "role": role, "content": "x", "metadata": None}
    writer = opened(ruled, store_id, X_User="writer")
    refused = writer.push(0, message | {"role": "user"}, message, name="v1.MessageAdded")
    assert writer.error(refused)["cause"]["name"] == "forbidden"
    assert (
        writer.exit(writer.push(0, message | {"role": "user"}, name="v1.MessageAdded"))["_tag"] == "Success"
    )
    owner = opened(ruled, store_id, X_User="owner")
    assert owner.exit(owner.push(1, message, name="v1.MessageAdded"))["_tag"] == "Success"


def test_the_actor_of_an_event_is_who_pushed_it_whatever_it_claims(ruled: Server, store_id: str) -> None:
    claims = {"actor": "agent:fake", "userId": "owner"}
    for parent, name in enumerate(("writer", "owner", "writer")):
        client = opened(ruled, store_id, X_User=name)
        event = {"name": "v1.Noted", "args": claims, "seqNum": parent + 1, "parentSeqNum": parent}
        event |= {"clientId": "agent:fake", "sessionId": "owner", "actor": "owner", "metadata": claims}
        pushed = client.request("SyncWsRpc.Push", batch=[event], backendId={"_tag": "None"}, actor="owner")
        assert client.exit(pushed)["_tag"] == "Success"
    reader = opened(ruled, store_id, X_User="reader")
    reader.pull(live=False)
    actors = ["writer", "owner", "writer"]
    assert [item["metadata"]["value"]["actor"] for item in reader.events(3)] == actors
    with ruled.client(params={"storeId": store_id}, headers={"X-User": "reader"}) as http:
        assert [event["actor"] for event in http.get("events").json()["events"]] == actors
        rows = http.post("query", json={"sql": "select actor from events order by seq"}).json()["rows"]
    assert [row["actor"] for row in rows] == actors


def test_who_may_not_read_does_not_get_in(ruled: Server, store_id: str) -> None:
    assert refusal(ruled, "Secret", X_User="writer") == 403
    assert refusal(ruled, store_id, X_User="nobody") == 403
    assert refusal(ruled, store_id) == 401
    assert refusal(ruled, store_id, X_User="agent:fake") == 403


def test_upper_and_lower_case_are_no_way_round_a_right(ruled: Server) -> None:
    owner = opened(ruled, "Secret", X_User="owner")
    owner.exit(owner.push(0, {"n": 1}))
    assert refusal(ruled, "sECRET", X_User="writer") == 403


def test_a_reader_makes_no_store_and_gets_it_once_it_is_there(ruled: Server, store_id: str) -> None:
    reader = opened(ruled, store_id, X_User="reader")
    assert reader.error(reader.pull(live=False))["cause"]["name"] == "not_found"
    reader.pull()
    reader.send({"_tag": "Ping"})
    assert reader.receive() == {"_tag": "Pong"}
    assert not (ruled.stores / store_id).exists()
    writer = opened(ruled, store_id, X_User="writer")
    writer.push(0, {"n": 1})
    assert len(reader.events(1)) == 1


def test_a_writer_makes_a_store_by_a_pull_and_it_keeps_its_name(ruled: Server, store_id: str) -> None:
    writer = opened(ruled, store_id, X_User="writer")
    writer.pull()
    backend_id = writer.receive()["values"][0]["backendId"]
    assert backend_id
    reader = opened(ruled, store_id, X_User="reader")
    reader.pull()
    assert reader.receive()["values"][0]["backendId"] == backend_id


@pytest.mark.parametrize("live", [True, False])
def test_a_right_that_is_taken_away_ends_a_connection(serve: Serve, live: bool) -> None:
    server = serve(
        "import asyncio, pathlib\n"
        "from jupyter_server.auth import Authorizer\n"
        "import jupyter_agentstore.server.websocket as websocket\n"
        "websocket.RECHECK_SECONDS = 0.05\n"
        "class Slow(Authorizer):\n"
        "    async def is_authorized(self, handler, user, action, resource):\n"
        "        await asyncio.sleep(0)\n"
        "        return action != 'read' or not pathlib.Path('taken-away').exists()\n"
        "c.ServerApp.authorizer_class = Slow\n"
    )
    client = opened(server, "s", **AUTHORIZED)
    client.pull(live=live)
    client.exit(client.push(0, {"n": 1}))
    (server.folder / "root" / "taken-away").touch()
    ended = client.closed()
    assert ended.rcvd is not None
    assert (ended.rcvd.code, ended.rcvd.reason) == (1008, "You may no longer read this store.")
    assert refusal(server, "s", **AUTHORIZED) == 403


def test_a_connection_is_one_stores(client: Client) -> None:
    client.store_id = "another"
    assert client.error(client.pull())["cause"]["name"] == "forbidden"
    assert client.error(client.push(0, {"n": 1}))["cause"]["name"] == "forbidden"


# ---- what ends it, and what does not


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("no frame", 1007),
        (b"\xff\xfe", 1007),
        ("{}", 1008),
        ('{"_tag":"Request"}', 1008),
        (" " * 2_000_000, 1009),
    ],
)
def test_what_is_no_frame_ends_the_connection_with_a_reason(
    client: Client, frame: str | bytes, code: int
) -> None:
    client.socket.send(frame)
    ended = client.closed()
    assert ended.rcvd is not None
    assert ended.rcvd.code == code
    assert ended.rcvd.reason


def test_a_frame_of_100_megabytes_ends_the_connection_and_nothing_else(
    clients: tuple[Client, Client], server: Server
) -> None:
    one, two = clients
    with suppress(ConnectionClosed, OSError):
        one.socket.send(b"x" * 100_000_000)
    one.closed()
    assert two.exit(two.push(0, {"n": 1}))["_tag"] == "Success"


def test_a_request_of_another_shape_fails_by_itself(client: Client) -> None:
    assert client.error(client.request("SyncWsRpc.Pull", live="yes"))["_tag"] == "UnknownError"
    assert client.error(client.request("AgentStore.Dance"))["_tag"] == "UnknownError"
    assert client.exit(client.push(0, {"n": 1}))["_tag"] == "Success"


def test_a_client_that_takes_nothing_holds_up_nobody(clients: tuple[Client, Client]) -> None:
    slow, quick = clients
    slow.pull()
    slow.socket.recv(PATIENCE)
    text = "x" * 100_000
    for parent in range(0, 200, 5):
        assert quick.exit(quick.push(parent, *[{"text": text}] * 5))["_tag"] == "Success"
    slow.frames.clear()
    slow.send({"_tag": "Ack", "requestId": "1"})
    assert [item["eventEncoded"]["seqNum"] for item in slow.events(200)] == list(range(1, 201))


def test_a_flood_of_pings_is_answered_in_full(client: Client) -> None:
    for _ in range(5000):
        client.socket.send('{"_tag":"Ping"}')
    for _ in range(5000):
        assert client.receive() == {"_tag": "Pong"}


def test_what_was_pushed_is_kept_even_if_the_client_is_gone(
    client: Client, server: Server, store_id: str
) -> None:
    client.push(0, {"n": 1})
    client.socket.close()
    with server.client(params={"storeId": store_id}) as http:
        until(lambda: http.get("events").json()["head"] == 1)


def test_an_interrupted_pull_is_silent(client: Client) -> None:
    client.send({"_tag": "Interrupt", "requestId": client.pull()})
    client.exit(client.push(0, {"n": 1}))
    client.send({"_tag": "Ping"})
    assert client.receive() == {"_tag": "Pong"}
    chunks = [frame for frame in client.frames if frame["_tag"] == "Chunk"]
    assert all(not frame["values"][0]["batch"] for frame in chunks)
