"""A copy of the tables' file is whole, is of one moment, and leaves the file to the process that has it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore.core.errors import NotFound, Rebuilding, StoreClosed
from jupyter_agentstore.core.schema import Column
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state import file
from jupyter_agentstore.state.state import State
from tests.state.support import contents, do, open_state, puppet

SCHEMA = puppet()
LOG = [do(1, ("insert", "things", {"id": "a"})), *(do(seq, ("line", f"l{seq}", "a")) for seq in range(2, 41))]


def taken(instance: Instance, path: Path) -> State:
    """A copy as somebody else takes it up, from a folder of his own."""
    folder = path.with_name("else")
    folder.mkdir()
    path.rename(folder / "state.duckdb")
    state = State.take(instance, folder, "s_else", SCHEMA)
    assert state is not None
    return state


def may_open(path: Path) -> bool:
    """Whether another process could open a file."""
    code = f"import duckdb; duckdb.connect({str(path)!r}, read_only=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 or "lock on file" in done.stderr
    return done.returncode == 0


def test_a_copy_has_all_that_was_applied(instance: Instance, tmp_path: Path) -> None:
    state = open_state(instance, SCHEMA, tmp_path)
    state.apply(LOG[:30])
    state.flush()
    state.apply(LOG[30:])
    copy = tmp_path / "copy.duckdb"
    assert state.copy(copy) == 40
    assert copy.stat().st_mode & 0o777 == 0o600
    other = taken(instance, copy)
    assert (other.applied, other.backend_id) == (40, state.backend_id)
    assert contents(other) == contents(state)
    other.apply([do(41, ("line", "l41", "a"))])
    state.apply([do(41, ("line", "l41", "a"))])
    assert contents(other) == contents(state)
    state.close()
    other.close()


def test_a_copy_leaves_the_file_to_its_process(instance: Instance, tmp_path: Path) -> None:
    state = open_state(instance, SCHEMA, tmp_path)
    state.apply(LOG)
    for number in range(2):
        state.copy(tmp_path / f"copy{number}.duckdb")
        assert not may_open(tmp_path / "state.duckdb")
        assert may_open(tmp_path / f"copy{number}.duckdb")
    state.close()
    assert may_open(tmp_path / "state.duckdb")


def test_a_copy_leaves_no_descriptor_open(instance: Instance, tmp_path: Path) -> None:
    def open_files() -> list[Path]:
        links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [path.readlink() for path in links if path.readlink().is_relative_to(tmp_path)]

    state = open_state(instance, SCHEMA, tmp_path)
    state.copy(tmp_path / "copy.duckdb")
    state.copy(tmp_path / "copy.duckdb")
    assert len(open_files()) <= 3  # DuckDB's own, of the file and its WAL, and ours
    state.close()
    assert open_files() == []


@pytest.mark.parametrize("kernel", [True, False])
def test_a_copy_is_made_while_others_read_and_apply(
    instance: Instance, tmp_path: Path, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:  # as where the system cannot copy between two files by itself
        monkeypatch.delattr(os, "copy_file_range")
    state = open_state(instance, SCHEMA, tmp_path)
    state.apply(LOG[:10])
    state.flush()
    stop = threading.Event()

    def go_on() -> None:
        for event in LOG[10:]:
            state.apply([event])
            state.flush()
        stop.set()

    writer = threading.Thread(target=go_on)
    with state.reader() as cursor:
        cursor.execute("begin transaction read only").fetchall()
        assert cursor.execute("select count(*) from events").fetchall() == [(10,)]
        writer.start()
        copies = []
        while not stop.is_set() or not copies:
            path = tmp_path / f"{len(copies)}.duckdb"
            copies.append((path, state.copy(path)))
        assert cursor.execute("select count(*) from events").fetchall() == [(10,)]
        cursor.rollback()
    writer.join()
    for number, (path, seq) in enumerate(copies):
        instance.attach(path, f"s_copy{number}")
        found: Any = (
            instance.cursor(f"s_copy{number}").execute("select count(*), max(seq) from events").fetchall()
        )
        assert found == [(seq, seq)]
        instance.detach(f"s_copy{number}")
    state.close()


def test_tables_without_a_file_are_not_copied(instance: Instance, tmp_path: Path) -> None:
    state = open_state(instance, SCHEMA)
    with pytest.raises(NotFound):
        state.copy(tmp_path / "copy.duckdb")
    state.close()


def test_tables_that_are_being_rebuilt_are_not_copied(instance: Instance, tmp_path: Path) -> None:
    first = open_state(instance, SCHEMA, tmp_path)
    first.apply(LOG)
    first.close()
    state = open_state(instance, puppet(2, columns=[Column("extra", "text", "new")]), tmp_path)
    with pytest.raises(Rebuilding):
        state.copy(tmp_path / "copy.duckdb")
    state.catch_up([LOG])
    state.finish()
    assert state.copy(tmp_path / "copy.duckdb") == 40
    state.close()
    with pytest.raises(StoreClosed):
        state.copy(tmp_path / "copy.duckdb")


def test_what_cannot_be_written_is_not_left_behind(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_state(instance, SCHEMA, tmp_path)
    state.apply(LOG)
    with pytest.raises(OSError):
        state.copy(tmp_path / "nowhere" / "copy.duckdb")

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full)
        patch.setattr(os, "pread", full)
        with pytest.raises(OSError, match="No space"):
            state.copy(tmp_path / "copy.duckdb")
    assert not (tmp_path / "copy.duckdb").exists()
    assert state.copy(tmp_path / "copy.duckdb") == 40
    assert state.copy(tmp_path / "copy.duckdb") == 40
    state.close()
    assert file.wal_of(tmp_path / "copy.duckdb").exists() is False
