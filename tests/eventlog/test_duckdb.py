"""What a log in a DuckDB file promises beyond the contract: it outlives its process, and notices damage."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_agentstore.core.errors import DamagedLog, ForeignFile, NotFound, StoreLocked
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.eventlog import DuckDBLog
from jupyter_agentstore.eventlog import duckdb as duckdb_module
from jupyter_agentstore.eventlog import file as file_module
from jupyter_agentstore.eventlog.file import BACKUP, FILE, build, new_meta, wal_of
from tests.eventlog.made import events

Open = Callable[[], DuckDBLog]
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def path(folder: Path) -> Path:
    """The file of a log of 3,000 events, closed; it has some 20 blocks of data."""
    instance = Instance()
    log = DuckDBLog.open(instance, folder, "s_log", create=True)
    for first in range(1, 3001, 1000):
        log.append(events(first, first + 999, size=2_000))
    log.close()
    instance.close()
    return folder / FILE


def test_a_log_opened_again_is_as_it_was(open_log: Open) -> None:
    log = open_log()
    log.append(events(1, 50))
    backend_id = log.backend_id
    log.close()
    log = open_log()
    assert (log.backend_id, log.head, log.last_recorded_at) == (backend_id, 50, events(50, 50)[0].recorded_at)
    log.append(events(51, 60))
    log.close()
    assert open_log().read(0, 100) == events(1, 60)


def test_two_logs_have_different_backend_ids(instance: Instance, tmp_path: Path) -> None:
    logs = [DuckDBLog.open(instance, tmp_path / name, f"s_{name}", create=True) for name in "ab"]
    assert logs[0].backend_id != logs[1].backend_id


def test_a_log_that_is_not_there_is_made_only_when_asked(instance: Instance, folder: Path) -> None:
    with pytest.raises(NotFound):
        DuckDBLog.open(instance, folder, "s_log", create=False)
    assert not folder.exists()


def test_nothing_of_a_making_that_was_cut_short_stays(open_log: Open, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{FILE}.new").write_bytes(b"half")
    (folder / f"{FILE}.new.wal").write_bytes(b"half")
    open_log().close()
    assert [file.name for file in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_kill_9_again_and_again(
    open_log: Open, start: Start, seed: int
) -> None:
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(4):
        process = start("append")
        assert process.stdout
        for _ in range(chance.randint(1, 120)):
            acknowledged = int(process.stdout.readline())
        process.kill()
        rest = process.communicate()[0].splitlines()
        acknowledged = int(rest[-1]) if rest and rest[-1].isdigit() else acknowledged
        log = open_log()
        assert log.head >= acknowledged
        assert log.verify() == log.head
        assert [e for page in log.scan() for e in page] == events(1, log.head, size=200)
        log.close()


def test_a_full_disk_refuses_appends_and_neither_loses_nor_hides_anything(
    start: Start, open_log: Open
) -> None:
    process = start("fill")
    said = process.communicate()[0].splitlines()
    assert process.returncode == 0, said
    full, room = (int(line.split()[2]) for line in said)
    assert 0 < full == room - 200
    log = open_log()
    assert log.read(0, 10**6) == events(1, room, size=1_000)


def read_all(instance: Instance, folder: Path) -> list[object]:
    log = DuckDBLog.open(instance, folder, "s_log", create=False)
    try:
        log.verify()
        return [event for page in log.scan() for event in page]
    finally:
        log.close()


@pytest.mark.parametrize("part", range(12))
def test_bytes_overwritten_anywhere_are_noticed(instance: Instance, path: Path, part: int) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size * part // 12 + 100)
        file.write(b"\xa5" * 64)
    found, said = [], str(path)
    try:
        found = read_all(instance, path.parent)
    except (DamagedLog, ForeignFile) as error:
        said = error.message
    assert str(path) in said
    assert not found or found == events(1, 3000, size=2_000)  # a part of the file that holds nothing


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 12_288, 300_000, 1_000_000])
def test_a_file_that_was_cut_off_is_noticed(instance: Instance, path: Path, kept: int) -> None:
    with path.open("r+b") as file:
        file.truncate(kept)
    with pytest.raises((DamagedLog, ForeignFile), match=str(path)):
        read_all(instance, path.parent)
    assert path.stat().st_size == kept


@pytest.fixture
def crashed(open_log: Open, folder: Path, tmp_path: Path) -> Path:
    """The folder of a log as a crash leaves it: events 1 to 100 in the file, 101 to 200 in its WAL."""
    log = open_log()
    log.append(events(1, 100))
    log.checkpoint()
    for first in range(101, 200, 10):
        log.append(events(first, first + 9))
    copy = tmp_path / "crashed"
    shutil.copytree(folder, copy)
    return copy


def test_a_log_with_a_wal_has_all_events(crashed: Path) -> None:
    assert read_all(Instance(), crashed) == events(1, 200)


def test_a_log_without_its_wal_ends_at_the_last_checkpoint(crashed: Path) -> None:
    wal_of(crashed / FILE).unlink()
    assert read_all(Instance(), crashed) == events(1, 100)


@pytest.mark.parametrize("part", range(8))
def test_a_damaged_wal_is_noticed_or_ends_the_log_at_a_whole_group(crashed: Path, part: int) -> None:
    wal = wal_of(crashed / FILE)
    with wal.open("r+b") as file:
        file.seek(wal.stat().st_size * part // 8)
        file.write(b"\xa5" * 16)
    found, said = [], str(crashed)
    try:  # DuckDB cannot tell a length that was overwritten from a write that a crash cut short
        found = read_all(Instance(), crashed)
    except (DamagedLog, ForeignFile) as error:
        said = error.message
    assert str(crashed) in said
    assert found == events(1, len(found))
    assert len(found) in {0, *range(100, 200, 10)}


@pytest.mark.parametrize("part", range(1, 8))
def test_a_wal_that_was_cut_off_ends_the_log_at_a_whole_group(crashed: Path, part: int) -> None:
    wal = wal_of(crashed / FILE)
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size * part // 8)
    found = read_all(Instance(), crashed)
    assert len(found) in range(100, 200, 10)
    assert found == events(1, len(found))


def test_a_wal_without_its_log_is_no_new_log(open_log: Open, folder: Path) -> None:
    folder.mkdir()
    wal_of(folder / FILE).write_bytes(b"the last events")
    with pytest.raises(DamagedLog, match="is missing"):
        open_log()
    assert not (folder / FILE).exists()


def text_file(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)


def other_database(path: Path) -> None:
    import duckdb

    with duckdb.connect(str(path)) as connection:
        connection.execute("create table events as select 1 as seq")


def other_database_with_meta(path: Path) -> None:
    import duckdb

    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table meta as select 'x' as format, 1 as version, 'log' as kind, "
            '\'b\' as "backendId", 1 as "createdAt"'
        )


def renamed_backup(path: Path) -> None:
    instance = Instance()
    build(instance, path, "s_made", new_meta(BACKUP))
    instance.close()


def directory(path: Path) -> None:
    path.mkdir()


def sqlite(path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("create table events (seq)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "make", [text_file, other_database, other_database_with_meta, renamed_backup, directory, sqlite]
)
def test_a_foreign_file_is_refused_and_left_alone(
    open_log: Open, folder: Path, make: Callable[[Path], None]
) -> None:
    folder.mkdir()
    make(folder / FILE)
    before = (folder / FILE).read_bytes() if (folder / FILE).is_file() else b""
    for _ in range(2):  # the first try leaves nothing attached
        with pytest.raises(ForeignFile, match=str(folder / FILE)):
            open_log()
    assert not before or (folder / FILE).read_bytes() == before


def test_a_log_of_a_newer_version_is_refused(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(file_module, "VERSION", 2)
        open_log().close()
    with pytest.raises(ForeignFile, match="version 2; this program reads version 1"):
        open_log()


def test_a_gap_in_the_file_is_noticed_on_opening(open_log: Open, instance: Instance) -> None:
    log = open_log()
    log.append(events(1, 10))
    instance.cursor("s_log").execute("delete from events where seq = 5")
    log.close()
    with pytest.raises(DamagedLog, match="some are missing"):
        open_log()


def test_an_event_changed_in_the_file_is_noticed_by_verify(open_log: Open, instance: Instance) -> None:
    log = open_log()
    log.append(events(1, 10))
    instance.cursor("s_log").execute("update events set event = '{}' where seq = 5")
    with pytest.raises(DamagedLog, match="Event 5"):
        log.verify()


def test_a_log_that_another_process_has_is_locked(open_log: Open, start: Start, folder: Path) -> None:
    folder.mkdir()
    process = start("hold")
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreLocked):
        open_log()
    process.communicate("")
    open_log().close()


def test_an_append_that_fails_leaves_the_log_as_it_was(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.append(events(1, 3))

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(duckdb_module, "insert", fail)
        with pytest.raises(OSError, match="could not take the events"):
            log.append(events(4, 4000))
    assert log.read(0, 10) == events(1, 3)
    log.append(events(4, 5))
    assert log.read(0, 10) == events(1, 5)


def test_an_error_after_the_commit_is_no_refusal(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log()
    real = duckdb_module.insert

    def fail(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        raise RuntimeError("the checkpoint failed")

    with monkeypatch.context() as patch:
        patch.setattr(duckdb_module, "insert", fail)
        log.append(events(1, 2500))
    log.append(events(2501, 2510))
    assert [e for page in log.scan() for e in page] == events(1, 2510)


def test_a_log_that_cannot_be_attached_again_comes_back_when_it_can(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.append(events(1, 3))

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(duckdb_module, "insert", fail)
        patch.setattr(duckdb_module, "attach", fail)
        with pytest.raises(OSError):
            log.append(events(4, 4000))
        with pytest.raises(OSError):
            log.read(0, 10)
    assert log.read(0, 10) == events(1, 3)
    log.append(events(4, 5))
    log.close()
