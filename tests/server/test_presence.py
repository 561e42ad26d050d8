"""Who is there and what the agent does, over real websockets: told live, kept nowhere, gone in time."""

from __future__ import annotations

from typing import Any

from tests.server.phone import AUTHORIZED, Client, opened
from tests.server.servers import Serve, Server, ok


def gone(item: dict[str, Any]) -> bool:
    return item["state"] is None


def there(item: dict[str, Any]) -> bool:
    return item["state"] is not None


def test_what_one_says_of_itself_the_other_is_told(clients: tuple[Client, Client], server: Server) -> None:
    one, two = clients
    one.watch()
    first = one.receive()["values"]
    assert first == [
        {"kind": "agent", "state": {"isThinking": False, "currentTask": None, "lastActivity": None}}
    ]
    assert two.exit(two.present({"typing": True, "conversationId": "k"}))["_tag"] == "Success"
    item = one.told("presence")
    assert item["at"].endswith("Z")
    assert item["actor"]
    assert {**item, "at": "", "actor": ""} == {
        "kind": "presence",
        "actor": "",
        "clientId": "c",
        "sessionId": "s",
        "state": {"typing": True, "conversationId": "k"},
        "at": "",
    }
    two.watch()
    assert [item["kind"] for item in two.receive()["values"]] == ["agent", "presence"]
    two.present(None)
    assert one.told("presence")["state"] is None
    with server.client(params={"storeId": one.store_id}) as http:
        assert ok(http.get("events"))["events"] == []


def test_a_presence_goes_with_its_connection(clients: tuple[Client, Client]) -> None:
    one, two = clients
    one.watch()
    two.present({"here": 1})
    assert one.told("presence")["state"] == {"here": 1}
    two.socket.close()
    assert one.told("presence")["state"] is None


def test_a_client_that_has_come_back_is_still_there_when_its_old_connection_ends(
    clients: tuple[Client, Client], server: Server
) -> None:
    watcher, old = clients
    watcher.watch()
    old.exit(old.present({"n": 1}))
    new = opened(server, watcher.store_id, **AUTHORIZED)
    new.exit(new.present({"n": 2}))
    watcher.told("presence", lambda item: item["state"] == {"n": 2})
    old.socket.close()
    new.present({"n": 3})
    assert watcher.told("presence")["state"] == {"n": 3}


def test_one_user_cannot_take_all_presences_of_a_store(serve: Serve) -> None:
    server = serve("import jupyter_agentstore.server.presence as presence\npresence.MAX_USER_PRESENCES = 2")
    one, two = opened(server, "s", **AUTHORIZED), opened(server, "s", **AUTHORIZED)
    one.exit(one.present({"n": 1}, client_id="a"))
    one.exit(one.present({"n": 1}, client_id="b"))
    assert two.error(two.present({"n": 1}, client_id="c"))["cause"]["name"] == "too_large"
    assert one.exit(one.present({"n": 2}, client_id="a"))["_tag"] == "Success"  # it is known already
    one.exit(one.present(None, client_id="b"))
    assert two.exit(two.present({"n": 1}, client_id="c"))["_tag"] == "Success"


def test_a_presence_that_is_not_renewed_expires(serve: Serve) -> None:
    server = serve("import jupyter_agentstore.server.presence as presence\npresence.EXPIRY_SECONDS = 0.3")
    watcher, other = opened(server, "s", **AUTHORIZED), opened(server, "s", **AUTHORIZED)
    watcher.watch()
    other.exit(other.present({"here": 1}))
    assert there(watcher.told("presence"))
    assert gone(watcher.told("presence"))
    late = opened(server, "s", **AUTHORIZED)
    late.watch()
    assert [item["kind"] for item in late.receive()["values"]] == ["agent"]


def test_what_the_agent_does_is_told_while_it_does_it(serve: Serve) -> None:
    server = serve("c.AgentStoreApp.reply_delay = [2.0, 2.0]")
    client = opened(server, "s", **AUTHORIZED)
    client.exit(client.push(0, {"n": 1}))
    client.watch()
    client.receive()
    with server.client(params={"storeId": client.store_id}) as http:
        made = ok(http.post("conversations", json={"userId": "ada"}))
        http.post("chat", json={"conversationId": made["conversationId"], "content": "Hello"})
    busy = client.told("agent", lambda item: item["state"]["isThinking"])
    assert busy["state"]["currentTask"]
    idle = client.told("agent", lambda item: not item["state"]["isThinking"])
    assert idle["state"]["lastActivity"] >= busy["state"]["lastActivity"]


def test_the_actor_of_a_presence_is_who_is_logged_in(ruled: Server, store_id: str) -> None:
    owner = opened(ruled, store_id, X_User="owner")
    owner.watch()
    reader = opened(ruled, store_id, X_User="reader")
    reader.exit(reader.present({"actor": "owner", "here": 1}))
    assert owner.told("presence")["actor"] == "reader"
    writer = opened(ruled, store_id, X_User="writer")
    writer.exit(writer.present(None))  # as the reader's client, but it is not
    reader.present({"here": 2})
    assert owner.told("presence")["state"] == {"here": 2}


def test_one_store_does_not_hear_of_another(server: Server, store_id: str) -> None:
    here, elsewhere = opened(server, store_id, **AUTHORIZED), opened(server, f"{store_id}-b", **AUTHORIZED)
    for client in (here, elsewhere):
        client.watch()
        client.receive()
    elsewhere.exit(elsewhere.present({"where": "there"}))
    here.present({"where": "here"})
    assert here.told("presence")["state"] == {"where": "here"}


def test_a_reader_watches_a_store_once_it_is_there(ruled: Server, store_id: str) -> None:
    reader = opened(ruled, store_id, X_User="reader")
    reader.watch()
    assert reader.error(reader.present({"here": 1}))["cause"]["name"] == "not_found"
    writer = opened(ruled, store_id, X_User="writer")
    writer.push(0, {"n": 1})
    assert reader.told("agent")["state"]["isThinking"] is False


def test_presences_that_come_too_fast_are_refused_for_a_while(client: Client) -> None:
    asked = [client.present({"n": number}) for number in range(30)]
    ends = [client.exit(one) for one in asked]
    failed = [end["cause"]["error"]["cause"] for end in ends if end["_tag"] == "Failure"]
    assert ends[0]["_tag"] == "Success"
    assert {error["name"] for error in failed} == {"rate_limited"}
    assert all(0 < error["retryAfter"] <= 1 for error in failed)
    assert client.exit(client.push(0, {"n": 1}))["_tag"] == "Success"


def test_a_watcher_that_takes_nothing_is_told_the_latest_only(
    clients: tuple[Client, Client], server: Server
) -> None:
    slow, quick = clients
    slow.watch()
    assert "agent" in str(slow.socket.recv(30))  # and no Ack
    with server.client(params={"storeId": slow.store_id}) as http:
        made = ok(http.post("conversations", json={"userId": "ada"}))["conversationId"]
        for _ in range(20):
            http.post("chat", json={"conversationId": made, "content": "Hello"})
    quick.watch()
    quick.present({"last": True})
    quick.told("presence")
    slow.send({"_tag": "Ack", "requestId": "1"})
    news = slow.receive()["values"]
    assert len(news) == 2
    assert {item["kind"] for item in news} == {"agent", "presence"}


def test_two_servers_with_one_folder_hear_of_each_others_clients(serve: Serve) -> None:
    host = serve("c.AgentStoreApp.reply_delay = [600.0, 600.0]")  # it thinks until all have heard of it
    here = opened(host, "s", **AUTHORIZED)
    here.exit(here.push(0, {"n": 1}))
    here.exit(here.present({"where": "host"}))
    guest = serve(f"c.AgentStoreApp.folder = {str(host.stores)!r}")
    visitor = opened(guest, "s", **AUTHORIZED)
    visitor.watch()
    assert visitor.told("presence")["state"] == {"where": "host"}
    here.watch()
    visitor.present({"where": "guest"}, client_id="g")
    assert here.told("presence", lambda item: item["clientId"] == "g")["state"] == {"where": "guest"}
    with guest.client(params={"storeId": "s"}) as http:
        made = ok(http.post("conversations", json={"userId": "ada"}))
        ok(http.post("chat", json={"conversationId": made["conversationId"], "content": "Hello"}))
    for watcher in (here, visitor):
        assert watcher.told("agent", lambda item: item["state"]["isThinking"])
    visitor.socket.close()
    assert gone(here.told("presence", lambda item: item["clientId"] == "g"))
