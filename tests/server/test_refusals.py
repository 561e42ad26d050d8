"""Each kind of bad input has an error of its own, and changes nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.servers import Server, head, ok, refused

POSTS = ["conversations", "chat", "agent/memory", "events", "query"]


@pytest.fixture
def unchanged(http: httpx.Client, conversation: str) -> Iterator[httpx.Client]:
    """A client of a store with one conversation that must be as it was when the test is over."""

    def all_there_is() -> Any:
        return ok(http.get("events", params={"limit": 10_000})), ok(http.get("conversations"))

    before = all_there_is()
    yield http
    assert all_there_is() == before


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no body"),
        (b"content=hello&role=user", "not JSON"),
        (b'{"userId": "ada"', "not JSON"),
        (b'{"userId": "\xc3"}', "not UTF-8"),
        (b'{"userId": 1e999}', "beyond a double"),
        (b'{"userId": NaN}', "not JSON"),
        (b'["userId"]', "must be a JSON object"),
        (b'{"a":' * 50_000, "nested too deeply"),
    ],
    ids=["empty", "form", "cut off", "latin-1", "1e999", "NaN", "list", "depth"],
)
def test_a_body_that_cannot_be_read(unchanged: httpx.Client, path: str, body: bytes, said: str) -> None:
    assert said in refused(unchanged.post(path, content=body), 400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("conversations", {}, "userId"),
        ("conversations", {"userId": 5}, "userId"),
        ("conversations", {"userId": None}, "userId"),
        ("conversations", {"userId": "a", "title": 5}, "title"),
        ("conversations", {"userId": "a", "titel": "x"}, "titel"),
        ("conversations", {"userId": "a", "commitId": ""}, "commitId"),
        ("conversations", {"userId": "a", "commitId": "x" * 257}, "commitId"),
        ("chat", {"content": "x"}, "conversationId"),
        ("chat", {"conversationId": "c"}, "content"),
        ("chat", {"conversationId": "c", "content": ["x"]}, "content"),
        ("chat", {"conversationId": "c", "content": "x", "role": "boss"}, "role"),
        ("chat", {"conversationId": {"$ne": ""}, "content": "x"}, "conversationId"),
        ("agent/memory", {"conversationId": "c"}, "facts"),
        ("agent/memory", {"conversationId": "c", "facts": "x"}, "facts"),
        ("agent/memory", {"conversationId": "c", "facts": ["x", None]}, "facts[1]"),
        ("events", {}, "events"),
        ("events", {"events": []}, "events"),
        ("events", {"events": [{"args": {}}]}, "events[0].name"),
        ("events", {"events": [{"name": "v1.MemoryAdded", "args": {}, "seqNum": 1}]}, "events[0].seqNum"),
        ("query", {}, "sql"),
        ("query", {"sql": 5}, "sql"),
        ("query", {"sql": "select 1", "params": "x"}, "params"),
        ("query", {"sql": "select 1", "atLeast": -1}, "atLeast"),
    ],
)
def test_a_field_that_is_missing_wrong_or_unknown(
    unchanged: httpx.Client, path: str, body: Any, field: str
) -> None:
    message = refused(unchanged.post(path, json=body), 400, "invalid_request", field)
    assert repr(field) in message


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("conversations", {"userId": "a", "id": ""}, "id"),
        ("conversations", {"userId": "a", "id": "x" * 257}, "id"),
        ("conversations", {"userId": "nul \0"}, "userId"),
        ("chat", {"conversationId": "CONVERSATION", "content": "nul \0"}, "content"),
        ("chat", {"conversationId": "nul \0", "content": "x"}, "conversationId"),
        ("chat", {"conversationId": "", "content": "x"}, "conversationId"),
        ("agent/memory", {"conversationId": "CONVERSATION", "facts": ["fine", "nul \0"]}, "fact"),
        ("events", {"events": [{"name": "v9.Nothing", "args": {}}]}, "name"),
        (
            "events",
            {"events": [{"name": "v1.MemoryAdded", "args": {"id": "f", "fact": "x"}}]},
            "conversationId",
        ),
        (
            "events",
            {"events": [{"name": "v1.ConversationCreated", "args": {"id": "n", "userId": 7}}]},
            "userId",
        ),
        (
            "events",
            {"events": [{"name": "v1.ConversationCreated", "args": {"userId": "a", "id": "n", "x": 1}}]},
            "x",
        ),
        (
            "events",
            {
                "events": [
                    {"name": "v1.ConversationUpdated", "args": {"id": "CONVERSATION", "updatedAt": "soon"}}
                ]
            },
            "updatedAt",
        ),
    ],
)
def test_a_field_that_the_event_does_not_allow(
    unchanged: httpx.Client, conversation: str, path: str, body: Any, field: str
) -> None:
    sent = json.dumps(body).replace("CONVERSATION", conversation)
    refused(unchanged.post(path, content=sent), 422, "invalid_event", field)


@pytest.mark.parametrize("depth", [110, 400, 900, 990, 5_000])
def test_depth_bombs_of_every_size(unchanged: httpx.Client, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for path, body in (
        ("events", '{"events": [{"name": "v1.MemoryAdded", "args": {"id": "f", "fact": %s}}]}'),
        ("query", '{"sql": "select ?", "params": [%s]}'),
        ("conversations", '{"userId": %s}'),
    ):
        refused(unchanged.post(path, content=body % deep), 400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", rb'{"conversationId": "nobody", "content": "x", "role": "\ud800"}'),
        ("chat", rb'{"conversationId": "nobody", "content": "x", "\ud800": "x"}'),
        ("chat", rb'{"conversationId": "\ud800", "content": "x"}'),
        ("events", rb'{"events": [{"name": "\ud800", "args": {}}]}'),
        ("events", rb'{"events": [{"name": "v1.MemoryAdded", "args": {"\ud800": 1}}]}'),
        ("query", rb'{"sql": "select 1 as \"\ud800\""}'),
        ("query", rb'{"sql": "select $x", "params": {"\ud800": 1}}'),
    ],
)
def test_lone_surrogates_where_they_mean_nothing(unchanged: httpx.Client, path: str, body: bytes) -> None:
    answer = unchanged.post(path, content=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]


def test_of_several_events_the_one_at_fault_is_named(unchanged: httpx.Client) -> None:
    events = [
        {"name": "v1.ConversationCreated", "args": {"id": "n", "userId": "a"}},
        {"name": "v1.ConversationCreated", "args": {"id": "m"}},
    ]
    assert "Event 2" in refused(
        unchanged.post("events", json={"events": events}), 422, "invalid_event", "userId"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", {"conversationId": "nobody", "content": "x"}),
        ("agent/memory", {"conversationId": "nobody", "facts": ["x"]}),
        ("agent/memory", {"conversationId": "nobody", "facts": []}),
    ],
)
def test_an_unknown_conversation(unchanged: httpx.Client, path: str, body: Any) -> None:
    refused(unchanged.post(path, json=body), 404, "not_found", "conversationId")
    refused(
        unchanged.get("messages", params={"conversationId": "nobody"}), 404, "not_found", "conversationId"
    )


@pytest.mark.parametrize("fact", [{}, {"commitId": "mine"}])
def test_a_refused_first_write_leaves_no_store_behind(server: Server, http: httpx.Client, fact: Any) -> None:
    for path, body in (
        ("chat", {"conversationId": "nobody", "content": "x", **fact}),
        ("agent/memory", {"conversationId": "nobody", "facts": ["x"], **fact}),
        ("conversations", {"userId": "x" * 900_000, **fact}),
    ):
        assert http.post(path, json=body).status_code in (404, 413)
    assert not (server.stores / http.params["storeId"]).exists()


def test_an_id_that_is_taken(unchanged: httpx.Client, conversation: str) -> None:
    event = {"name": "v1.ConversationCreated", "args": {"id": conversation, "userId": "b"}}
    refused(unchanged.post("events", json={"events": [event]}), 409, "conflict", "id")
    refused(unchanged.post("conversations", json={"userId": "b", "id": conversation}), 409, "conflict", "id")


def test_ten_megabytes_of_content(unchanged: httpx.Client, conversation: str) -> None:
    body = {"conversationId": conversation, "content": "x" * 10_000_000}
    assert "800,000" in refused(unchanged.post("chat", json=body), 413, "too_large")


def test_a_body_over_the_limit_is_answered_even_while_it_is_still_sent(unchanged: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"userId": "'
        for _ in range(110):
            yield b"x" * 1_000_000
        yield b'"}'

    assert "100,000,000" in refused(unchanged.post("conversations", content=parts()), 413, "too_large")


def test_too_many_events(unchanged: httpx.Client) -> None:
    events = [
        {"name": "v1.ConversationCreated", "args": {"id": str(n), "userId": "a"}} for n in range(10_001)
    ]
    refused(unchanged.post("events", json={"events": events}), 400, "invalid_request", "events")


@pytest.mark.parametrize("store_id", ["../../x", "..", "a/b", "", " ", "nul\0", "ä", "x" * 129, "-x", "a b"])
@pytest.mark.parametrize("path", ["conversations", "events", "agent/status", "backup"])
def test_a_store_id_that_is_none(server: Server, path: str, store_id: str) -> None:
    with server.client() as http:
        answer = http.get(path, params={"storeId": store_id})
        refused(answer, 400, "invalid_store_id", "storeId")
        if path == "conversations":
            refused(
                http.post(path, params={"storeId": store_id}, json={"userId": "a"}),
                400,
                "invalid_store_id",
                "storeId",
            )


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [("storeId=a&storeId=b", "invalid_request", "storeId"), ("storeId=%ff", "invalid_request", None)],
)
def test_a_store_id_that_is_there_twice_or_cannot_be_read(
    server: Server, query: str, code: str, field: str | None
) -> None:
    with server.client() as http:
        refused(http.get(f"conversations?{query}"), 400, code, field)


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("messages", {}, "conversationId"),
        ("messages", {"conversationId": "c", "after": "x"}, "after"),
        ("messages", {"conversationId": "c", "limit": "0"}, "limit"),
        ("messages", {"conversationId": "c", "limit": "1001"}, "limit"),
        ("events", {"after": "-1"}, "after"),
        ("events", {"after": "9" * 30}, "after"),
        ("events", {"limit": "1.5"}, "limit"),
    ],
)
def test_a_parameter_that_is_missing_or_wrong(
    unchanged: httpx.Client, path: str, query: dict[str, str], field: str
) -> None:
    refused(unchanged.get(path, params=query), 400, "invalid_request", field)


WRITING = [
    "delete from messages",
    "insert into conversations select * from conversations",
    "update conversations set title = 'x'",
    "drop table conversations",
    "with x as (delete from messages returning *) select * from x",
    "select 1; drop table conversations",
    "create table x as select 1",
    "copy conversations to '/tmp/x.csv'",
    "attach '/tmp/x.duckdb'",
    "install httpfs",
    "set memory_limit = '100GB'",
    "pragma database_list",
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from duckdb_settings()",
    "select getenv('HOME')",
    "from (show all tables)",
    "select * from agentstore_meta",
    "checkpoint",
    "call pragma_version()",
]


@pytest.mark.parametrize("sql", WRITING)
def test_sql_that_writes_or_looks_elsewhere(unchanged: httpx.Client, sql: str) -> None:
    answer = unchanged.post("query", json={"sql": sql})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("query_refused", "query_failed")


@pytest.mark.parametrize(
    "sql", ["", " ", "selec 1", "select nothing from conversations", "select 1 where", "nul \0"]
)
def test_sql_that_is_none(unchanged: httpx.Client, sql: str) -> None:
    answer = unchanged.post("query", json={"sql": sql})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_an_address_that_leads_nowhere(http: httpx.Client) -> None:
    for path in ("nothing", "conversations/x", "agent", ""):
        refused(http.get(path), 404, "not_found")
        refused(http.post(path, json={}), 404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_a_method_that_a_path_does_not_have(http: httpx.Client, method: str) -> None:
    answer = http.request(method, "conversations")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST", "OPTIONS"}
    if method != "HEAD":
        refused(answer, 405, "method_not_allowed")


def test_a_body_that_says_it_is_compressed_is_not_unpacked(unchanged: httpx.Client) -> None:
    import gzip

    packed = gzip.compress(b'{"userId": "a"}')
    answer = unchanged.post("conversations", content=packed, headers={"Content-Encoding": "gzip"})
    refused(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_json_is_taken_whatever_its_content_type_says(http: httpx.Client, kind: str) -> None:
    answer = http.post("conversations", content=b'{"userId": "a&b=%zz"}', headers={"Content-Type": kind})
    assert ok(answer)["conversation"]["userId"] == "a&b=%zz"


def test_what_is_refused_in_one_store_is_no_matter_to_another(server: Server) -> None:
    with server.client(params={"storeId": f"s-{uuid.uuid4().hex[:8]}"}) as http:
        refused(http.post("conversations", content=b"{"), 400, "invalid_request")
        ok(http.post("conversations", json={"userId": "a"}))
        assert head(http) == 1


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("conversations", {"userId": ""}, "userId"),
        ("chat", {"conversationId": "c", "content": ""}, "content"),
        ("agent/memory", {"conversationId": "c", "facts": [""]}, "facts[0]"),
    ],
)
def test_text_with_nothing_in_it_is_refused(http: httpx.Client, call: str, body: Any, field: str) -> None:
    answer = http.post(call, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == field
