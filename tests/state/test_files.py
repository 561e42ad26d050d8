"""A state's file is only a copy of what the log says: whatever is wrong with it, it is made anew."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jupyter_agentstore.core.errors import StoreClosed
from jupyter_agentstore.core.schema import Column
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state.rebuild import FILE, NEW_FILE
from tests.state.support import contents, do, open_state, puppet, query

OLD = puppet(1)
NEW = puppet(2, columns=[Column("extra", "text", "new")])
LOG = [do(1, ("insert", "things", {"id": "a"})), *(do(seq, ("line", f"l{seq}", "a")) for seq in range(2, 41))]


def fill(instance: Instance, folder: Path) -> None:
    state = open_state(instance, OLD, folder)
    state.apply(LOG)
    state.close()


def test_a_state_goes_on_where_it_stopped(instance: Instance, tmp_path: Path) -> None:
    fill(instance, tmp_path)
    state = open_state(instance, OLD, tmp_path)
    assert (state.applied, state.flushed, state.rebuilding) == (40, 40, False)
    state.apply([do(41, ("line", "l2", "a")), do(42, ("line", "l42", "a"))])
    assert state.count("lines") == 40
    assert query(state, "select seq from anomalies") == [(41,)]
    assert [row["id"] for row in state.tail("lines", "a", limit=2)] == ["l40", "l42"]
    state.close()
    with pytest.raises(StoreClosed):
        state.apply([])
    with pytest.raises(StoreClosed):
        state.rows("things")
    state.close()


@pytest.mark.parametrize(
    "what", ["junk", "cut", "empty", "scrambled wal", "another database", "other format"]
)
def test_a_damaged_file_is_made_anew(instance: Instance, tmp_path: Path, what: str) -> None:
    fill(instance, tmp_path)
    path = tmp_path / FILE
    if what == "junk":
        path.write_bytes(b"junk" * 10_000)
    elif what == "cut":
        os.truncate(path, 5_000)
    elif what == "empty":
        os.truncate(path, 0)
    elif what == "scrambled wal":
        path.with_name(FILE + ".wal").write_bytes(os.urandom(5_000))
    else:
        instance.attach(path, "s_other")
        cursor = instance.cursor("s_other")
        if what == "other format":
            cursor.execute("update agentstore_meta set version = 99").fetchall()
        else:
            cursor.execute("drop table agentstore_meta cascade").fetchall()
        instance.detach("s_other")
    state = open_state(instance, OLD, tmp_path)
    assert state.applied == (40 if what == "scrambled wal" else 0)  # DuckDB leaves a WAL alone that is none
    state.apply(LOG[state.applied :])
    assert len(contents(state)["lines"]) == 39
    state.close()


def test_tables_of_another_log_or_ahead_of_it_are_thrown_away(instance: Instance, tmp_path: Path) -> None:
    fill(instance, tmp_path)
    state = open_state(instance, OLD, tmp_path, backend="another")
    assert (state.applied, state.count("things"), state.has("things", "a")) == (0, 0, False)
    state.apply(LOG)
    state.close()
    state = open_state(instance, OLD, tmp_path, backend="another", head=39)
    assert state.applied == 0
    state.close()


def test_a_changed_schema_is_rebuilt_beside_the_old_tables(instance: Instance, tmp_path: Path) -> None:
    fill(instance, tmp_path)
    state = open_state(instance, NEW, tmp_path)
    assert state.rebuilding
    assert (state.applied, state.flushed, state.readable) == (0, 0, 40)
    state.document({"isThinking": True, "currentTask": "x", "lastActivity": 5})
    state.catch_up([LOG[:20]])
    with state.reader() as cursor:
        assert cursor.execute("select count(*) from lines").fetchall() == [(39,)]
        assert len(cursor.execute("select * from things").fetchall()[0]) == 6
    assert len(state.rows("lines")) == 19
    state.apply(LOG[20:])
    state.finish()
    assert not state.rebuilding
    assert (state.applied, state.flushed, state.readable) == (40, 40, 40)
    assert query(state, "select extra from things") == [("new",)]
    assert query(state, 'select "isThinking", "totalMessages" from "agentState"') == [(True, 0)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".wal") == [FILE]
    state.apply([do(41, ("line", "l41", "a"))])
    state.finish()
    rebuilt = contents(state)
    state.close()
    fresh = open_state(instance, NEW)
    fresh.apply([*LOG, do(41, ("line", "l41", "a"))])
    assert contents(fresh) == rebuilt
    fresh.close()
    state = open_state(instance, NEW, tmp_path)
    assert (state.applied, state.rebuilding) == (41, False)
    assert contents(state) == rebuilt
    state.close()


def test_a_reader_under_way_holds_up_the_swap_and_the_next_one_sees_the_new_tables(
    instance: Instance, tmp_path: Path
) -> None:
    fill(instance, tmp_path)
    state = open_state(instance, NEW, tmp_path)
    state.apply(LOG)
    reading, done = threading.Event(), threading.Event()
    seen: list[int] = []

    def read() -> None:
        with state.reader() as cursor:
            reading.set()
            done.wait(60)
            seen.append(len(cursor.execute("select * from things").fetchall()[0]))
        with state.reader() as cursor:
            seen.append(len(cursor.execute("select * from things").fetchall()[0]))

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(60)
    swap = threading.Thread(target=state.finish)
    swap.start()
    swap.join(0.2)
    assert swap.is_alive()
    assert state.has("things", "a")  # memory answers meanwhile
    done.set()
    swap.join(60)
    reader.join(60)
    assert seen == [6, 7]
    state.close()


def test_an_interrupted_rebuild_is_dropped_when_the_schema_is_the_old_one_again(
    instance: Instance, tmp_path: Path
) -> None:
    fill(instance, tmp_path)
    state = open_state(instance, NEW, tmp_path)
    state.apply(LOG[:5])
    state.close()
    assert (tmp_path / NEW_FILE).exists()
    state = open_state(instance, puppet(3), tmp_path)
    assert (state.rebuilding, state.applied) == (True, 0)
    state.close()
    state = open_state(instance, OLD, tmp_path)
    assert (state.rebuilding, state.applied) == (False, 40)
    assert not (tmp_path / NEW_FILE).exists()
    state.close()


KILLED = """
import os, sys
from pathlib import Path
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state import rebuild
from tests.state.support import open_state
from tests.state.test_files import LOG, NEW, OLD

moment, folder = sys.argv[1], Path(sys.argv[2])
state = open_state(Instance(), OLD if moment == "unwritten" else NEW, folder)
if moment == "unwritten":
    state.apply(LOG[:30])
    state.flush()
    state.apply(LOG[30:])
    os._exit(9)
if moment == "half built":
    state.catch_up([LOG[:10], LOG[10:20]])
    os._exit(9)
state.apply(LOG)
state.flush()
if moment == "before the rename":
    Path.replace = lambda *_: os._exit(9)
if moment == "after the rename":
    rebuild.os.fsync = lambda *_: os._exit(9)
state.finish()
"""


def killed(moment: str, folder: Path) -> None:
    """Have another process work on the state and end without a word."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(folder)], cwd=Path(__file__).parents[2], timeout=120
    )
    assert done.returncode == 9


def test_a_killed_process_leaves_what_it_had_written(instance: Instance, tmp_path: Path) -> None:
    killed("unwritten", tmp_path)
    state = open_state(instance, OLD, tmp_path)
    assert state.applied == 30
    state.apply(LOG[30:])
    assert state.count("lines") == len(state.rows("lines")) == 39
    state.close()


@pytest.mark.parametrize(
    ("moment", "applied", "rebuilding"),
    [("half built", 20, True), ("before the rename", 40, False), ("after the rename", 40, False)],
)
def test_a_killed_rebuild_goes_on_where_it_was(
    instance: Instance, tmp_path: Path, moment: str, applied: int, rebuilding: bool
) -> None:
    fill(instance, tmp_path)
    killed(moment, tmp_path)
    state = open_state(instance, NEW, tmp_path)
    if moment == "before the rename":  # the older file is still there, and so is the new one, complete
        rebuilding = state.rebuilding
    assert (state.applied, state.rebuilding) == (applied, rebuilding)
    if state.rebuilding:
        assert state.readable == 40
        state.apply(LOG[applied:])
        state.finish()
    rebuilt = contents(state)
    state.close()
    fresh = open_state(instance, NEW)
    fresh.apply(LOG)
    assert contents(fresh) == rebuilt
    fresh.close()
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".wal"] == [FILE]
