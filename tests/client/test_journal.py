"""What a named session finds on disk after whatever end it had."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from jupyter_agentstore.client.journal import FILE, Journal
from jupyter_agentstore.core.errors import StoreLocked
from jupyter_agentstore.core.events import Wire


def chain(*said: str, head: int = 0) -> list[Wire]:
    return [
        Wire("e", msgspec.Raw(f'"{text}"'.encode()), seq, seq - 1, "client", "session")
        for seq, text in enumerate(said, head + 1)
    ]


def said(events: Sequence[Wire]) -> list[tuple[int, int, str]]:
    return [(event.parentSeqNum, event.seqNum, msgspec.json.decode(event.args)) for event in events]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine"


@contextmanager
def reopened(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder, "store")
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files take no bytes beyond ``size``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_added_and_not_done_is_found_again(folder: Path) -> None:
    with reopened(folder) as journal:
        who = journal.header.clientId, journal.header.sessionId
        journal.write("log", chain("1", "2", head=7))
        journal.add(chain("3", head=9))
        journal.done(1, left=2)
    with reopened(folder) as journal:
        assert said(journal.pending) == [(8, 9, "2"), (9, 10, "3")]
        assert (journal.header.clientId, journal.header.sessionId) == who
        assert journal.header.backendId == "log"


def test_a_line_that_was_cut_off_was_never_there(folder: Path) -> None:
    with reopened(folder) as journal:
        journal.add(chain("1"))
        length = (folder / FILE).stat().st_size
        journal.add(chain("2", head=1))
    whole = (folder / FILE).read_bytes()
    for end in range(length, len(whole) - 1):
        (folder / FILE).write_bytes(whole[:end])
        with reopened(folder) as journal:
            assert said(journal.pending) == [(0, 1, "1")]


def test_what_was_pending_on_an_earlier_log_stays_apart(folder: Path) -> None:
    with reopened(folder) as journal:
        journal.write("new", chain("4"), chain("1", "2", head=500))
        journal.add(chain("5", head=1))
        journal.done(1, left=1)
    for _ in range(2):
        with reopened(folder) as journal:
            assert said(journal.aside) == [(500, 501, "1"), (501, 502, "2")]
            assert said(journal.pending) == [(1, 2, "5")]


def test_events_with_numbers_that_do_not_follow_are_a_chain_when_they_are_found(folder: Path) -> None:
    with reopened(folder) as journal:
        journal.add(chain("1", "2", head=3))
        journal.add(chain("3", head=3))
    with reopened(folder) as journal:
        assert said(journal.pending) == [(3, 4, "1"), (4, 5, "2"), (5, 6, "3")]


def test_a_full_disk_takes_nothing_of_what_it_cannot_take_whole(folder: Path) -> None:
    with reopened(folder) as journal:
        journal.add(chain("1"))
        size = (folder / FILE).stat().st_size
        with full_disk(size + 60):
            with pytest.raises(OSError, match="File too large"):
                journal.add(chain("2", "3", "4", head=1))
            with pytest.raises(OSError, match="File too large"):
                journal.write("log", chain(*"123456789"))
            journal.done(1, left=0)
        with full_disk((folder / FILE).stat().st_size + 3):
            journal.done(1, left=0)
        journal.add(chain("5", head=1))
    with reopened(folder) as journal:
        assert said(journal.pending) == [(1, 2, "5")]
        assert journal.header.backendId is None


def test_one_process_has_a_session_at_a_time_and_it_is_named(folder: Path) -> None:
    with (
        reopened(folder),
        pytest.raises(StoreLocked, match="The session 'mine' is open in this process already"),
    ):
        Journal(folder, "store")
    with reopened(folder):
        pass


def test_a_file_stays_short_once_nothing_is_pending(folder: Path) -> None:
    with reopened(folder) as journal:
        for number in range(400):
            journal.add(chain("x" * 1_000, head=number))
            journal.done(1, left=0)
            assert (folder / FILE).stat().st_size < 300_000
