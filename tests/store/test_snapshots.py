"""Copies of a store's tables: what is in them, who shares them, and when they go."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from jupyter_agentstore.core.errors import Conflict, StoreClosed
from jupyter_agentstore.store import Registry, Store, snapshots
from tests.drafts import conversation, message


@pytest.fixture
def store(registry: Registry) -> Store:
    store = registry.get("coffee", create=True)
    store.commit([conversation("c"), message("a")], actor="ada").result(30)
    return store


def files(store: Store, registry: Registry) -> list[Path]:
    assert registry.folder is not None
    return sorted((registry.folder / store.id).glob("snapshot*"))


def messages(path: Path) -> int:
    with duckdb.connect(str(path), read_only=True) as copy:
        [(count,)] = copy.execute("select count(*) from messages").fetchall()
    return int(count)


def test_a_copy_has_the_rows_up_to_its_event(store: Store) -> None:
    copy = store.snapshot()
    assert (copy.seq, copy.backend_id, copy.schema) == (2, store.backend_id, store.schema.hash)
    assert copy.size == copy.path.stat().st_size
    store.commit([message("b")], actor="ada").result(30)
    assert messages(copy.path) == 1
    assert store.query("select count(*) as n from messages").table.to_pylist() == [{"n": 2}]


def test_a_copy_is_shared_while_it_is_fresh_enough(
    store: Store, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "FAR", 2)
    first = store.snapshot()
    store.commit([message("b"), message("d")], actor="ada").result(30)
    assert store.snapshot() is first
    with first.path.open("rb") as reading:
        store.commit([message("e")], actor="ada").result(30)
        second = store.snapshot()
        assert len(reading.read()) == first.size
    assert second.seq == 5
    assert second.tag != first.tag
    assert files(store, registry) == [second.path]


def test_a_copy_made_again_has_another_name(store: Store) -> None:
    first = store.snapshot()
    first.path.unlink()
    second = store.snapshot()
    assert second.seq == first.seq
    assert second.tag != first.tag


def test_a_copy_goes_when_the_store_sleeps_and_when_nobody_wants_it(store: Store, registry: Registry) -> None:
    store.snapshot()
    assert registry.sleep() == 1
    assert files(store, registry) == []
    copy = store.snapshot()
    with store._use() as awake:
        registry.sleep()
        assert files(store, registry) == [copy.path]
        assert awake._snapshots is not None
        awake._snapshots.sweep(0)
        assert files(store, registry) == []


def test_what_a_killed_process_left_goes_with_the_next_copy(store: Store, registry: Registry) -> None:
    assert registry.folder is not None
    (registry.folder / store.id / "snapshot.0badcafe.duckdb").write_bytes(b"half")
    copy = store.snapshot()
    assert files(store, registry) == [copy.path]


def test_a_copy_that_cannot_be_made_leaves_nothing(
    store: Store, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> int:
        path.write_bytes(b"half")
        raise OSError("no space left")

    with store._use() as awake:
        monkeypatch.setattr(awake.state, "copy", fail)
        with pytest.raises(OSError, match="no space left"):
            store.snapshot()
    assert files(store, registry) == []


def test_a_store_in_memory_has_no_file() -> None:
    registry = Registry(None)
    store = registry.get("coffee", create=True)
    with pytest.raises(Conflict, match="memory"):
        store.snapshot()
    registry.close()
    with pytest.raises((StoreClosed, Conflict)):
        store.snapshot()
