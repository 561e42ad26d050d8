"""Nothing that an event holds, and no fault of the disk, leaves a state half done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.events import Event
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state.file import StateFile
from jupyter_agentstore.state.memory import Memory
from tests.state.support import contents, created, do, event, open_state, puppet, query, recounted, said

Write = Callable[..., None]


@pytest.fixture
def write() -> Iterator[Write]:
    """How a file is written; put back afterwards."""
    original = StateFile.write
    yield original
    StateFile.write = original  # type: ignore[method-assign]


def lines(first: int, last: int) -> list[Event]:
    return [do(seq, ("line", f"l{seq}", "a")) for seq in range(first, last + 1)]


def test_an_event_that_cannot_be_written_becomes_an_anomaly_and_the_rest_goes_on(
    instance: Instance, write: Write
) -> None:
    def picky(file: StateFile, batch: Any, *rest: Any) -> None:
        if batch is not None and {"l7", "l13"} & batch.tables["lines"].rows.keys():
            raise duckdb.ConversionException("it does not like this one\nat all")
        write(file, batch, *rest)

    StateFile.write = picky  # type: ignore[method-assign]
    state = open_state(instance, puppet())
    state.apply(lines(1, 5))
    state.flush()
    state.apply(lines(6, 20))
    state.flush()
    assert (state.applied, state.flushed) == (20, 20)
    assert query(state, "select seq, reason from anomalies order by seq") == [
        (7, "It cannot be written: it does not like this one"),
        (13, "It cannot be written: it does not like this one"),
    ]
    assert query(state, "select count(*) from events") == [(20,)]
    assert state.count("lines") == len(state.rows("lines")) == 18
    assert contents(state).items() >= recounted(state).items()
    assert not state.has("lines", "l7")
    state.apply([do(21, ("line", "l8", "a")), do(22, ("line", "l22", "a"))])
    assert query(state, "select max(seq) from anomalies") == [(21,)]
    state.close()


def test_such_an_event_is_found_while_others_are_applied_beside_it(instance: Instance, write: Write) -> None:
    def picky(file: StateFile, batch: Any, *rest: Any) -> None:
        if batch is not None and "l50" in batch.tables["lines"].rows:
            raise duckdb.ConversionException("no")
        write(file, batch, *rest)

    StateFile.write = picky  # type: ignore[method-assign]
    state = open_state(instance, puppet())
    done = []
    log = lines(1, 200)
    pages = (log[start : start + 10] for start in range(0, 200, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jupyter_agentstore.state.rebuild._BATCH_EVENTS", 1)  # one page after the other
        state.catch_up(pages, done.append)
    assert done == list(range(10, 201, 10))
    assert query(state, "select seq from anomalies") == [(50,)]
    assert state.count("lines") == len(state.rows("lines")) == 199
    state.close()


def test_text_that_no_file_takes_is_an_anomaly_wherever_it_comes(instance: Instance) -> None:
    log = lines(1, 200)
    for seq in (1, 50, 51, 120, 200):
        log[seq - 1] = do(seq, ("line", f"l{seq}", "a"), ("surrogate", f"t{seq}"))
    plain = open_state(instance, puppet())
    for single in log:
        plain.apply([single])
    grouped = open_state(instance, puppet())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jupyter_agentstore.state.rebuild._BATCH_EVENTS", 1)
        grouped.catch_up(log[start : start + 15] for start in range(0, 200, 15))
    assert contents(grouped) == contents(plain)
    assert [seq for (seq,) in query(grouped, "select seq from anomalies order by seq")] == [
        1,
        50,
        51,
        120,
        200,
    ]
    plain.close()
    grouped.close()


@pytest.mark.parametrize(("memory", "late"), [(True, False), (False, False), (False, True)])
def test_a_disk_that_fails_loses_nothing(
    instance: Instance, write: Write, tmp_path: Path, memory: bool, late: bool
) -> None:
    failing = True

    def faulty(file: StateFile, *rest: Any) -> None:
        if late or not failing:  # an error after the commit: the transaction is there all the same
            write(file, *rest)
        if failing:
            raise duckdb.IOException("No space left on device")

    StateFile.write = faulty  # type: ignore[method-assign]
    state = open_state(instance, puppet(), None if memory else tmp_path)
    state.apply(lines(1, 10))
    for _ in range(1 if late else 2):
        with pytest.raises(OSError, match="No space left"):
            state.flush()
    assert state.row("lines", "l5") is not None
    assert state.has("lines", "l5")
    state.apply(lines(state.applied + 1, 15))
    failing = False
    state.flush()
    assert state.flushed == 15
    assert state.count("lines") == len(state.rows("lines")) == 15
    assert query(state, "select count(*) from events") == [(15,)]
    assert query(state, "select * from anomalies") == []
    state.close()


def test_an_error_that_has_no_culprit_is_raised(instance: Instance, write: Write) -> None:
    def broken(file: StateFile, *rest: Any) -> None:
        raise duckdb.ConversionException("never")

    StateFile.write = broken  # type: ignore[method-assign]
    state = open_state(instance, puppet())
    state.apply(lines(1, 3))
    with pytest.raises(OSError, match="never"):
        state.flush()
    StateFile.write = write  # type: ignore[method-assign]
    state.apply(lines(state.applied + 1, 3))
    state.flush()
    assert len(state.rows("lines")) == 3
    state.close()


def test_a_file_that_cannot_be_read_is_made_anew_the_next_time(instance: Instance, tmp_path: Path) -> None:
    state = open_state(instance, puppet(), tmp_path)
    state.apply(lines(1, 3))
    state.close()
    state = open_state(instance, puppet(), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateFile, "keys", _rotten)
        with pytest.raises(OSError, match="Corrupt"):
            state.has("lines", "l1")
    state.close()
    state = open_state(instance, puppet(), tmp_path)
    assert state.applied == 0
    state.close()


def _rotten(file: StateFile, table: str) -> Iterator[list[str]]:
    with file._reads():
        raise duckdb.IOException(
            "Corrupt database file: computed checksum 1 does not match stored checksum 2"
        )
    yield []


def test_an_application_that_is_interrupted_is_as_if_it_had_not_begun(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_state(instance, puppet())
    state.apply(lines(1, 3))
    state.flush()
    state.apply(lines(4, 5))
    operate = Memory._operate

    def interrupted(memory: Memory, operations: Any, seq: int, changes: Any) -> str:
        if seq == 8:
            raise KeyboardInterrupt
        return operate(memory, operations, seq, changes)

    monkeypatch.setattr(Memory, "_operate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        state.apply(lines(6, 10))
    monkeypatch.undo()
    state.flush()
    assert state.applied == state.flushed == 3
    state.apply(lines(4, 10))
    assert state.count("lines") == len(state.rows("lines")) == 10
    state.close()


@pytest.mark.parametrize(
    "args",
    [
        '{"id":"\\u0000"}',
        '{"id":"a","conversationId":"c","role":"user","content":"\\ud83d"}',
        '{"id":"a","conversationId":"c","role":"user","content":"x","metadata":"{\\"a\\":1e999}"}',
        '{"id":"a","conversationId":"c","role":"user","content":"x","more":1e999}',
        '{"id":"a","conversationId":"c","role":"user","content":"x","more":' + "1" * 5000 + "}",
        '{"id":"a","conversationId":"c","role":"user","content":"x","more":' + "[" * 10**5 + "]" * 10**5 + "}",
        '{"id":"a","id":"b","conversationId":"c","role":"user","content":"x"}',
        '{"id":"a","conversationId":"c","role":"user","content":"x","metadata":"' + "[" * 10**5 + '"}',
        "[]", "null", "5", '"text"', "[[1]]",
    ],
)  # fmt: skip
def test_an_events_twin_is_json_that_duckdb_reads(instance: Instance, args: str) -> None:
    state = open_state(instance, agent_schema)
    state.apply([event(1, "v1.MessageAdded", args)])
    assert query(state, "select name, json_valid(args) from events") == [("v1.MessageAdded", True)]
    assert query(state, "select args->>'content' from events where json_type(args) = 'OBJECT'") in (
        [], [("x",)], [("\ufffd",)], [(None,)]
    )  # fmt: skip
    state.close()


def test_readers_of_memory_and_file_may_come_from_any_thread(instance: Instance, tmp_path: Path) -> None:
    state = open_state(instance, agent_schema, tmp_path)
    state.apply([created(1)])
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                count = state.count("messages")
                assert len(state.rows("messages")) >= count
                assert len(state.tail("messages", "c1", limit=10**6)) >= count
                assert state.has("conversations", "c1")
                with state.reader() as cursor:
                    cursor.execute("select count(*) from messages").fetchall()
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for seq in range(2, 300):
        state.apply([said(seq, f"m{seq}")])
        if seq % 7 == 0:
            state.flush()
    stop.set()
    for reader in readers:
        reader.join(60)
    assert errors == []
    assert state.count("messages") == len(state.rows("messages")) == 298
    state.close()
