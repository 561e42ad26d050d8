"""What fails for a moment costs a moment: nobody waits for ever, nothing is acknowledged that is not there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.eventlog import DuckDBLog
from jupyter_agentstore.state.state import State
from jupyter_agentstore.store import Draft, Registry, Store, draft
from tests.drafts import conversation, message

Result = TypeVar("Result")


def in_time(call: Callable[[], Result]) -> Result:
    """Call in a thread; a call that never comes back fails the test instead of holding it up."""
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it never came back"
    return found[0]


def failing(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int) -> threading.Event:
    """Have a method fail the first few times, as a disk might; the event is set when it has."""
    real = getattr(owner, name)
    left = [times]
    over = threading.Event()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            if not left[0]:
                over.set()
            raise OSError(5, "Input/output error")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return over


def again(id: str, commit_id: str) -> Draft:
    fields = {"id": id, "conversationId": "c", "role": "user", "content": "A mocha"}
    return draft(agent_schema, "v1.MessageAdded", fields, door="rest", commit_id=commit_id)


def test_a_commit_that_is_repeated_while_the_first_still_waits_is_one(store: Store) -> None:
    futures = [store.commit([again("a", "one")], actor="ada", commit_id="one") for _ in range(50)]
    receipts = [future.result(30) for future in futures]
    assert {tuple(receipt.seqs) for receipt in receipts} == {(2,)}
    assert sum(not receipt.repeated for receipt in receipts) == 1
    assert store.head == 2


def test_a_commit_whose_check_fails_is_not_taken_for_written_when_it_is_repeated(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = registry.get("coffee", create=True)
    store.commit([conversation("c"), message("x")], actor="ada").result(30)
    assert registry.sleep() == 1  # so that only the tables know of x
    with monkeypatch.context() as patched:
        failing(patched, State, "row", 1)
        futures = [
            store.commit([again("b", "two")], actor="ada", commit_id="two"),
            store.commit([message("x")], actor="ada"),  # looks for the row, and fails
            store.commit([message("d")], actor="bob"),
        ]
        errors = [future.exception(30) for future in futures]
    assert [type(error) for error in errors] == [type(None), OSError, type(None)]
    receipt = store.commit([again("b", "two")], actor="ada", commit_id="two").result(30)
    assert receipt.repeated
    assert '"b"' in store.read(receipt.seqs[0] - 1, 1)[0].body


@pytest.mark.parametrize("name", ["read", "scan"])
def test_tables_that_cannot_follow_for_a_moment_follow_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    registry = Registry(tmp_path)
    store = registry.get("coffee", create=True)
    drafts = [conversation("c"), *(message(str(n)) for n in range(3_000))]
    store.commit(drafts, actor="ada").result(30)
    registry.close()
    for file in (tmp_path / "coffee").glob("state.*"):
        file.unlink()
    over = failing(monkeypatch, DuckDBLog, name, 2 if name == "read" else 1)
    registry = Registry(tmp_path)
    store = registry.get("coffee", create=False)

    def count() -> int:
        while True:
            try:
                return store.count("messages")
            except OSError:
                assert not over.wait(0.05) or store.head

    assert in_time(count) == 3_000
    assert over.is_set()
    in_time(registry.close)


def test_a_listener_may_end_itself_while_the_store_is_closed(registry: Registry) -> None:
    store = registry.get("coffee", create=True)
    closing = threading.Event()
    ends: list[Callable[[], None]] = []

    def end(_: object) -> None:
        closing.wait(10)
        for listener in ends:
            listener()

    ends += [store.on_rows(end), store.on_events(end)]
    future = store.commit([conversation("c")], actor="ada")
    closer = threading.Thread(target=store.close, daemon=True)
    closer.start()
    closing.set()
    closer.join(30)
    assert not closer.is_alive()
    assert future.result(30).head == 1


def test_whoever_hears_of_a_commit_may_use_the_store(store: Store) -> None:
    counts: list[int] = []
    heard = threading.Event()

    def look(_: object) -> None:
        counts.append(store.count("conversations"))
        heard.set()

    store.commit([conversation("d")], actor="ada").add_done_callback(look)
    assert heard.wait(30)
    assert counts == [2]


def test_a_store_that_could_not_be_opened_still_owes_its_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path)
    store = registry.get("coffee", create=True)
    store.commit([conversation("c"), message("a")], actor="ada").result(30)
    registry.close()
    with monkeypatch.context() as patched:
        patched.setattr(State, "open", classmethod(lambda *_: (_ for _ in ()).throw(OSError("no"))))
        registry = Registry(tmp_path)
        with pytest.raises(OSError, match="no"):
            registry.get("coffee", create=False)
        assert registry.unfinished() == ["coffee"]
        registry.close()
    registry = Registry(tmp_path)
    assert registry.get("coffee", create=False).count("messages") == 1
    registry.close()
