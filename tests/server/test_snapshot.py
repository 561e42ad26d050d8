"""The copy of a store's tables over REST: whole, in parts, and for those who may read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import httpx
import pytest

from tests.server.servers import Serve, Server, ok, refused, until


@pytest.fixture
def filled(http: httpx.Client, conversation: str) -> httpx.Client:
    """A store with a conversation and 500 facts."""
    facts = [f"fact {number} " + "x" * 200 for number in range(500)]
    ok(http.post("agent/memory", json={"conversationId": conversation, "facts": facts}))
    return http


def test_the_copy_is_a_file_with_the_tables(filled: httpx.Client, tmp_path: Path) -> None:
    answer = filled.get("snapshot")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["agentstore-seq"] == "501"
    assert answer.headers["agentstore-schema"] == ok(filled.get("health"))["schema"]
    backend_id = answer.headers["agentstore-backend-id"]
    assert answer.headers["etag"].startswith(f'"{backend_id}.501.{answer.headers["agentstore-schema"][:16]}.')
    path = tmp_path / "copy.duckdb"
    path.write_bytes(answer.content)
    with duckdb.connect(str(path), read_only=True) as copy:
        assert copy.execute('select count(*) from "conversationMemory"').fetchall() == [(500,)]


def test_head_says_what_get_would_answer(filled: httpx.Client) -> None:
    whole = filled.get("snapshot")
    answer = filled.head("snapshot")
    assert answer.content == b""
    for name in ("etag", "content-length", "content-type", "accept-ranges", "agentstore-seq"):
        assert answer.headers[name] == whole.headers[name]


def test_a_download_that_was_cut_goes_on(filled: httpx.Client) -> None:
    whole = filled.get("snapshot")
    assert whole.headers["accept-ranges"] == "bytes"
    with filled.stream("GET", "snapshot") as cut:
        begun = next(cut.iter_raw(10_000))
    ranged = {"Range": f"bytes={len(begun)}-", "If-Range": whole.headers["etag"]}
    rest = filled.get("snapshot", headers=ranged)
    assert rest.status_code == 206
    size = len(whole.content)
    assert rest.headers["content-range"] == f"bytes {len(begun)}-{size - 1}/{size}"
    assert begun + rest.content == whole.content
    some = filled.get("snapshot", headers={"Range": "bytes=10-19"})
    assert (some.status_code, some.content) == (206, whole.content[10:20])


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=100-", "If-Range": '"another"'},
        {"Range": "bytes=-100"},
        {"Range": "bytes=1-2,5-6"},
        {"Range": "bytes=20-10"},
        {"Range": "nonsense"},
    ],
)
def test_all_of_it_is_sent_when_a_part_would_not_do(filled: httpx.Client, headers: dict[str, str]) -> None:
    whole = filled.get("snapshot")
    answer = filled.get("snapshot", headers=headers)
    assert (answer.status_code, answer.content) == (200, whole.content)


def test_past_the_end_there_is_nothing(filled: httpx.Client) -> None:
    size = int(filled.head("snapshot").headers["content-length"])
    refused(filled.get("snapshot", headers={"Range": f"bytes={size}-"}), 416, "invalid_request")


def test_a_store_that_is_not_there_has_no_copy(http: httpx.Client, server: Server) -> None:
    refused(http.get("snapshot"), 404, "not_found", "storeId")
    assert http.head("snapshot").status_code == 404
    assert not (server.stores / str(http.params["storeId"])).exists()


def test_who_may_read_may_have_it(serve: Serve) -> None:
    server = serve(
        "from agentstore_test_access import ByHeader, Rights\n"
        "c.ServerApp.identity_provider_class = ByHeader\n"
        "c.ServerApp.authorizer_class = Rights",
        token="",
    )
    made = {"userId": "ada"}
    with server.client(params={"storeId": "Secret"}, headers={"X-User": "owner"}) as owner:
        ok(owner.post("conversations", json=made))
        assert owner.get("snapshot").status_code == 200
    with server.client(params={"storeId": "Secret"}, headers={"X-User": "reader"}) as reader:
        refused(reader.get("snapshot"), 403, "forbidden")
    with server.client(params={"storeId": "open"}, headers={"X-User": "writer"}) as writer:
        ok(writer.post("conversations", json=made))
    with server.client(params={"storeId": "open"}, headers={"X-User": "reader"}) as reader:
        assert reader.get("snapshot").status_code == 200


SLOW = """
import pathlib, time
from jupyter_agentstore.store.snapshots import Snapshots

make = Snapshots._make

def slow(self, *args):
    pathlib.Path("making").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
    return make(self, *args)

Snapshots._make = slow
"""


def test_queries_do_not_wait_for_those_who_wait_for_a_copy(serve: Serve) -> None:
    server = serve(SLOW)
    root = server.folder / "root"
    with server.client(params={"storeId": "s"}) as http, ThreadPoolExecutor(8) as pool:
        ok(http.post("conversations", json={"userId": "ada"}))
        asked = [pool.submit(http.head, "snapshot") for _ in range(8)]
        try:
            until((root / "making").exists)
            assert http.post("query", json={"sql": "select 1"}).status_code == 200
        finally:
            (root / "go").touch()
        assert [answer.result().status_code for answer in asked] == [200] * 8
        assert len({answer.result().headers["etag"] for answer in asked}) == 1
