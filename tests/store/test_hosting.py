"""Several processes on one folder: whoever has a store's files hosts it, and for the others it is the same store."""

from __future__ import annotations

import datetime
import decimal
import os
import random
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import (
    AgentStoreError,
    BackendIdMismatch,
    Conflict,
    HeadMoved,
    InvalidRequest,
    NotFound,
    QueryFailed,
    QueryRefused,
    QueryTooLarge,
    StoreClosed,
    StoreLocked,
)
from jupyter_agentstore.core.events import Wire
from jupyter_agentstore.eventlog import unclean
from jupyter_agentstore.eventlog.lock import owner_of
from jupyter_agentstore.state.query import Limits
from jupyter_agentstore.store import Registry, Store
from tests.drafts import conversation, message
from tests.store.neighbour import Failed, Neighbour, until

BEGIN = 'store.commit([conversation("c")], actor="ada").result(30).head'
Start = Callable[..., Neighbour]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "stores"


@pytest.fixture
def start(stores: Path) -> Iterator[Start]:
    """Starts processes beside this one; those that are left are killed."""
    started: list[Neighbour] = []

    def start(store: str = "coffee", idle: float = 300.0) -> Neighbour:
        started.append(Neighbour(stores, store, idle))
        return started[-1]

    yield start
    for each in started:
        if each.process.returncode is None:
            each.kill()


@pytest.fixture
def host(start: Start) -> Neighbour:
    """A process that has the store ``coffee`` with the conversation ``c``."""
    host = start()
    assert host.do(BEGIN) == 1
    return host


@pytest.fixture
def registry(host: Neighbour, stores: Path) -> Iterator[Registry]:
    registry = Registry(stores)
    yield registry
    registry.close()


@pytest.fixture
def guest(registry: Registry) -> Store:
    """The same store in this process."""
    store = registry.get("coffee", create=False)
    assert not store.own
    return store


def pushed(*events: tuple[int, str], name: str = "v1.Odd") -> list[Wire]:
    return [
        Wire(name, msgspec.Raw(args.encode()), parent + 1, parent, "client", "session")
        for parent, args in events
    ]


def push(store: Store, parent: int, backend_id: str | None) -> int:
    return store.push(pushed((parent, "{}")), actor="x", backend_id=backend_id).result(30)


def ids(store: Store) -> list[str]:
    return [row["id"] for row in store.tail("messages", "c", limit=100_000)]


# ---- the same store


def test_what_a_guest_writes_and_reads_is_the_hosts(host: Neighbour, guest: Store) -> None:
    receipt = guest.commit(
        [message("a", commit_id="k"), message("b", commit_id="k")], actor="bob", commit_id="k"
    ).result(30)
    assert (receipt.seqs, receipt.head, receipt.repeated) == (range(2, 4), 3, False)
    again = guest.commit(
        [message("a", commit_id="k"), message("b", commit_id="k")], actor="bob", commit_id="k"
    ).result(30)
    assert (again.seqs, again.repeated) == (range(2, 4), True)
    assert guest.push(pushed((3, '{"text":"\\ud83c \u00e4"}')), actor="eve", backend_id=None).result(30) == 4
    assert guest.backend_id == host.do("store.backend_id")
    for call in (
        'store.row("messages", "a")',
        'store.row("messages", "nobody")',
        'store.tail("messages", "c", after=2)',
        'store.tail("messages", "c", limit=1)',
        'store.rows("messages", {"role": "user"}, order="id desc", limit=1)',
        'store.count("messages")',
        "store.head",
        "[tuple(getattr(e, f) for f in e.__struct_fields__) for e in store.read(0, 10)]",
        'store.query("select * from messages order by id").table.to_pylist()',
        'store.table("conversations").to_pylist()',
    ):
        here = eval(call, {"store": guest})
        assert msgspec.json.decode(msgspec.json.encode(here, enc_hook=repr)) == host.do(call), call
    assert guest.status()["messageCount"] == host.do("store.status()")["messageCount"] == 2
    assert next(event.body for event in guest.read(3, 1)).count("\\ud83c") == 1


@pytest.mark.parametrize(
    "params",
    [
        [1, 2.5, None, "ä", True],
        [
            datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
            datetime.date(2026, 1, 2),
            decimal.Decimal("1.10"),
            b"\0",
            [1],
        ],
    ],
)
def test_parameters_of_all_kinds_reach_the_host(guest: Store, params: list[Any]) -> None:
    names = ", ".join(f"? as v{n}" for n in range(len(params)))
    [row] = guest.query(f"select {names}", params).table.to_pylist()
    assert list(row.values()) == params
    named = {f"n{n}": value for n, value in enumerate(params)}
    names = ", ".join(f"${name} as {name}" for name in named)
    assert guest.query(f"select {names}", named).table.to_pylist() == [named]


def test_a_large_answer_comes_in_parts_and_keeps_nobody_waiting(guest: Store) -> None:
    guest.commit([message(str(n), content="x" * 1_000) for n in range(5_000)], actor="bob").result(60)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(guest.table("messages").nbytes))
    thread.start()
    assert guest.count("messages") == 5_000
    thread.join(60)
    assert answers[0] > 5_000_000
    assert len(guest.read(0, 10_000)) == 5_001
    copy = guest.snapshot()
    assert copy.path.stat().st_size == copy.size
    assert copy.backend_id == guest.backend_id


@pytest.mark.parametrize(
    ("call", "kind", "about"),
    [
        (lambda s: s.commit([conversation("c")], actor="x").result(30), Conflict, {"field": "id"}),
        (lambda s: s.commit([message("m", "no")], actor="x").result(30), NotFound, {"field": "conversationId"}),
        (lambda s: push(s, 0, None), HeadMoved, {"head": 1, "provided": 0}),
        (lambda s: push(s, 1, "no"), BackendIdMismatch, {"received": "no"}),
        (lambda s: s.query("drop table messages"), QueryRefused, {}),
        (lambda s: s.query("select 1/'x'"), QueryFailed, {}),
        (lambda s: s.query("select 1 from range(9)", limits=Limits(rows=5)), QueryTooLarge, {}),
        (lambda s: s.query("select 1", at_least=99), InvalidRequest, {"field": "atLeast"}),
        (lambda s: s.query("select ?", [object()]), InvalidRequest, {"field": "params"}),
        (lambda s: s.table("nothing"), NotFound, {}),
        (lambda s: s.rows("messages", {"no": 1}), ValueError, {}),
    ],
)  # fmt: skip
def test_errors_are_what_they_are_at_the_host(
    guest: Store, call: Callable[[Store], object], kind: type[Exception], about: dict[str, Any]
) -> None:
    with pytest.raises(kind) as caught:
        call(guest)
    assert {name: getattr(caught.value, name) for name in about} == about
    assert type(caught.value) is kind
    if isinstance(caught.value, AgentStoreError):
        assert str(caught.value) == caught.value.message


def test_processes_that_write_at_once_make_one_log(start: Start, guest: Store) -> None:
    others = [start(), start()]
    many = (
        '[store.commit([message(f"{os.getpid()}-{n}")], actor="x").result(30).head for n in range(100)][-1]'
    )
    for other in others:
        other.start(many)
    futures = [guest.commit([message(f"me-{n}")], actor="me") for n in range(100)]
    assert [future.result(30).seqs.start for future in futures] == sorted(f.result().head for f in futures)
    for other in others:
        other.answer()
    assert guest.count("messages") == 300
    assert [event.seq for event in guest.read(0, 1_000)] == list(range(1, 302))


def test_what_is_told_and_what_the_agent_does_is_heard_in_every_process(
    host: Neighbour, start: Start, guest: Store
) -> None:
    other = start()
    other.do("store.on_told(lambda m: told.append(m.decode()))")
    other.do('store.on_agent(lambda d: told.append(d["currentTask"]))')
    here: list[bytes] = []
    end = guest.on_told(here.append)
    until(lambda: host.do("len(store._messages._all)") == 2)
    guest.tell(b"from here")
    until(lambda: other.do("told") == ["from here"] and here)
    host.do('store.tell(b"from the host")')
    host.do('store.set_agent(isThinking=True, currentTask="hm")')
    until(lambda: sorted(other.do("told")) == ["from here", "from the host", "hm"])
    until(lambda: here == [b"from here", b"from the host"])
    guest.set_agent(isThinking=False, currentTask=None)
    until(lambda: other.do("told")[-1] is None and host.do("store.agent")["isThinking"] is False)
    end()
    until(lambda: host.do("len(store._messages._all)") == 1)


def test_rows_that_change_are_heard_of_in_every_process_and_so_is_that_some_were_missed(
    host: Neighbour, guest: Store, start: Start
) -> None:
    heard: list[str | None] = []
    end = guest.on_rows(lambda changes: heard.extend([None] if changes is None else [c.key for c in changes]))
    until(lambda: heard == [None])
    guest.commit([message("a")], actor="me").result(30)
    host.do('store.commit([message("b")], actor="x").result(30).head')
    until(lambda: [key for key in heard if key in ("a", "b")] == ["a", "b"])
    own: list[Any] = []
    guest.on_own_rows(own.extend)
    host.kill()
    until(lambda: heard[-1] is None)
    assert own == []
    guest.commit([message("third", commit_id="k")], actor="me", commit_id="k").result(30)
    until(lambda: "third" in heard)
    assert [change.key for change in own if change.table == "messages"] == ["third"]
    end()


def test_the_agent_is_called_where_the_files_are(host: Neighbour, registry: Registry, guest: Store) -> None:
    woken: list[Store] = []
    registry.on_wake(woken.append)
    guest.count("messages")
    assert woken == []
    host.kill()
    guest.count("messages")
    assert woken == [guest]


# ---- who may ask


def test_the_socket_is_for_its_owner_alone_and_goes_with_the_registry(host: Neighbour, stores: Path) -> None:
    path = Path(str(owner_of(stores / "coffee")["socket"]))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    host.end()
    assert not path.parent.exists()


def test_what_a_killed_host_left_is_removed_by_the_next(host: Neighbour, guest: Store, stores: Path) -> None:
    path = Path(str(owner_of(stores / "coffee")["socket"]))
    host.kill()
    guest.wake()
    assert guest.own
    assert not path.parent.exists()


def test_a_process_with_another_schema_is_refused(host: Neighbour, stores: Path) -> None:
    registry = Registry(stores, agent_schema.extend(version=agent_schema.version + 1))
    with pytest.raises(StoreLocked, match="schema") as caught:
        registry.get("coffee", create=False)
    assert caught.value.owner["pid"] == host.process.pid
    registry.close()


def test_a_host_on_another_machine_or_with_a_strange_socket_is_not_asked(
    stores: Path, tmp_path: Path
) -> None:
    from jupyter_agentstore.store.peers import socket_of

    here = socket.gethostname()
    odd = tmp_path / "agentstore-host-x"
    assert socket_of({"host": here, "socket": str(odd / "host.sock")}) is not None
    for owner in (
        {},
        {"host": "elsewhere", "socket": str(odd / "host.sock")},
        {"host": here, "socket": 3},
        {"host": here, "socket": str(tmp_path / "host.sock")},
        {"host": here, "socket": str(odd / "other")},
    ):
        assert socket_of(owner) is None
    (tmp_path / "there").mkdir()
    odd.symlink_to(tmp_path / "there")
    assert socket_of({"host": here, "socket": str(odd / "host.sock")}) is None


def test_noise_on_the_socket_ends_its_own_connection_and_nothing_else(
    host: Neighbour, guest: Store, stores: Path
) -> None:
    path = str(owner_of(stores / "coffee")["socket"])
    noise = random.Random(7)
    for size in (1, 12, 13, 14, 100, 5_000):
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
            other.sendall(noise.randbytes(size) if size > 1 else b"\xff")
            if size > 13:
                other.settimeout(30)
                with pytest.raises((ConnectionError, AssertionError)):
                    assert other.recv(1) != b""
    for body in (b"\x93\xa6coffee\xa4nope\x90", b"\x93\xa6coffee\xa3row\x90", b"\x93\xa1x\xa6commit\x90"):
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(30)
            other.connect(path)
            other.sendall(len(body).to_bytes(4, "big") + bytes(8) + b"\0" + body)
            assert other.recv(100)[12] in (3, 4)  # refused, or gone
    assert guest.count("conversations") == 1
    assert host.do("store.head") == 1


# ---- the host goes


def test_a_guest_takes_over_from_a_host_that_is_killed(host: Neighbour, guest: Store, start: Start) -> None:
    third = start()
    futures = [
        guest.commit([message(str(n), commit_id=f"k{n}")], actor="me", commit_id=f"k{n}") for n in range(200)
    ]
    pushes = guest.push(pushed((10**6, "{}")), actor="me", backend_id=None)
    host.kill()
    heads = [future.result(30).seqs.start for future in futures]
    assert sorted(set(heads)) == sorted(heads)
    with pytest.raises((BackendIdMismatch, HeadMoved)):
        pushes.result(30)
    assert sorted(ids(guest), key=int) == [str(n) for n in range(200)]
    assert third.do("store.count('messages')") == 200
    assert guest.own != third.do("store.own")


def test_a_reply_that_a_killed_host_owed_is_seen_to_by_who_was_its_guest(
    host: Neighbour, registry: Registry, guest: Store
) -> None:
    woken = threading.Event()
    registry.on_wake(lambda store: woken.set())
    guest.commit([message("m")], actor="ada").result(30)  # it waits for an answer; nobody listens here
    host.kill()
    assert woken.wait(30)
    assert guest.mine
    assert guest.count("pendingReplies") == 1


def test_a_store_that_a_host_closed_in_order_is_left_alone(
    host: Neighbour, registry: Registry, guest: Store, stores: Path
) -> None:
    guest.commit([conversation("d")], actor="ada").result(30)
    taken_up = threading.Event()
    life = guest._life
    take_up = life._take_up
    life._take_up = lambda: (take_up(), taken_up.set())[0]  # type: ignore[method-assign, func-returns-value]
    host.end()
    assert taken_up.wait(30)
    assert not guest.mine
    assert owner_of(stores / "coffee") == {}


def test_a_commit_without_an_id_is_not_repeated_when_nobody_knows(host: Neighbour, guest: Store) -> None:
    host.stop()
    future = guest.commit([message("a")], actor="me")
    host.kill()
    with pytest.raises(StoreClosed, match="may have been written"):
        future.result(30)
    assert ids(guest) in ([], ["a"])
    guest.commit([message("b")], actor="me").result(30)
    assert ids(guest)[-1] == "b"


def test_reads_and_queries_under_way_are_answered_by_the_next(host: Neighbour, guest: Store) -> None:
    guest.commit([message("a")], actor="me").result(30)
    host.stop()
    answers: list[Any] = []
    calls = [
        lambda: answers.append(guest.count("messages")),
        lambda: answers.append(guest.query("select count(*) from messages").table.num_rows),
        lambda: answers.append(len(guest.read(1, 10))),
        lambda: answers.append(len(guest.tail("messages", "c"))),
    ]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    host.kill()
    for thread in threads:
        thread.join(30)
    assert answers == [1, 1, 1, 1]


def test_a_host_that_closes_in_order_is_not_even_noticed(host: Neighbour, guest: Store) -> None:
    futures = [guest.commit([message(str(n))], actor="me") for n in range(100)]
    closer = threading.Thread(target=host.end)
    closer.start()
    futures += [guest.commit([message(str(n))], actor="me") for n in range(100, 200)]
    for future in futures:
        future.result(30)
    closer.join(60)
    assert sorted(ids(guest), key=int) == [str(n) for n in range(200)]
    assert guest.own


def test_listeners_hear_of_every_event_once_and_in_order_whoever_hosts(start: Start, stores: Path) -> None:
    neighbours = [start()]
    neighbours[0].do(BEGIN)
    registry = Registry(stores)
    guest = registry.get("coffee", create=False)
    heard: list[int] = []
    end = guest.on_events(lambda events: heard.extend(event.seq for event in events))
    neighbours += [start(), start()]
    for each in neighbours:
        each.do("store.on_events(hear)")
    draft = 'message(f"{os.getpid()}-{n}", commit_id=f"{n}")'
    commit = f"store.commit([{draft}], actor=str(os.getpid()), commit_id=str(n))"
    write = f"[{commit}.result(30).head for n in range(60)][-1]"
    for each in neighbours[1:]:
        each.start(write)
    neighbours[0].kill()
    for each in neighbours[1:]:
        each.answer()
    second = next((each for each in neighbours[1:] if each.do("store.own")), None)
    if second is not None:
        second.kill()
    last = next(each for each in neighbours[1:] if each is not second)
    last.do(write.replace("range(60)", "range(60, 100)"))
    head = guest.commit([message("end", commit_id="end")], actor="me", commit_id="end").result(30).head
    until(lambda: heard and heard[-1] == head)
    assert heard == list(range(2, head + 1))
    until(lambda: last.do("heard[-1]") == head)
    there = last.do("heard")
    assert there == list(range(there[0], head + 1))
    end()
    registry.close()


def test_a_guest_that_is_suspended_holds_nobody_up_and_hears_everything_later(
    host: Neighbour, start: Start
) -> None:
    other = start()
    other.do("store.on_events(hear)")
    other.stop()
    texts = "x" * 2_000
    host.do(
        f'[store.commit([message(f"{{n}}", content="{texts}")], actor="x").result(30) and 0 for n in range(3000)][0]'
    )
    other.go_on()
    until(lambda: other.do("heard[-1:]") == [3_001])
    assert other.do("heard == list(range(heard[0], 3002))")


def test_a_forked_child_keeps_neither_the_socket_nor_a_connection(host: Neighbour, guest: Store) -> None:
    code = "[pid for pid in [os.fork()] if pid or (__import__('time').sleep(600), os._exit(0))][0]"
    sleeper = host.do(code)
    try:
        host.kill()
        guest.commit([message("a", commit_id="k")], actor="me", commit_id="k").result(30)
        assert guest.own
    finally:
        os.kill(sleeper, 9)


# ---- sleep


def test_a_store_that_sleeps_unheard_is_let_go_and_belongs_to_who_wants_it(
    host: Neighbour, guest: Store
) -> None:
    assert host.do("registry.sleep()") == 1
    guest.commit([message("a")], actor="me").result(30)
    assert guest.own
    assert host.do("(store.count('messages'), store.own)") == [1, False]


def test_a_store_that_sleeps_with_listeners_is_woken_by_another_process(
    host: Neighbour, guest: Store, stores: Path, start: Start
) -> None:
    heard: list[int] = []
    end = guest.on_events(lambda events: heard.extend(event.seq for event in events))
    until(lambda: host.do("store.attended"))
    until(lambda: host.do("registry.sleep()") == 1)
    assert owner_of(stores / "coffee")["asleep"] is True
    start().do('store.commit([conversation("d")], actor="x").result(30).head')
    until(lambda: heard == [2])
    assert host.do("store.own")
    assert "asleep" not in owner_of(stores / "coffee")
    until(lambda: host.do("registry.sleep()") == 1)
    end()
    until(lambda: not host.do("store.attended"))
    host.do("registry.sleep()")
    assert (stores / "coffee" / "lock").read_bytes() == b""


def test_a_store_that_its_host_took_asleep_to_the_grave_is_not_unclean(host: Neighbour, stores: Path) -> None:
    host.do("store.on_events(hear)")
    until(lambda: host.do("registry.sleep()") == 1)
    host.kill()
    assert not unclean(stores / "coffee")
    registry = Registry(stores)
    assert registry.unfinished() == []
    assert registry.get("coffee", create=False).count("conversations") == 1
    registry.close()


def test_who_begins_to_listen_to_a_store_asleep_hears_what_others_write(stores: Path, start: Start) -> None:
    registry = Registry(stores)
    store = registry.get("coffee", create=True)
    store.commit([conversation("c")], actor="ada").result(30)
    assert registry.sleep() == 1
    other = start()
    heard: list[int] = []
    end = store.on_events(lambda events: heard.extend(event.seq for event in events))
    until(lambda: not store.asleep)
    other.do('store.commit([message("a")], actor="x").result(30).head')
    until(lambda: heard == [2])
    end()
    assert registry.sleep() == 1
    registry.close()


def test_idle_guests_let_go_and_come_back(host: Neighbour, registry: Registry, guest: Store) -> None:
    assert registry.sleep() == 1
    assert guest.asleep
    assert guest.head == 1
    host.do('store.commit([message("a")], actor="x").result(30).head')
    assert guest.count("messages") == 1


# ---- another log


def test_a_store_is_reset_where_it_is_open_and_everybody_learns_of_it(
    host: Neighbour, registry: Registry, guest: Store, start: Start, stores: Path
) -> None:
    third = start()
    third.do("store.on_replaced(lambda ended: told.append(ended))")
    third.do("store.on_events(hear)")
    until(lambda: host.do("store.attended"))
    old = guest.backend_id
    backend_id, kept = registry.reset("coffee")
    assert backend_id != old
    assert kept is not None
    assert Path(kept).exists()
    until(lambda: third.do("told") == [False])
    assert third.do("store.backend_id") == backend_id
    with pytest.raises(BackendIdMismatch):
        guest.push(pushed((1, "{}")), actor="x", backend_id=old).result(30)
    assert (guest.wake(), guest.backend_id, guest.head) == (None, backend_id, 0)
    assert guest.count("conversations") == 0
    guest.commit([conversation("c")], actor="x").result(30)
    until(lambda: third.do("heard") == [1])
    assert registry.reset("coffee", purge=True)[1] is None
    assert sum(path.name.startswith("eventlog") for path in (stores / "coffee").iterdir()) <= 3


def test_a_store_is_deleted_where_it_is_open_and_comes_back_only_when_wanted(
    host: Neighbour, registry: Registry, guest: Store, start: Start, stores: Path
) -> None:
    third = start()
    third.do("store.on_replaced(lambda ended: told.append(ended))")
    third.do("store.on_events(hear)")
    until(lambda: host.do("store.attended"))
    old = guest.backend_id
    registry.delete("coffee")
    assert list(stores.iterdir()) == []
    until(lambda: third.do("told") == [True])
    for ask in (lambda: guest.count("messages"), lambda: registry.get("coffee", create=False)):
        with pytest.raises((StoreClosed, NotFound)):
            ask()
    for other in (host, third):
        with pytest.raises(Failed, match="Deleted"):
            other.do("store.count('messages')")
        with pytest.raises(Failed, match="NotFound"):
            other.do("registry.get('coffee', create=False)")
        assert other.do("registry.ids()") == []
    assert registry.get("coffee", create=True).backend_id not in ("", old)
    assert host.do("registry.get('coffee', create=True).own") is False


def test_a_store_that_vanished_while_it_slept_is_no_more(stores: Path) -> None:
    registry, other = Registry(stores), Registry(stores)
    store = registry.get("coffee", create=True)
    assert registry.sleep() == 1
    told: list[bool] = []
    store.on_replaced(told.append)
    other.delete("coffee")
    with pytest.raises(StoreClosed, match="deleted"):
        store.count("messages")
    assert told == [True]
    with pytest.raises(NotFound):
        registry.get("coffee", create=False)
    assert registry.get("coffee", create=True).backend_id != store.backend_id
    registry.close()
    other.close()


def test_a_store_that_nobody_has_open_is_looked_after_too(stores: Path) -> None:
    first = Registry(stores)
    first.get("coffee", create=True).commit([conversation("c"), message("a")], actor="x").result(30)
    first.close()
    registry = Registry(stores)
    about = registry.about("coffee")
    assert (about.events, about.owner) == (2, {})
    assert about.size > 1_000
    assert registry.unfinished() == ["coffee"], "having looked changes nothing"
    assert registry.verify("coffee").count == 2
    registry.reset("coffee")
    assert registry.about("coffee").events == 0
    assert registry.unfinished() == []
    registry.delete("coffee")
    with pytest.raises(NotFound):
        registry.about("coffee")
    registry.close()


def test_an_open_log_is_checked_through_its_host(host: Neighbour, registry: Registry) -> None:
    host.do('store.commit([message("a")], actor="x").result(30).head')
    report = registry.verify("coffee")
    assert (report.count, report.faults, report.backend_id) == (2, (), host.do("store.backend_id"))
    assert registry.about("coffee").owner["pid"] == host.process.pid
