"""Copies of logs: complete or not at all, and never over anything that matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_agentstore.core.errors import (
    AgentStoreError,
    Conflict,
    DamagedLog,
    ForeignFile,
    NotFound,
    StoreLocked,
)
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.eventlog import DuckDBLog, EventLog, Lock, MemoryLog, unclean
from jupyter_agentstore.eventlog.backup import backup, restore, verify
from jupyter_agentstore.eventlog.file import FILE, wal_of
from tests.eventlog.made import TIME, event, events

Open = Callable[[], DuckDBLog]


def contents(path: Path) -> list[object]:
    """What a backup, or the log of a store's folder, holds."""
    instance = Instance()
    try:
        if path.is_dir():
            log = DuckDBLog.open(instance, path, "s_x", create=False)
        else:
            log = DuckDBLog.open_backup(instance, path, "s_x")
        return [event for page in log.scan() for event in page]
    finally:
        instance.close()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A backup of 2,500 events."""
    log = MemoryLog()
    log.append(events(1, 2500, size=500))
    backup(log, tmp_path / "saved.duckdb")
    return tmp_path / "saved.duckdb"


@pytest.mark.parametrize("count", [0, 1, 12_000])
def test_a_backup_has_all_events_and_the_backend_id(log: EventLog, tmp_path: Path, count: int) -> None:
    log.append(events(1, count))
    told: list[tuple[int, int]] = []
    to = tmp_path / "saved.duckdb"
    report = backup(log, to, lambda done, total: told.append((done, total)))
    assert (report.path, report.backend_id, report.count, report.head) == (to, log.backend_id, count, count)
    assert report.last_recorded_at == log.last_recorded_at
    assert told[-1] == (count, count)
    assert contents(to) == events(1, count)
    assert verify(to) == report
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["saved.duckdb"]


def test_a_backup_while_others_append_ends_at_the_head_at_its_start(log: EventLog, tmp_path: Path) -> None:
    log.append(events(1, 3000))

    def append() -> None:
        for n in range(3001, 3100):
            log.append([event(n)])

    with ThreadPoolExecutor(1) as pool:
        appending = pool.submit(append)
        report = backup(log, tmp_path / "saved.duckdb")
        appending.result()
    assert report.head in range(3000, 3100)
    assert contents(tmp_path / "saved.duckdb") == events(1, report.head)

    def append_more(done: int, total: int) -> None:
        log.append([event(log.head + 1)])

    report = backup(log, tmp_path / "again.duckdb", append_more)
    assert (report.head, log.head) == (3099, 3100)


def test_a_store_that_nobody_has_open_is_backed_up_by_its_folder(
    open_log: Open, folder: Path, tmp_path: Path
) -> None:
    log = open_log()
    log.append(events(1, 10))
    log.close()
    Lock.take(folder).release(work_waiting=True)
    assert backup(folder, tmp_path / "saved.duckdb").head == 10
    assert unclean(folder)  # as it was
    with Lock.take(folder), pytest.raises(StoreLocked):
        backup(folder, tmp_path / "other.duckdb")
    with pytest.raises(NotFound):
        backup(tmp_path / "nowhere", tmp_path / "other.duckdb")
    assert not (tmp_path / "other.duckdb").exists()
    assert not (tmp_path / "nowhere").exists()


def test_a_backup_replaces_a_backup_when_forced_and_nothing_else_ever(
    log: EventLog, open_log: Open, saved: Path, tmp_path: Path
) -> None:
    log.append(events(1, 5))
    with pytest.raises(Conflict, match="is there already"):
        backup(log, saved)
    assert len(contents(saved)) == 2500
    backup(log, saved, force=True)
    assert contents(saved) == events(1, 5)
    text = tmp_path / "text"
    text.write_text("dear diary")
    (tmp_path / "folder").mkdir()
    restore(saved, tmp_path / "other")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for path in (text, tmp_path / "folder", tmp_path / "other" / FILE, link):
        before = path.read_bytes() if path.is_file() else None
        for force in (False, True):
            with pytest.raises((Conflict, ForeignFile), match=str(path)):
                backup(log, path, force=force)
        assert before is None or path.read_bytes() == before


def test_a_stray_wal_where_the_backup_would_be_is_in_the_way(log: EventLog, tmp_path: Path) -> None:
    wal_of(tmp_path / "saved.duckdb").write_bytes(b"another's")
    for force in (False, True):
        with pytest.raises(Conflict, match=r"saved\.duckdb\.wal is there"):
            backup(log, tmp_path / "saved.duckdb", force=force)


def test_a_backup_that_fails_leaves_no_file(log: EventLog, tmp_path: Path) -> None:
    log.append([event(1), event(2), event(3, actor="x")])

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(log, tmp_path / "saved.duckdb", stop)
    with pytest.raises(OSError, match="cannot be written"):
        backup(log, tmp_path / "nowhere" / "saved.duckdb")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
    assert backup(log, tmp_path / "saved.duckdb").head == 3


def test_a_damaged_log_is_not_backed_up(open_log: Open, instance: Instance, tmp_path: Path) -> None:
    log = open_log()
    log.append(events(1, 10))
    instance.cursor("s_log").execute("update events set event = 'x' where seq = 7")
    with pytest.raises(DamagedLog, match="Event 7"):
        backup(log, tmp_path / "saved.duckdb")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_nothing_can_be_appended_to_a_backup(saved: Path, instance: Instance) -> None:
    log = DuckDBLog.open_backup(instance, saved, "s_saved")
    with pytest.raises(OSError, match="is a backup"):
        log.append([event(2501)])
    log.close()


def test_a_store_restored_has_all_events_and_another_backend_id(saved: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    before = saved.read_bytes()
    report = restore(saved, tmp_path / "deep" / "store", lambda done, total: told.append((done, total)))
    store = tmp_path / "deep" / "store"
    assert (report.path, report.head, report.last_recorded_at, report.kept) == (
        store / FILE,
        2500,
        TIME + 2500,
        None,
    )
    assert told[-1] == (2500, 2500)
    assert contents(store) == events(1, 2500, size=500)
    assert report.backend_id not in {verify(saved).backend_id, restore(saved, tmp_path / "b").backend_id}
    assert verify(store).backend_id == report.backend_id
    assert {path.name for path in store.iterdir()} == {FILE, "lock"}
    assert saved.read_bytes() == before


def test_a_store_restored_goes_on(saved: Path, open_log: Open, folder: Path) -> None:
    restore(saved, folder)
    log = open_log()
    log.append([event(2501)])
    assert log.read(2500, 10) == [event(2501)]


def test_restoring_over_a_log_takes_force_and_keeps_the_old_one(
    saved: Path, open_log: Open, folder: Path
) -> None:
    log = open_log()
    log.append(events(1, 7))
    old = log.backend_id
    log.close()
    states = ["state.duckdb", "state.duckdb.wal", "state.new.duckdb", "state.new.duckdb.wal"]
    for name in (*states, "state-of-mine.txt"):
        (folder / name).write_text("x")
    with pytest.raises(Conflict):
        restore(saved, folder)
    assert contents(folder) == events(1, 7)
    assert (folder / "state.duckdb").exists()
    report = restore(saved, folder, force=True)
    assert contents(folder) == events(1, 2500, size=500)
    assert report.kept
    assert report.kept.name.startswith(f"{FILE}.")
    assert not any((folder / name).exists() for name in states)
    assert (folder / "state-of-mine.txt").exists()
    # What was kept is a whole log: put back, it goes on.
    report.kept.rename(folder / FILE)
    assert contents(folder) == events(1, 7)
    assert verify(folder).backend_id == old


def test_a_log_beyond_reading_is_replaced_and_kept_with_its_wal(saved: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(b"beyond reading")
    wal_of(folder / FILE).write_bytes(b"the last events")
    report = restore(saved, folder, force=True)
    assert report.kept
    assert report.kept.read_bytes() == b"beyond reading"
    assert wal_of(report.kept).read_bytes() == b"the last events"
    assert len(contents(folder)) == 2500


def test_a_wal_alone_is_a_log_too(saved: Path, folder: Path) -> None:
    folder.mkdir()
    wal_of(folder / FILE).write_bytes(b"the last events")
    with pytest.raises(Conflict):
        restore(saved, folder)
    report = restore(saved, folder, force=True)
    assert report.kept
    assert wal_of(report.kept).read_bytes() == b"the last events"
    assert len(contents(folder)) == 2500


def test_a_file_system_without_links_keeps_the_old_log_as_well(
    saved: Path, open_log: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.append(events(1, 7))
    log.close()

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    report = restore(saved, folder, force=True)
    assert report.kept
    assert len(contents(folder)) == 2500
    report.kept.rename(folder / FILE)
    assert contents(folder) == events(1, 7)


def test_a_restore_that_fails_leaves_the_store_as_it_was(saved: Path, open_log: Open, folder: Path) -> None:
    log = open_log()
    log.append(events(1, 7))
    log.close()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(saved, folder, stop, force=True)
    with saved.open("r+b") as file:
        file.seek(saved.stat().st_size // 2)
        file.write(b"\xa5" * 5000)
    with pytest.raises(DamagedLog, match=str(saved)):
        restore(saved, folder, force=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"} == before


def test_a_restore_killed_at_any_moment_leaves_the_old_log_or_the_new_one(
    saved: Path, open_log: Open, folder: Path
) -> None:
    """Killed where the new file is whole and the old one is about to make room: the worst moment there is."""
    log = open_log()
    log.append(events(1, 7))
    log.close()
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from jupyter_agentstore.eventlog import backup\n"
        "backup.put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backup.restore(Path(sys.argv[1]), Path(sys.argv[2]), force=True)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(saved), str(folder)], cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert contents(folder) == events(1, 7)
    restore(saved, folder, force=True)
    assert len(contents(folder)) == 2500
    assert not (folder / f"{FILE}.new").exists()


def test_a_store_that_is_open_is_not_restored_nor_verified(saved: Path, folder: Path) -> None:
    folder.mkdir()
    with Lock.take(folder, {"url": "http://here/"}):
        for force in (False, True):
            with pytest.raises(StoreLocked, match="http://here/"):
                restore(saved, folder, force=force)
        (folder / FILE).touch()
        with pytest.raises(StoreLocked, match="http://here/"):
            verify(folder)


def test_only_a_backup_is_restored(saved: Path, tmp_path: Path) -> None:
    restore(saved, tmp_path / "store")
    text = tmp_path / "text"
    text.write_text("dear diary" * 1000)
    for path, error, said in [
        (tmp_path / "store" / FILE, ForeignFile, "is a store's event log, not a backup"),
        (text, ForeignFile, "is not a DuckDB database"),
        (tmp_path / "nowhere", NotFound, "There is no file"),
        (tmp_path / "store", ForeignFile, "is not a regular file"),
    ]:
        with pytest.raises(error, match=said):
            restore(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_verify_reports_what_a_store_holds_and_leaves_it_as_it_was(open_log: Open, folder: Path) -> None:
    log = open_log()
    log.append(events(1, 12))
    log.close()
    Lock.take(folder).release(work_waiting=True)
    report = verify(folder)
    assert (report.path, report.count, report.head, report.faults) == (folder / FILE, 12, 12, ())
    assert (report.backend_id, report.last_recorded_at) == (log.backend_id, TIME + 12)
    assert unclean(folder)


def test_verify_reports_faults_in_events(open_log: Open, instance: Instance, folder: Path) -> None:
    log = open_log()
    log.append(events(1, 12))
    instance.cursor("s_log").execute("update events set event = '{}' where seq = 7")
    log.close()
    report = verify(folder)
    assert (report.head, len(report.faults)) == (12, 1)
    assert "Event 7" in report.faults[0]


def test_verify_says_what_is_wrong_with_a_file(saved: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.duckdb"
    cut.write_bytes(saved.read_bytes()[:100_000])
    text = tmp_path / "text"
    text.write_text("dear diary" * 1000)
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (cut, text, empty, tmp_path / "nowhere"):
        with pytest.raises(AgentStoreError, match=str(path)) as raised:
            verify(path)
        assert isinstance(
            raised.value, NotFound if path in (empty, tmp_path / "nowhere") else (DamagedLog, ForeignFile)
        )
