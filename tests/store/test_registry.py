"""Stores are found by id, apart from each other, put to sleep and woken, and one process has each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jupyter_agentstore.core.errors import InvalidStoreId, NotFound, StoreClosed, StoreLocked
from jupyter_agentstore.store import Registry, Store
from tests.drafts import conversation, message

LOCK = """
import sys
from pathlib import Path
from jupyter_agentstore.eventlog import Lock
(Path(sys.argv[1]) / "coffee").mkdir()
lock = Lock.take(Path(sys.argv[1]) / "coffee", {"url": "http://localhost:8888/"})
print("open", flush=True)
sys.stdin.read()
"""

HOLD = """
import sys
from pathlib import Path
from jupyter_agentstore.store import Registry
registry = Registry(Path(sys.argv[1]), owner={"url": "http://localhost:8888/"})
registry.get("coffee", create=True)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_store_comes_into_being_once_and_keeps_its_first_spelling(registry: Registry) -> None:
    first = registry.get("Support-Bot", create=True)
    assert registry.get("support-bot", create=True) is first
    assert first.id == "Support-Bot"
    assert registry.ids() == ["Support-Bot"]


def test_the_first_spelling_outlives_the_registry(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    backend_id = registry.get("Support-Bot", create=True).backend_id
    registry.close()
    registry = Registry(tmp_path)
    store = registry.get("SUPPORT-BOT", create=False)
    assert (store.id, store.backend_id) == ("Support-Bot", backend_id)
    registry.close()


def test_reading_a_store_that_is_not_there_creates_nothing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        registry.get("nobody", create=False)
    assert registry.ids() == []
    assert not list(tmp_path.rglob("nobody"))


@pytest.mark.parametrize("id", ["", "../../x", ".hidden", "a/b", "a b", "ä", "x" * 129, "a\0", "-a", None, 3])
def test_a_bad_id_is_refused(registry: Registry, id: object) -> None:
    with pytest.raises(InvalidStoreId):
        registry.get(id, create=True)  # type: ignore[arg-type]
    assert registry.ids() == []


@pytest.mark.parametrize("id", ["temp", "main", "system", "S1", "1", "a.b", "a-", "x" * 128])
def test_every_good_id_is_a_store_of_its_own(registry: Registry, id: str) -> None:
    store, other = registry.get(id, create=True), registry.get("another", create=True)
    store.commit([conversation("c"), message("a")], actor="ada").result(30)
    assert store.backend_id != other.backend_id
    assert other.head == 0
    assert other.query("select count(*) as n from messages").table.to_pylist() == [{"n": 0}]


def test_a_store_in_use_stays_awake_and_an_idle_one_sleeps(registry: Registry) -> None:
    store = registry.get("coffee", create=True)
    store.commit([conversation("c")], actor="ada").result(30)
    with store.hold():
        registry.sleep()
        assert not store.asleep
    assert registry.sleep() == 1
    assert store.asleep
    assert store.head == 1
    assert store.backend_id


def test_the_next_commit_or_read_wakes_a_store_and_listeners_stay(registry: Registry) -> None:
    woken: list[Store] = []
    registry.on_wake(woken.append)
    store = registry.get("coffee", create=True)
    rows = threading.Event()
    store.on_rows(lambda changes: rows.set())
    store.commit([conversation("c")], actor="ada").result(30)
    assert rows.wait(30)
    rows.clear()
    for expected in range(2, 5):
        assert registry.sleep() == 1
        store.commit([message(str(expected))], actor="ada").result(30)
        assert rows.wait(30)
        rows.clear()
        assert len(woken) == expected
        assert registry.sleep() == 1
        assert [row["id"] for row in store.tail("messages", "c")][-1] == str(expected)
        woken.pop()
    assert set(woken) == {store}


def test_an_idle_store_is_put_to_sleep_by_itself(tmp_path: Path) -> None:
    registry = Registry(tmp_path, idle_seconds=0.05)
    store = registry.get("coffee", create=True)
    asleep = threading.Event()
    waiter = threading.Thread(
        target=lambda: [None for _ in iter(lambda: store.asleep, True)] and asleep.set()
    )
    waiter.start()
    waiter.join(30)
    assert store.asleep
    registry.close()


def test_sleeping_and_committing_at_once_loses_nothing(registry: Registry) -> None:
    store = registry.get("coffee", create=True)
    store.commit([conversation("c")], actor="ada").result(30)
    stop = threading.Event()

    def sleep() -> None:
        while not stop.is_set():
            registry.sleep()

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    try:
        for index in range(60):
            store.commit([message(str(index))], actor="ada").result(30)
            assert store.count("messages") == index + 1
    finally:
        stop.set()
        sleeper.join()
    assert [row["id"] for row in store.tail("messages", "c")] == [str(index) for index in range(60)]


def test_a_store_whose_holder_cannot_be_asked_is_refused_with_its_name(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        registry = Registry(tmp_path)
        with pytest.raises(StoreLocked) as caught:
            registry.get("coffee", create=True)
        assert caught.value.owner["pid"] == holder.pid
        assert "http://localhost:8888/" in caught.value.message
        registry.get("tea", create=True)
        holder.kill()
        holder.wait(30)
        assert registry.get("coffee", create=True).head == 0
        registry.close()
    finally:
        holder.kill()
        holder.communicate(timeout=30)


def test_a_crashed_store_and_one_that_owes_replies_are_unfinished(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    clean = registry.get("clean", create=True)
    clean.commit([conversation("c")], actor="ada").result(30)
    owing = registry.get("owing", create=True)
    owing.commit([conversation("c"), message("a")], actor="ada").result(30)
    registry.close()
    registry = Registry(tmp_path)
    assert registry.unfinished() == ["owing"]
    registry.close()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    assert Registry(tmp_path).unfinished() == ["owing"], "a store that somebody has open is his business"
    holder.kill()
    holder.communicate(timeout=30)
    assert Registry(tmp_path).unfinished() == ["coffee", "owing"]


def test_a_closed_registry_says_so(registry: Registry) -> None:
    registry.get("coffee", create=True)
    registry.close()
    registry.close()
    with pytest.raises(StoreClosed):
        registry.get("coffee", create=True)


def test_a_foreign_file_in_a_stores_place_is_named_and_left_alone(registry: Registry, tmp_path: Path) -> None:
    from jupyter_agentstore.core.errors import ForeignFile

    folder = tmp_path / "stores" / "coffee"
    folder.mkdir(parents=True)
    file = folder / "eventlog.duckdb"
    file.write_text(json.dumps({"not": "a database"}) * 1000)
    with pytest.raises(ForeignFile, match=r"eventlog\.duckdb"):
        registry.get("coffee", create=True)
    assert file.read_text().startswith("{")
    registry.get("tea", create=True)


def test_a_listener_hears_of_stores_that_are_awake_already(registry: Registry) -> None:
    store = registry.get("coffee", create=True)
    woken: list[Store] = []
    registry.on_wake(woken.append)
    assert woken == [store]


def test_after_a_crash_the_agent_is_not_said_to_think(tmp_path: Path) -> None:
    code = HOLD.replace(
        'registry.get("coffee", create=True)', 'store = registry.get("coffee", create=True)'
    ).replace(
        'print("open"',
        'store.set_agent(isThinking=True, currentTask="hm"); store.query("select 1"); print("open"',
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    holder.kill()
    holder.communicate(timeout=30)
    registry = Registry(tmp_path)
    store = registry.get("coffee", create=False)
    sql = 'select "isThinking", "currentTask" from "agentState"'
    assert store.query(sql).table.to_pylist() == [{"isThinking": False, "currentTask": None}]
    registry.close()


def test_what_is_stored_is_for_its_owner_alone(registry: Registry, tmp_path: Path) -> None:
    registry.get("coffee", create=True)
    for folder in (tmp_path / "stores", tmp_path / "stores" / "coffee"):
        assert folder.stat().st_mode & 0o777 == 0o700
