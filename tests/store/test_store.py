"""A commit's way: refused without a trace or durable, numbered, told to listeners, seen by the next read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import (
    AgentStoreError,
    BackendIdMismatch,
    Conflict,
    HeadMoved,
    InvalidEvent,
    InvalidRequest,
    NotFound,
    StoreClosed,
    TooLarge,
)
from jupyter_agentstore.core.events import Event, Wire
from jupyter_agentstore.core.operations import RowChange
from jupyter_agentstore.store import Registry, Store, draft
from jupyter_agentstore.store.projector import Projector
from tests.drafts import conversation, message


def wire(seq: int, name: str, args: Any, parent: int | None = None) -> Wire:
    raw = args if isinstance(args, bytes) else json.dumps(args).encode()
    return Wire(name, msgspec.Raw(raw), seq, seq - 1 if parent is None else parent, "phone", "tab")


def hello(seq: int, id: str) -> Wire:
    fields = {"id": id, "conversationId": "c", "role": "user", "content": "hello", "metadata": None}
    return wire(seq, "v1.MessageAdded", fields)


def test_a_commit_is_numbered_and_the_next_read_sees_it(store: Store) -> None:
    receipt = store.commit([message("a"), message("b")], actor="ada").result(30)
    assert (list(receipt.seqs), receipt.head, receipt.repeated) == ([2, 3], 3, False)
    assert [row["id"] for row in store.tail("messages", "c")] == ["a", "b"]
    assert store.query("select count(*) as n from messages").table.to_pylist() == [{"n": 2}]
    assert store.row("messages", "a") == {
        "id": "a", "conversationId": "c", "role": "user", "content": "A mocha", "metadata": None,
        "timestamp": store.read(1, 1)[0].recorded_at, "seq": 2, "actor": "ada",
    }  # fmt: skip


def test_a_read_sees_every_commit_of_every_thread_that_was_answered(store: Store) -> None:
    def work(worker: int) -> None:
        for index in range(20):
            store.commit([message(f"{worker}-{index}")], actor="ada").result(30)
            assert store.row("messages", f"{worker}-{index}") is not None
            sql = "select count(*) as n from messages where id = ?"
            assert store.query(sql, [f"{worker}-{index}"]).table.to_pylist() == [{"n": 1}]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, worker) for worker in range(8)]:
            done.result(60)
    assert store.head == 161
    assert [event.seq for event in store.read(0, 1000)] == list(range(1, 162))


@pytest.mark.parametrize(
    ("drafts", "error", "field"),
    [
        ([conversation("c")], Conflict, "id"),
        ([message("a"), message("a")], Conflict, "id"),
        ([message("a", "nowhere")], NotFound, "conversationId"),
        ([message("a"), message("b", "nowhere")], NotFound, "conversationId"),
    ],
)
def test_what_does_not_fit_the_store_is_refused_whole(
    store: Store, drafts: list[Any], error: type[AgentStoreError], field: str
) -> None:
    with pytest.raises(error) as caught:
        store.commit(drafts, actor="ada").result(30)
    assert caught.value.field == field
    assert store.head == 1
    assert store.count("messages") == 0


def test_a_refusal_says_which_event_of_many_it_was(store: Store) -> None:
    with pytest.raises(NotFound, match=r"^Event 2: There is no conversation 'nowhere'\.$"):
        store.commit([message("a"), message("b", "nowhere")], actor="ada").result(30)
    with pytest.raises(Conflict, match=r"^There is already a conversation 'c'\.$"):
        store.commit([conversation("c")], actor="ada").result(30)


def test_a_commit_may_refer_to_what_it_creates_itself(store: Store) -> None:
    store.commit([conversation("d"), message("a", "d")], actor="ada").result(30)
    assert store.row("messages", "a") is not None


def test_of_two_commits_with_one_id_at_once_one_is_refused(store: Store) -> None:
    futures = [store.commit([message("same", content=str(n))], actor="ada") for n in range(50)]
    errors = [future.exception(30) for future in futures]
    assert sum(error is None for error in errors) == 1
    assert all(isinstance(error, Conflict) for error in errors if error is not None)
    assert store.count("messages") == 1


def test_an_id_that_a_sync_client_has_just_taken_is_refused(store: Store) -> None:
    pushed = store.push([hello(2, "a")], actor="bob", backend_id=None)
    committed = store.commit([message("a")], actor="ada")
    assert pushed.result(30) == 2
    assert isinstance(committed.exception(30), Conflict)


def test_a_commit_id_writes_once_and_says_so(reopen: Callable[[], Store]) -> None:
    store = reopen()
    store.commit([conversation("c")], actor="ada").result(30)

    def commit(content: str, actor: str = "ada") -> Any:
        fields = {"id": f"{actor}-1", "conversationId": "c", "role": "user", "content": content}
        event = draft(agent_schema, "v1.MessageAdded", fields, door="rest", commit_id="one")
        return store.commit([event], actor=actor, commit_id="one").result(30)

    first = commit("A mocha")
    again = [commit("A mocha") for _ in range(3)]
    assert {tuple(receipt.seqs) for receipt in again} == {tuple(first.seqs)}
    assert all(receipt.repeated for receipt in again)
    with pytest.raises(Conflict) as caught:
        commit("A latte")
    assert caught.value.field == "commitId"
    assert not commit("A latte", actor="bob").repeated, "commit ids are each user's own"
    store = reopen()
    assert tuple(commit("A mocha").seqs) == tuple(first.seqs)
    assert store.head == 3


def test_a_push_must_follow_the_head(store: Store) -> None:
    store.push([hello(2, "a")], actor="bob", backend_id=store.backend_id).result(30)
    with pytest.raises(HeadMoved) as caught:
        store.push([hello(2, "b")], actor="bob", backend_id=store.backend_id).result(30)
    assert (caught.value.head, caught.value.provided) == (2, 1)
    with pytest.raises(BackendIdMismatch):
        store.push([hello(9, "b")], actor="bob", backend_id=None).result(30)
    with pytest.raises(BackendIdMismatch) as other:
        store.push([hello(3, "b")], actor="bob", backend_id="another").result(30)
    assert other.value.expected == store.backend_id
    with pytest.raises(InvalidRequest):
        store.push([hello(3, "b"), hello(5, "c")], actor="bob", backend_id=None).result(30)
    with pytest.raises(InvalidRequest):
        store.push([], actor="bob", backend_id=None)
    assert store.head == 2


def test_of_two_pushes_at_one_head_the_second_learns_the_new_head(store: Store) -> None:
    first = store.push([hello(2, "a"), hello(3, "b")], actor="bob", backend_id=None)
    second = store.push([hello(2, "c")], actor="eve", backend_id=None)
    assert first.result(30) == 3
    error = second.exception(30)
    assert isinstance(error, HeadMoved)
    assert error.head == 3


@pytest.mark.parametrize(
    "args",
    [
        b'{"b": 1.0, "a": 1e3, "c": {"z": "\\ud83d"}, "unknown": 12345678901234567890}',
        b'{"id":"m","conversationId":"c","role":"user","content":"\\ud83d","metadata":null}',
        b'{"id":"m","conversationId":"c","role":"user","content":"a\\u0000b","metadata":null}',
        b'{"big": 1e999}',
        b"[]",
        b"null",
        b"{" + b'"a":[' * 500 + b"]" * 500 + b"}",
    ],
    ids=["spelling", "surrogate", "nul", "infinity", "list", "null", "deep"],
)
def test_what_a_sync_client_pushes_comes_back_as_it_was_and_wedges_nothing(store: Store, args: bytes) -> None:
    store.push([wire(2, "v1.MessageAdded", args), hello(3, "after")], actor="bob", backend_id=None).result(30)
    body = store.read(1, 1)[0].body
    assert f'"args":{args.decode()},' in body
    assert store.row("messages", "after") is not None
    assert store.query("select max(seq) as seq from events").table.to_pylist() == [{"seq": 3}]


def test_unknown_events_are_kept_and_shown_as_anomalies(store: Store) -> None:
    store.push([wire(2, "v9.Reaction", {"emoji": "☕"})], actor="bob", backend_id=None).result(30)
    rows = store.query("select seq, name from anomalies").table.to_pylist()
    assert rows == [{"seq": 2, "name": "v9.Reaction"}]
    [[args]] = [
        row.values() for row in store.query("select args from events where seq = 2").table.to_pylist()
    ]
    assert json.loads(args) == {"emoji": "☕"}


def test_a_listener_hears_of_rows_that_change_while_the_tables_thread_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resume = Projector._resume
    begin = threading.Event()

    def late(self: Projector) -> None:
        begin.wait(30)
        resume(self)

    monkeypatch.setattr(Projector, "_resume", late)
    registry = Registry(None)
    try:
        store = registry.get("s", create=True)
        heard: list[str] = []
        store.on_rows(lambda changes: heard.extend(change.table for change in changes or ()))
        store.commit([conversation("c")], actor="ada").result(30)
        begin.set()
        assert store.row("conversations", "c") is not None
        store.commit([message("a")], actor="ada").result(30)
        assert store.row("messages", "a") is not None
    finally:
        begin.set()
        registry.close()
    assert heard == ["conversations", "messages", "pendingReplies"]


def test_listeners_hear_of_events_before_the_answer_and_of_rows_in_order(store: Store) -> None:
    heard: list[Event] = []
    rows: list[RowChange] = []
    all_rows = threading.Event()
    end_events = store.on_events(heard.extend)

    def on_rows(changes: Any) -> None:
        rows.extend(changes)
        if len([c for c in rows if c.table == "messages"]) == 50:
            all_rows.set()

    end_rows = store.on_rows(on_rows)
    for index in range(50):
        receipt = store.commit([message(str(index))], actor="ada").result(30)
        assert heard[-1].seq >= receipt.seqs[-1]
    assert all_rows.wait(30)
    assert [c.key for c in rows if c.table == "messages"] == [str(index) for index in range(50)]
    end_events()
    end_rows()
    store.commit([message("last")], actor="ada").result(30)
    store.row("messages", "last")
    assert len(heard) == 50
    assert not [c for c in rows if c.key == "last"]


def test_a_listener_that_fails_harms_nobody(store: Store) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("no")

    heard: list[Event] = []
    store.on_events(fails)
    store.on_rows(fails)
    store.on_events(heard.extend)
    store.commit([message("a")], actor="ada").result(30)
    assert store.row("messages", "a") is not None
    assert [event.seq for event in heard] == [2]


def test_times_never_go_back_and_are_the_logs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 10**15)
    store.commit([message("a")], actor="ada").result(30)
    times = [event.recorded_at for event in store.read(0, 10)]
    assert times == sorted(times)


def test_too_much_is_refused_and_nothing_written(store: Store) -> None:
    with pytest.raises(TooLarge):
        store.commit([message("a", content="x" * 800_000)], actor="ada").result(30)
    many = [message(str(n)) for n in range(10_001)]
    with pytest.raises(TooLarge):
        store.commit(many, actor="ada")
    with pytest.raises(InvalidRequest):
        store.commit([], actor="ada")
    assert store.head == 1


def test_a_draft_names_the_field_at_fault() -> None:
    with pytest.raises(InvalidEvent) as caught:
        message("a", role="robot")
    assert caught.value.field == "role"


def test_status_counts_without_looking(store: Store, dialogs: list[dict[str, Any]]) -> None:
    texts = [u["text"] for dialog in dialogs[:20] for u in dialog["utterances"]]
    store.commit([message(f"m{n}", content=text) for n, text in enumerate(texts)], actor="ada").result(30)
    paused = {"id": "c", "updatedAt": 0, "status": "paused"}
    store.commit([draft(agent_schema, "v1.ConversationUpdated", paused, door="rest")], actor="ada").result(30)
    store.set_agent(isThinking=True, currentTask="thinking")
    status = store.status()
    assert status["messageCount"] == status["totalMessages"] == len(texts)
    assert (status["conversationCount"], status["activeConversations"]) == (1, 0)
    assert (status["isThinking"], status["currentTask"]) == (True, "thinking")
    assert status["memoryUsage"] > sum(map(len, texts))
    assert status["lastActivity"].endswith("Z")


def test_a_whole_table_comes_by_arrow_and_hidden_ones_do_not(store: Store) -> None:
    store.commit([message("a")], actor="ada").result(30)
    table = store.table("messages")
    assert table.column_names == [column.name for column in agent_schema.tables["messages"].columns]
    assert table.num_rows == 1
    assert str(table.schema.field("timestamp").type).startswith("timestamp[")
    assert store.table("Events").num_rows == 2
    for name in ("agentstore_meta", "nothing", 'messages"; drop table messages; --'):
        with pytest.raises(NotFound):
            store.table(name)


def test_what_was_answered_is_there_after_closing(reopen: Callable[[], Store]) -> None:
    store = reopen()
    store.commit([conversation("c")], actor="ada").result(30)
    futures = [store.commit([message(str(n))], actor="ada") for n in range(500)]
    backend_id = store.backend_id
    store = reopen()  # closes while commits are under way
    done = [future.exception(30) for future in futures]
    kept = sum(error is None for error in done)
    assert store.backend_id == backend_id
    assert store.head == kept + 1
    assert store.count("messages") == kept


def test_a_closed_store_says_so(registry: Registry) -> None:
    store = registry.get("coffee", create=True)
    store.close()
    for call in (
        lambda: store.commit([conversation("c")], actor="ada"),
        lambda: store.read(0, 1),
        lambda: store.query("select 1"),
        lambda: store.rows("messages"),
    ):
        with pytest.raises(StoreClosed):
            call()


def test_what_a_crash_left_out_of_the_tables_is_still_known_at_the_door(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    store = registry.get("coffee", create=True)
    store.commit([conversation("c"), message("a")], actor="ada").result(30)
    fields = {"id": "b", "conversationId": "c", "role": "user", "content": "A mocha"}
    event = draft(agent_schema, "v1.MessageAdded", fields, door="rest", commit_id="one")
    first = store.commit([event], actor="ada", commit_id="one").result(30)
    for _ in range(5):
        registry.close()
        for file in (tmp_path / "coffee").glob("state.*"):
            file.unlink()
        registry = Registry(tmp_path)
        store = registry.get("coffee", create=True)
        again = store.commit([event], actor="ada", commit_id="one")
        taken = store.commit([message("a")], actor="ada")
        assert again.result(30).repeated
        assert again.result().seqs == first.seqs
        assert isinstance(taken.exception(30), Conflict)
    registry.close()
