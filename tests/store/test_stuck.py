"""Hosts that are stopped, locks that say nothing, stores that could not be opened at first: nobody waits for ever."""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_agentstore.core.errors import StoreClosed, StoreLocked, Unreachable
from jupyter_agentstore.eventlog import Lock
from jupyter_agentstore.eventlog.lock import owner_of
from jupyter_agentstore.store import Registry
from tests.drafts import message
from tests.store.neighbour import Neighbour, until

BEGIN = 'store.commit([conversation("c")], actor="ada").result(30).head'
CALLERS = 8
SOON = 20.0
"""Seconds; less than a call may take that waits for an answer."""

Start = Callable[..., Neighbour]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "stores"


@pytest.fixture
def start(stores: Path) -> Iterator[Start]:
    """Starts processes beside this one; those that are left are killed."""
    started: list[Neighbour] = []

    def start(store: str = "coffee") -> Neighbour:
        started.append(Neighbour(stores, store))
        return started[-1]

    yield start
    for each in started:
        if each.process.returncode is None:
            each.kill()


@pytest.fixture
def registry(stores: Path) -> Iterator[Registry]:
    registry = Registry(stores)
    yield registry
    registry.close()


def test_who_asks_a_stopped_host_is_told_so_and_what_was_written_arrives_when_it_goes_on(
    start: Start, registry: Registry
) -> None:
    host = start()
    host.do(BEGIN)
    guest = registry.get("coffee", create=False)
    heard: list[int] = []
    guest.on_events(lambda events: heard.extend(event.seq for event in events))
    host.stop()
    written = guest.commit([message("a", commit_id="k")], actor="bob", commit_id="k")
    calls: list[Callable[[], object]] = [
        guest.status,
        lambda: guest.query("select 1"),
        lambda: guest.table("messages"),
        guest.snapshot,
        lambda: registry.get("coffee", create=False),
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        for answer in [pool.submit(calls[n % len(calls)]) for n in range(CALLERS)]:
            with pytest.raises(Unreachable):
                answer.result()
    assert time.monotonic() - began < SOON
    with pytest.raises(Unreachable):
        guest.commit([message("b", commit_id="l")], actor="bob", commit_id="l")
    assert not written.done()
    host.go_on()
    assert written.result(30).seqs == range(2, 3)
    assert guest.status()["messageCount"] == 1
    host.do('store.commit([message("d")], actor="ada").result(30).head')
    until(lambda: heard == [2, 3])


def test_a_host_that_was_stopped_before_it_was_met_is_asked_once_for_all(
    start: Start, registry: Registry
) -> None:
    host = start()
    host.do(BEGIN)
    host.stop()
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        for answer in [pool.submit(registry.get, "coffee", create=False) for _ in range(CALLERS)]:
            with pytest.raises(Unreachable):
                answer.result()
    assert time.monotonic() - began < SOON
    host.go_on()
    until(lambda: _opens(registry))
    assert registry.get("coffee", create=False).head == 1


def _opens(registry: Registry) -> bool:
    try:
        registry.get("coffee", create=False)
    except Unreachable:
        return False
    return True


def test_a_host_whose_socket_is_gone_is_waited_for_once(
    start: Start, stores: Path, registry: Registry
) -> None:
    host = start()
    host.do(BEGIN)
    shutil.rmtree(Path(str(owner_of(stores / "coffee")["socket"])).parent)
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        for answer in [pool.submit(registry.get, "coffee", create=False) for _ in range(CALLERS)]:
            with pytest.raises(StoreLocked):
                answer.result()
    assert time.monotonic() - began < SOON
    host.kill()
    assert registry.get("coffee", create=False).own


def test_a_stopped_host_that_is_killed_is_followed_by_another(start: Start, registry: Registry) -> None:
    host = start()
    host.do(BEGIN)
    guest = registry.get("coffee", create=False)
    host.stop()
    written = guest.commit([message("a", commit_id="k")], actor="bob", commit_id="k")
    with pytest.raises(Unreachable):
        guest.status()
    host.kill()
    assert written.result(30).seqs == range(2, 3)
    assert guest.own
    assert guest.status()["messageCount"] == 1


def test_who_closes_waits_for_no_stopped_host_and_says_that_the_rest_is_unknown(
    start: Start, stores: Path
) -> None:
    host = start()
    host.do(BEGIN)
    registry = Registry(stores)
    guest = registry.get("coffee", create=False)
    host.stop()
    large = "x" * 100_000  # more in all than a socket takes
    written = [
        guest.commit([message(f"m{n}", commit_id=f"k{n}", content=large)], actor="bob", commit_id=f"k{n}")
        for n in range(50)
    ]
    registry.close()
    for each in written:
        with pytest.raises(StoreClosed):
            each.result(30)


def test_what_is_put_at_the_moment_of_the_hosts_end_keeps_nobody_waiting(
    start: Start, registry: Registry
) -> None:
    host = start()
    host.do(BEGIN)
    guest = registry.get("coffee", create=False)
    openers: list[str] = []
    registry.on_wake(lambda store: openers.append(threading.current_thread().name))
    host.stop()
    unknown = guest.commit([message("a")], actor="bob")
    putters: list[str] = []
    later = []

    def put(_: object) -> None:
        putters.append(threading.current_thread().name)
        later.append(guest.commit([message("b", commit_id="k")], actor="bob", commit_id="k"))

    unknown.add_done_callback(put)
    host.kill()
    with pytest.raises(StoreClosed):
        unknown.result(30)
    until(lambda: later)
    assert later[0].result(30).seqs == range(2, 3)
    assert len(openers) == 1
    assert openers[0] not in putters


def test_a_store_that_one_caller_could_not_open_is_not_lost_to_the_next(
    stores: Path, registry: Registry
) -> None:
    registry.get("coffee", create=True)
    registry.close()
    registry = Registry(stores)
    lock = Lock.take(stores / "coffee", {"doing": "maintenance"})
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = [pool.submit(registry.get, "coffee", create=False) for _ in range(CALLERS)]
        until(lambda: any(answer.done() for answer in answers))
        lock.release()
        errors = [answer.exception() for answer in answers]
    assert any(isinstance(error, StoreLocked) for error in errors)
    assert None in errors
    assert registry.get("coffee", create=False).own
    registry.close()
    Lock.take(stores / "coffee").release()


def test_a_lock_whose_holder_has_not_said_who_he_is_is_waited_for(stores: Path, registry: Registry) -> None:
    folder = stores / "coffee"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        opened = pool.submit(registry.get, "coffee", create=True)
        with pytest.raises(TimeoutError):
            opened.result(0.5)
        fcntl.flock(file, fcntl.LOCK_UN)
        assert opened.result(30).own


def test_a_link_is_made_while_another_one_is_given_back_in_the_links_own_thread(
    start: Start, stores: Path, registry: Registry
) -> None:
    for name in ("coffee", "tea"):
        start(name)
    registry.get("coffee", create=False)
    peers = registry._open_peers()
    coffee, tea = (str(owner_of(stores / name)["socket"]) for name in ("coffee", "tea"))
    link = peers.link(coffee)
    begins = threading.Event()

    def leave() -> None:
        begins.wait()
        time.sleep(0.1)  # until the other one waits for this thread
        peers.leave(link)

    link._loop.call_soon_threadsafe(leave)
    begins.set()
    peers.leave(peers.link(tea))
