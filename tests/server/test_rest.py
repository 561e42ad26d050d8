"""What each REST call does when it is used as it is meant to be."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import uuid
from typing import Any

import httpx
import pyarrow
import pytest

from jupyter_agentstore import __version__
from jupyter_agentstore.core.agent_schema import agent_schema
from tests.server.servers import TOKEN, Server, head, ok, until

ARROW = "application/vnd.apache.arrow.stream"


def arrow(answer: httpx.Response) -> pyarrow.Table:
    """The table in an Arrow stream."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW
    return pyarrow.ipc.open_stream(io.BytesIO(answer.content)).read_all()


# ---- conversations


def test_a_conversation_is_begun_with_what_was_given(http: httpx.Client) -> None:
    said = {"userId": "ada", "title": "Coffee", "personality": "brisk", "instructions": "Be short"}
    made = ok(http.post("conversations", json=said))
    row = made["conversation"]
    assert row["id"] == made["conversationId"]
    assert {name: row[name] for name in said} == said
    assert row["status"] == "active"
    assert row["createdAt"] == row["updatedAt"]
    assert row["createdAt"].endswith("Z")


def test_a_conversation_without_a_title_takes_the_defaults(http: httpx.Client) -> None:
    row = ok(http.post("conversations", json={"userId": "ada", "title": "", "personality": None}))[
        "conversation"
    ]
    assert row["title"] == "New Conversation"
    assert row["personality"] == "helpful and friendly"
    assert row["instructions"] == "Be helpful and accurate"


def test_conversations_are_listed_in_the_order_of_their_beginning(http: httpx.Client) -> None:
    made = [ok(http.post("conversations", json={"userId": "ada", "title": t}))["conversation"] for t in "abc"]
    assert ok(http.get("conversations")) == {"conversations": made}


@pytest.mark.parametrize("own", ["id", "commitId"])
def test_a_conversation_sent_twice_with_its_own_id_is_begun_once(http: httpx.Client, own: str) -> None:
    body = {"userId": "ada", "title": "Coffee", own: "mine"}
    first = ok(http.post("conversations", json=body))
    assert ok(http.post("conversations", json=body)) == first
    assert head(http) == 1
    other = http.post("conversations", json={**body, "title": "Tea"})
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "conflict"
    assert head(http) == 1


def test_a_conversation_sent_again_later_is_answered_as_the_first_time(http: httpx.Client) -> None:
    body = {"userId": "ada", "id": "c1"}
    first = ok(http.post("conversations", json=body))
    touched = {"id": "c1", "updatedAt": "2030-01-01T00:00:00Z", "status": "archived"}
    ok(http.post("events", json={"events": [{"name": "v1.ConversationUpdated", "args": touched}]}))
    assert ok(http.get("conversations"))["conversations"][0]["status"] == "archived"
    assert ok(http.post("conversations", json=body)) == first


def test_without_an_id_of_its_own_each_call_begins_a_conversation(http: httpx.Client) -> None:
    ids = {ok(http.post("conversations", json={"userId": "ada"}))["conversationId"] for _ in range(2)}
    assert len(ids) == 2


# ---- chat


def test_what_is_said_is_a_message_and_touches_the_conversation_in_one_append(
    http: httpx.Client, conversation: str
) -> None:
    body = {"conversationId": conversation, "content": "A mocha", "role": "system"}
    said = ok(http.post("chat", json=body))
    assert said["success"] is True
    message = said["message"]
    assert message["conversationId"] == conversation
    assert (message["role"], message["content"], message["seq"]) == ("system", "A mocha", 2)
    events = ok(http.get("events"))["events"]
    assert [event["name"] for event in events[1:]] == ["v1.MessageAdded", "v1.ConversationUpdated"]
    assert events[1]["recordedAt"] == events[2]["recordedAt"] == message["timestamp"]


def test_what_a_user_says_is_answered_by_the_agent(http: httpx.Client, conversation: str) -> None:
    message = ok(http.post("chat", json={"conversationId": conversation, "content": "A mocha, please"}))[
        "message"
    ]
    assert message["role"] == "user"
    page = {"conversationId": conversation}
    answered = until(lambda: ok(http.get("messages", params=page))["messages"][1:])
    assert answered[0]["role"] == "assistant"
    assert answered[0]["actor"] == "agent:simulated"
    assert "A mocha, please" in answered[0]["content"]
    assert json.loads(answered[0]["metadata"])["replyTo"] == message["id"]


@pytest.mark.parametrize("own", [{"id": "m1"}, {"commitId": "mine"}, {"id": "m1", "commitId": "mine"}])
def test_a_message_sent_twice_with_its_own_id_is_said_once(
    http: httpx.Client, conversation: str, own: dict[str, str]
) -> None:
    body = {"conversationId": conversation, "content": "A mocha", "role": "system", **own}
    first = ok(http.post("chat", json=body))
    assert ok(http.post("chat", json=body)) == first
    assert head(http) == 3
    other = http.post("chat", json={**body, "content": "A latte"})
    assert other.status_code == 409
    assert head(http) == 3


def test_the_same_message_sent_by_many_at_once_is_said_once(http: httpx.Client, conversation: str) -> None:
    body = {"conversationId": conversation, "content": "A mocha", "role": "system", "commitId": "mine"}
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ok(http.post("chat", json=body)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [answers[0]] * 8
    assert head(http) == 3


def test_half_an_emoji_comes_back_as_it_came(http: httpx.Client, conversation: str) -> None:
    body = rb'{"conversationId": "%s", "content": "half: \ud83d", "role": "system"}' % conversation.encode()
    said = http.post("chat", content=body)
    assert said.status_code == 200, said.text
    assert rb"half: \ud83d" in said.content
    assert rb"half: \ud83d" in http.get("events").content
    page = ok(http.get("messages", params={"conversationId": conversation}))
    assert page["messages"][0]["content"] == "half: \N{REPLACEMENT CHARACTER}"


def test_text_of_every_kind_comes_back_unchanged(http: httpx.Client, conversation: str) -> None:
    text = "naïve 😀 \u2028 \x7f <script>alert(1)</script> '; drop table messages; -- \t\n"
    ok(http.post("chat", json={"conversationId": conversation, "content": text, "role": "system"}))
    page = ok(http.get("messages", params={"conversationId": conversation}))
    assert page["messages"][0]["content"] == text


# ---- memory, messages, status


def test_facts_are_remembered_all_together(http: httpx.Client, conversation: str) -> None:
    facts = ["Prefers oat milk", "Is called Ada"]
    body = {"conversationId": conversation, "facts": facts}
    assert ok(http.post("agent/memory", json=body)) == {"success": True}
    rows = ok(http.post("query", json={"sql": 'select fact from "conversationMemory" order by fact'}))["rows"]
    assert sorted(facts) == [row["fact"] for row in rows]


def test_facts_sent_twice_with_a_commit_id_are_remembered_once(http: httpx.Client, conversation: str) -> None:
    body = {"conversationId": conversation, "facts": ["a", "b"], "commitId": "mine"}
    for _ in range(2):
        assert ok(http.post("agent/memory", json=body)) == {"success": True}
    assert head(http) == 3
    for facts in (["a"], ["a", "b", "c"], ["a", "c"]):
        assert http.post("agent/memory", json={**body, "facts": facts}).status_code == 409
    assert head(http) == 3


def test_no_facts_are_no_change(http: httpx.Client, conversation: str) -> None:
    assert ok(http.post("agent/memory", json={"conversationId": conversation, "facts": []})) == {
        "success": True
    }
    assert head(http) == 1


def test_messages_are_read_from_the_end_or_past_a_number(http: httpx.Client, conversation: str) -> None:
    said = [
        ok(http.post("chat", json={"conversationId": conversation, "content": str(n), "role": "system"}))[
            "message"
        ]
        for n in range(5)
    ]
    page: dict[str, Any] = {"conversationId": conversation}
    assert ok(http.get("messages", params=page))["messages"] == said
    assert ok(http.get("messages", params={**page, "limit": 2}))["messages"] == said[3:]
    after = {**page, "after": said[1]["seq"], "limit": 2}
    assert ok(http.get("messages", params=after))["messages"] == said[2:4]
    assert ok(http.get("messages", params={**page, "after": said[-1]["seq"]}))["messages"] == []


def test_long_messages_come_in_more_than_one_answer(http: httpx.Client, conversation: str) -> None:
    events = [
        {
            "name": "v1.MessageAdded",
            "args": {
                "id": f"m{n}",
                "conversationId": conversation,
                "role": "system",
                "content": "x" * 700_000,
            },
        }
        for n in range(30)
    ]
    ok(http.post("events", json={"events": events}))
    page: dict[str, Any] = {"conversationId": conversation}
    last = [message["id"] for message in ok(http.get("messages", params=page))["messages"]]
    assert last == [f"m{n}" for n in range(30)][-len(last) :]
    assert 15 < len(last) < 30
    found: list[str] = []
    after = 1
    while messages := ok(http.get("messages", params={**page, "after": after}))["messages"]:
        found += [message["id"] for message in messages]
        after = messages[-1]["seq"]
    assert found == [f"m{n}" for n in range(30)]


def test_status_counts_what_there_is(http: httpx.Client, conversation: str) -> None:
    ok(http.post("chat", json={"conversationId": conversation, "content": "A mocha", "role": "system"}))
    status = ok(http.get("agent/status"))
    assert set(status) == {
        "isThinking", "currentTask", "lastActivity", "totalMessages", "activeConversations", "conversationCount",
        "messageCount", "memoryUsage",
    }  # fmt: skip
    assert status["conversationCount"] == status["activeConversations"] == 1
    assert status["messageCount"] == status["totalMessages"] == 1
    assert status["isThinking"] is False
    assert status["memoryUsage"] > 100


# ---- events


def test_events_are_committed_together_and_read_in_order(http: httpx.Client) -> None:
    begun = {"id": "c1", "userId": "ada", "title": "T", "personality": "P", "instructions": "I"}
    events = [
        {"name": "v1.ConversationCreated", "args": begun},
        {"name": "v1.MemoryAdded", "args": {"id": "f1", "conversationId": "c1", "fact": "Oat milk"}},
    ]
    assert ok(http.post("events", json={"events": events})) == {"seqs": [1, 2], "head": 2, "repeated": False}
    page = ok(http.get("events"))
    assert page["head"] == 2
    assert [{"name": e["name"], "args": e["args"]} for e in page["events"]] == events
    assert [e["seq"] for e in page["events"]] == [1, 2]
    assert {e["clientId"] for e in page["events"]} == {"server"}
    assert [e["seq"] for e in ok(http.get("events", params={"after": 1}))["events"]] == [2]
    log = page["backendId"]
    assert log
    assert ok(http.get("events", params={"after": 99})) == {"events": [], "head": 2, "backendId": log}


def test_events_sent_twice_with_a_commit_id_are_committed_once(http: httpx.Client) -> None:
    body = {
        "events": [{"name": "v1.ConversationCreated", "args": {"id": "c1", "userId": "ada"}}],
        "commitId": "mine",
    }
    first = ok(http.post("events", json=body))
    assert ok(http.post("events", json=body)) == {**first, "repeated": True}
    body["events"][0]["args"]["userId"] = "bob"  # type: ignore[index]
    assert http.post("events", json=body).status_code == 409
    assert head(http) == 1


def test_of_events_that_cannot_all_be_none_is_committed(http: httpx.Client) -> None:
    events = [
        {"name": "v1.ConversationCreated", "args": {"id": "c1", "userId": "ada"}},
        {"name": "v1.MemoryAdded", "args": {"id": "f1", "conversationId": "c2", "fact": "Oat milk"}},
    ]
    answer = http.post("events", json={"events": events})
    assert answer.status_code == 404
    assert answer.json()["error"]["field"] == "conversationId"
    assert head(http) == 0


def test_ten_thousand_events_are_one_commit(http: httpx.Client, conversation: str) -> None:
    events = [
        {
            "name": "v1.MemoryAdded",
            "args": {"id": f"f{n}", "conversationId": conversation, "fact": f"Fact {n}"},
        }
        for n in range(10_000)
    ]
    done = ok(http.post("events", json={"events": events}))
    assert (done["seqs"][0], done["seqs"][-1], done["head"]) == (2, 10_001, 10_001)
    page = ok(http.get("events", params={"limit": 10_000}))
    assert len(page["events"]) == 10_000


# ---- query and tables


def test_a_query_answers_rows_as_json(http: httpx.Client, conversation: str) -> None:
    for content in ("a", "b"):
        ok(http.post("chat", json={"conversationId": conversation, "content": content, "role": "system"}))
    sql = 'select role, count(*) as n, max("timestamp") as last, 0.0 / 0 as none from messages group by role'
    answer = ok(http.post("query", json={"sql": sql}))
    assert answer["columns"] == ["role", "n", "last", "none"]
    assert answer["seq"] == 5
    [row] = answer["rows"]
    assert (row["role"], row["n"], row["none"]) == ("system", 2, None)
    assert row["last"].endswith("Z")


def test_a_query_takes_parameters_by_place_and_by_name(http: httpx.Client, conversation: str) -> None:
    for sql, params in (("where id = ?", [conversation]), ("where id = $id", {"id": conversation})):
        answer = ok(
            http.post("query", json={"sql": f"select title from conversations {sql}", "params": params})
        )
        assert answer["rows"] == [{"title": "Coffee"}]


def test_a_query_answers_an_arrow_stream_when_asked(http: httpx.Client, conversation: str) -> None:
    body = {"sql": "select id, 1 as one from conversations"}
    answer = http.post("query", json=body, headers={"Accept": ARROW})
    assert arrow(answer).to_pylist() == [{"id": conversation, "one": 1}]
    assert answer.headers["agentstore-seq"] == "1"
    assert answer.headers["agentstore-stale"] == "false"


def test_a_query_sees_what_was_written_just_before(http: httpx.Client) -> None:
    for n in range(1, 20):
        ok(http.post("conversations", json={"userId": "ada"}))
        answer = ok(http.post("query", json={"sql": "select count(*) as n from conversations"}))
        assert (answer["rows"], answer["seq"]) == ([{"n": n}], n)


def test_a_table_comes_whole(http: httpx.Client, conversation: str) -> None:
    events = [
        {"name": "v1.MemoryAdded", "args": {"id": f"f{n}", "conversationId": conversation, "fact": "x" * 100}}
        for n in range(10_000)
    ]
    for turn in range(3):
        for event in events:
            event["args"]["id"] += f"-{turn}"  # type: ignore[index]
        ok(http.post("events", json={"events": events}))
    table = arrow(http.get("tables/conversationMemory"))
    assert table.num_rows == 30_000
    assert table.column_names == ["id", "conversationId", "fact", "createdAt"]
    assert arrow(http.get("tables/events")).num_rows == 30_001


@pytest.mark.parametrize(
    "name", ["conversations", "messages", "conversationMemory", "events", "anomalies", "agentState"]
)
def test_every_table_that_can_be_seen_comes_even_when_it_is_empty(http: httpx.Client, name: str) -> None:
    assert arrow(http.get(f"tables/{name}")).column_names


@pytest.mark.parametrize(
    "name", ["nothing", "agentstore_meta", "agentstore_commits", "duckdb_tables()", "..%2Fx"]
)
def test_no_other_table_comes(http: httpx.Client, conversation: str, name: str) -> None:
    answer = http.get(f"tables/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


# ---- stores


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("conversations", {"conversations": []}),
        ("events", {"events": [], "head": 0, "backendId": None}),
        ("agent/status", None),
        ("tables/messages", None),
    ],
)
def test_reading_a_store_that_is_not_there_finds_it_empty_and_creates_nothing(
    server: Server, http: httpx.Client, path: str, found: Any
) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert found is None or answer.json() == found
    assert ok(http.post("query", json={"sql": "select count(*) as n from messages"}))["rows"] == [{"n": 0}]
    assert not (server.stores / http.params["storeId"]).exists()
    assert http.params["storeId"] not in {store["id"] for store in ok(http.get("stores"))["stores"]}


def test_two_stores_know_nothing_of_each_other(server: Server) -> None:
    name = uuid.uuid4().hex[:8]
    with (
        server.client(params={"storeId": f"a-{name}"}) as a,
        server.client(params={"storeId": f"b-{name}"}) as b,
    ):
        for http in (a, b):
            ok(http.post("conversations", json={"userId": http.params["storeId"], "id": "same"}))
        for http in (a, b):
            [row] = ok(http.get("conversations"))["conversations"]
            assert row["userId"] == http.params["storeId"]
            rows = ok(http.post("query", json={"sql": 'select "userId" from conversations'}))["rows"]
            assert rows == [{"userId": http.params["storeId"]}]
        other = a.post("query", json={"sql": f"select * from b-{name}.conversations"})
        assert other.status_code == 400
        assert {f"a-{name}", f"b-{name}"} <= {store["id"] for store in ok(a.get("stores"))["stores"]}


def test_a_store_is_the_same_however_its_id_is_spelled(server: Server) -> None:
    name = f"Mixed-{uuid.uuid4().hex[:8]}"
    with server.client(params={"storeId": name}) as http:
        ok(http.post("conversations", json={"userId": "ada"}))
        assert len(ok(http.get("conversations", params={"storeId": name.upper()}))["conversations"]) == 1


def test_without_a_store_id_a_call_goes_to_the_default_store(server: Server) -> None:
    with server.client() as http:
        made = ok(http.post("conversations", json={"userId": "ada"}))["conversationId"]
        there = ok(http.get("conversations", params={"storeId": "default-agent"}))["conversations"]
        assert made in [row["id"] for row in there]


def test_health_says_that_it_is_up_which_version_and_which_schema(http: httpx.Client) -> None:
    assert ok(http.get("health")) == {"status": "ok", "version": __version__, "schema": agent_schema.hash}


def test_curl_as_in_the_readme(server: Server, http: httpx.Client) -> None:
    url = str(http.base_url).rstrip("/")
    store = http.params["storeId"]

    def curl(path: str, *data: str) -> Any:
        command = [
            "curl",
            "-sS",
            "-H",
            f"Authorization: token {TOKEN}",
            f"{url}/{path}?storeId={store}",
            *data,
        ]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)

    made = curl("conversations", "-d", '{"userId": "ada", "title": "Coffee & cake = 100%"}')
    conversation = made["conversationId"]
    said = curl("chat", "-d", json.dumps({"conversationId": conversation, "content": "A mocha, please"}))
    assert said["success"]
    assert curl("conversations")["conversations"][0]["title"] == "Coffee & cake = 100%"
    assert curl("agent/status")["conversationCount"] == 1
    facts = json.dumps({"conversationId": conversation, "facts": ["Prefers oat milk"]})
    assert curl("agent/memory", "-d", facts) == {"success": True}


# ---- one row


def test_one_row_is_read_by_its_key(http: httpx.Client, conversation: str) -> None:
    ask = {"table": "conversations", "key": conversation}
    listed = ok(http.get("conversations"))["conversations"]
    assert ok(http.get("row", params=ask)) == {"row": listed[0]}
    assert ok(http.get("row", params={**ask, "key": "another"})) == {"row": None}
    refused = http.get("row", params={**ask, "table": "agentstore_meta"})
    assert refused.status_code == 404


def test_messages_after_zero_begin_at_the_beginning(http: httpx.Client, conversation: str) -> None:
    for text in ("one", "two", "three"):
        ok(http.post("chat", json={"conversationId": conversation, "content": text, "role": "system"}))

    def said(**page: int) -> list[str]:
        answer = ok(http.get("messages", params={"conversationId": conversation, **page}))
        return [message["content"] for message in answer["messages"]]

    assert said(limit=2) == ["two", "three"]
    assert said(limit=2, after=0) == ["one", "two"]


def test_a_query_of_events_that_are_not_there_yet_is_refused(http: httpx.Client, conversation: str) -> None:
    answer = http.post("query", json={"sql": "select 1", "atLeast": head(http) + 1})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "atLeast"
