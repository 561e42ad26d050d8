"""What a client sees of a store: confirmed events and pending ones over them, by every way of reading."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agentstore.client.replica import Replica
from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import (
    Conflict,
    ForeignFile,
    NotFound,
    QueryFailed,
    QueryRefused,
    StoreClosed,
)
from jupyter_agentstore.core.events import Event, wire
from jupyter_agentstore.core.operations import RowChange
from jupyter_agentstore.core.rows import iso
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state.state import State
from tests.drafts import conversation, message

TIME = 1_700_000_000_000


def event(seq: int, name: str, args: dict[str, Any], *, actor: str = "ada", at: int | None = None) -> Event:
    return Event(seq, TIME + seq if at is None else at, actor, wire(name, json.dumps(args), seq, "tab", "s"))


def begun(seq: int, id: str = "c", **more: Any) -> Event:
    return event(seq, "v1.ConversationCreated", {"id": id, "userId": "ada"}, **more)


def said(seq: int, id: str, content: str = "A mocha", conversation: str = "c", **more: Any) -> Event:
    args = {"id": id, "conversationId": conversation, "role": "user", "content": content}
    return event(seq, "v1.MessageAdded", args, **more)


def closed(seq: int, id: str = "c", **more: Any) -> Event:
    args = {"id": id, "updatedAt": TIME + 5, "status": "archived"}
    return event(seq, "v1.ConversationUpdated", args, **more)


@pytest.fixture
def replica() -> Iterator[Replica]:
    """A replica in memory with one conversation and one message confirmed."""
    made = Replica(None)
    made.begin("log")
    made.confirm([begun(1), said(2, "m2")], 0, [], False)
    yield made
    made.close()


def ids(replica: Replica) -> list[str]:
    return [row["id"] for row in replica.tail("messages", "c")]


def one(replica: Replica, sql: str) -> Any:
    return replica.query(sql).column(0)[0].as_py()


def test_pending_messages_are_seen_at_once_by_every_way_of_reading(replica: Replica) -> None:
    changes = replica.add([said(3, "m3", "A latte")])
    assert [(change.table, change.key, change.before) for change in changes] == [
        ("messages", "m3", None),
        ("pendingReplies", "c", {"conversationId": "c", "lastMessageId": "m2", "seq": 2}),
    ]
    assert ids(replica) == ["m2", "m3"]
    assert replica.count("messages") == 2
    assert replica.row("messages", "m3") == changes[0].after
    assert [row["id"] for row in replica.rows("messages", {"conversationId": "c"}, order="seq desc")] == [
        "m3",
        "m2",
    ]
    assert one(replica, "select content from messages where id = 'm3'") == "A latte"
    assert one(replica, 'select "lastMessageId" from "pendingReplies"') == "m3"
    assert one(replica, 'select "totalMessages" from "agentState"') == 2
    assert one(replica, "select count(*) from events") == 3
    assert replica.table("MESSAGES").column("id").to_pylist() == ["m2", "m3"]
    assert replica.status()["messageCount"] == 2
    assert replica.applied == 2


def test_confirmation_shows_the_logs_time_and_user(replica: Replica) -> None:
    replica.add([said(3, "m3", at=TIME, actor="me"), said(4, "m4", at=TIME + 9, actor="ada")])
    before = replica.row("messages", "m3")
    changes = replica.confirm([said(3, "m3", at=TIME + 7)], 1, [said(4, "m4", at=TIME + 9)], False)
    assert changes == [RowChange("messages", "m3", before, replica.row("messages", "m3"), 3)]
    assert replica.row("messages", "m3")["timestamp"] == TIME + 7  # type: ignore[index]
    assert replica.confirm([said(4, "m4", at=TIME + 9)], 1, [], False) == []
    assert replica.applied == 4
    assert one(replica, "select count(*) from messages") == 3


def test_somebody_elses_event_comes_before_what_is_pending(replica: Replica) -> None:
    replica.add([said(3, "m3")])
    changes = replica.confirm([said(3, "other", actor="bob")], 0, [said(4, "m3", at=TIME + 3)], True)
    assert [(change.key, change.after and change.after["seq"]) for change in changes] == [
        ("other", 3),
        ("m3", 4),
        ("c", 4),
    ]
    assert ids(replica) == ["m2", "other", "m3"]


def test_what_a_rebase_makes_an_anomaly_is_gone(replica: Replica) -> None:
    replica.add([said(3, "m3", "mine"), said(4, "m4")])
    mine = replica.row("messages", "m3")
    changes = replica.confirm([said(3, "m3", "yours")], 0, [said(4, "m3", "mine"), said(5, "m4")], True)
    assert changes[0] == RowChange("messages", "m3", mine, replica.row("messages", "m3"), 3)
    assert one(replica, "select content from messages where id = 'm3'") == "yours"
    assert one(replica, "select seq from anomalies") == 4
    assert one(replica, "select count(*) from messages") == 3


def test_what_is_dropped_is_not_seen_any_more(replica: Replica) -> None:
    confirmed = replica.row("conversations", "c")
    added = replica.add([said(3, "m3"), closed(4)])
    assert replica.status()["activeConversations"] == 0
    assert one(replica, 'select "activeConversations" from "agentState"') == 0
    changes = replica.confirm([], 0, [], True)
    assert {(c.key, c.table): (c.after, c.before) for c in changes} == {
        (c.key, c.table): (c.before, c.after) for c in added
    }
    assert replica.row("conversations", "c") == confirmed
    assert replica.status()["activeConversations"] == 1
    assert one(replica, "select status from conversations") == "active"


def test_with_nothing_pending_changes_are_those_of_the_tables(replica: Replica) -> None:
    log = [said(3, "m3"), closed(4), said(5, "m5", conversation="nowhere")]
    changes = replica.confirm(log, 0, [], False)
    assert [change.table for change in changes] == [
        "messages", "pendingReplies", "conversations", "messages", "pendingReplies",
    ]  # fmt: skip
    assert replica.confirm(log, 0, [], False) == []


def test_catching_up_beneath_pending_events(replica: Replica) -> None:
    """The tables are behind the events on which the pending ones stand."""
    replica.confirm([], 0, [said(11, "mine")], False)
    assert replica.tail("messages", "c", limit=1)[0]["id"] == "mine"
    changes = replica.confirm(
        [begun(3, "other"), said(4, "m4", conversation="other")], 0, [said(11, "mine")], False
    )
    assert [change.key for change in changes] == ["other", "m4", "other"]
    changes = replica.confirm([said(5, "m5")], 0, [said(11, "mine")], False)
    assert [change.key for change in changes] == ["m5"]  # the reply is still to the pending one
    assert ids(replica) == ["m2", "m5", "mine"]
    assert replica.row("pendingReplies", "c")["lastMessageId"] == "mine"  # type: ignore[index]
    assert one(replica, "select count(*) from messages") == 4


def test_a_draft_is_checked_against_what_is_visible(replica: Replica) -> None:
    replica.add([begun(3, "new"), said(4, "m4", conversation="new")])
    replica.check([message("m5", "new"), conversation("c5"), message("m6", "c5")])
    with pytest.raises(Conflict):
        replica.check([message("m2")])
    with pytest.raises(Conflict):
        replica.check([message("m4")])
    with pytest.raises(NotFound):
        replica.check([message("m5", "nowhere")])
    replica.confirm([], 0, [], True)
    with pytest.raises(NotFound):
        replica.check([message("m5", "new")])


def test_sql_is_held_to_the_same_rules_with_pending_events(replica: Replica) -> None:
    replica.add([said(3, "m3")])
    with pytest.raises(QueryRefused):
        replica.query("select * from agentstore_rows_of_messages")
    with pytest.raises(QueryRefused):
        replica.query("delete from messages")
    with pytest.raises(QueryFailed):
        replica.query("select nonsense from messages")
    assert one(replica, "select count(*) from messages where id = $id".replace("$id", "'m3'")) == 1
    assert replica.query("select id from messages where id = ?", ["m3"]).num_rows == 1
    assert one(replica, "with messages as (select 7 as n) select n from messages") == 7
    shadow = (
        "with agentstore_rows_of_messages as (select 7 as n), x as (select 1) select count(*) from messages"
    )
    assert one(replica, shadow) == 2
    assert replica.query("select m.id from Messages m join messages n using (id) order by 1").num_rows == 2
    replica.confirm([], 0, [], True)
    assert one(replica, "select count(*) from messages") == 1


def test_the_tables_of_a_statement(replica: Replica) -> None:
    assert replica.tables_of("with x as (select * from Messages) select * from x, conversations") == {
        "messages",
        "conversations",
    }
    assert replica.tables_of('select "isThinking" from "agentState"') >= {"messages", "conversations"}
    assert replica.tables_of("select 1") == set()
    with pytest.raises(QueryRefused):
        replica.tables_of("select * from agentstore_meta")
    with pytest.raises(QueryFailed):
        replica.tables_of("select from where")


def test_a_query_under_way_holds_up_nobody_and_sees_one_moment(replica: Replica) -> None:
    replica.add([said(3, "m3")])
    # A reader that has begun, as `query` does, keeps its moment while the log goes on.
    with ExitStack() as stack:
        cursor, lay = replica._reader(stack)
        done = threading.Thread(target=lambda: replica.confirm([said(3, "m3"), said(4, "m4")], 1, [], False))
        done.start()
        done.join(30)
        assert not done.is_alive()
        replica.flush()
        assert replica.count("messages") == 3
        assert lay is not None
        lay(("messages",))
        assert cursor.execute("select count(*) from messages").fetchall() == [(2,)]
    assert one(replica, "select count(*) from messages") == 3


def test_every_query_sees_confirmed_and_pending_events_of_one_moment(replica: Replica) -> None:
    """One thread confirms, rebases and commits; whatever is counted, no event is missing and none is there twice."""
    sql = """select count(*), count(distinct seq), max(seq), (select count(*) from messages),
        (select "totalMessages" from "agentState") from events"""
    done = threading.Event()
    wrong: list[Any] = []
    asked = [0, 0]

    def ask(place: int) -> None:
        while not done.is_set() or not asked[place]:
            count, distinct, last, messages, total = replica.query(sql).to_pylist()[0].values()
            if not count == distinct == last == messages + 1 == total + 1:
                wrong.append((count, distinct, last, messages, total))
            asked[place] += 1

    readers = [threading.Thread(target=ask, args=(place,)) for place in range(2)]
    for reader in readers:
        reader.start()
    head, pending = 2, []
    for turn in range(60):
        mine = said(head + len(pending) + 1, f"mine {turn}")
        replica.add([mine])
        pending.append(mine)
        if turn % 3 == 1:
            replica.confirm(pending[:1], 1, pending[1:], False)
            pending, head = pending[1:], head + 1
        elif turn % 3 == 2:
            theirs = said(head + 1, f"theirs {turn}")
            pending = [
                said(head + 2 + n, json.loads(old.body)["args"]["id"]) for n, old in enumerate(pending)
            ]
            replica.confirm([theirs], 0, pending, True)
            head += 1
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert min(asked) > 0


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "replica"
    with closing(Replica(folder)) as first:
        first.begin("log")
        first.confirm([begun(1), said(2, "m2")], 0, [], False)
        first.add([said(3, "m3")])
    assert folder.stat().st_mode & 0o777 == 0o700
    with closing(Replica(folder)) as second:
        assert (second.backend_id, second.applied) == ("log", 2)
        assert second.status()["lastActivity"] == "2023-11-14T22:13:20.002Z"
        second.begin("log")
        assert ids(second) == ["m2"]
        second.begin("another")
        assert (second.backend_id, second.applied, second.count("messages")) == ("another", 0, 0)
    with closing(Replica(folder, agent_schema.extend(version=1))) as third:
        assert (third.backend_id, third.applied) == (None, 0)


class closing:
    """Closes a replica at the end, which takes no further calls then."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def __enter__(self) -> Replica:
        return self.replica

    def __exit__(self, *_: object) -> None:
        self.replica.close()
        self.replica.close()
        for call in (
            lambda: self.replica.count("messages"),
            lambda: self.replica.row("messages", "m"),
            lambda: self.replica.query("select 1"),
            lambda: self.replica.add([]),
        ):
            with pytest.raises(StoreClosed):
                call()


def test_tables_that_another_process_has_are_not_taken(tmp_path: Path) -> None:
    with closing(Replica(tmp_path)) as replica:
        replica.begin("log")
        replica.confirm([begun(1)], 0, [], False)
        code = f"""
from pathlib import Path
from jupyter_agentstore.client.replica import Replica
from jupyter_agentstore.core.errors import StoreLocked
try:
    Replica(Path({str(tmp_path)!r}))
except StoreLocked:
    print("locked")
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("locked\n", "")
        assert replica.count("conversations") == 1
    with closing(Replica(tmp_path)) as replica:
        assert replica.applied == 1


def test_what_is_pending_before_the_log_is_known_stays(tmp_path: Path) -> None:
    with closing(Replica(tmp_path)) as replica:
        replica.add([begun(1), said(2, "m2")])
        replica.begin("log")
        assert ids(replica) == ["m2"]
        replica.begin("another")
        assert ids(replica) == []


def snapshot(folder: Path, *, backend: str = "log", schema: Any = agent_schema) -> Path:
    """A copy of a server's tables."""
    instance = Instance(folder)
    state = State.open(instance, folder, "s_x", schema, backend, 0)
    state.apply([begun(1), said(2, "m2"), said(3, "m3")])
    path = folder / "copy.duckdb"
    assert state.copy(path) == 3
    state.close()
    instance.close()
    return path


@pytest.mark.parametrize("kept", [True, False])
def test_a_servers_copy_takes_the_place_of_what_was_there(tmp_path: Path, kept: bool) -> None:
    (tmp_path / "server").mkdir()
    with closing(Replica(tmp_path / "replica" if kept else None)) as replica:
        replica.begin("log")
        replica.confirm([begun(1)], 0, [said(4, "mine")], True)
        replica.install(snapshot(tmp_path / "server"), "log")
        assert replica.applied == 3
        assert ids(replica) == ["m2", "m3", "mine"]
        replica.confirm([said(4, "mine")], 1, [], False)
        assert one(replica, "select count(*) from messages") == 3
        folder = replica._folder
    assert folder is not None
    assert folder.exists() == kept


@pytest.mark.parametrize("what", ["another log", "another schema", "junk", "cut", "cut late"])
def test_a_copy_that_is_not_the_logs_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "server").mkdir()
    schema = agent_schema.extend(version=1) if what == "another schema" else agent_schema
    path = snapshot(tmp_path / "server", schema=schema)
    if what == "junk":
        path.write_bytes(b"junk" * 10_000)
    elif what.startswith("cut"):
        path.write_bytes(path.read_bytes()[: 5_000 if what == "cut" else -300_000])
    with closing(Replica(tmp_path / "replica")) as replica:
        replica.begin("another" if what == "another log" else "log")
        replica.confirm([begun(1)], 0, [], False)
        with pytest.raises(ForeignFile):
            replica.install(path, "another" if what == "another log" else "log")
        assert (replica.applied, replica.count("conversations")) == (1, 1)
        assert [file.name for file in (tmp_path / "replica").glob("*.duckdb")] == ["state.duckdb"]


def test_a_replica_in_memory_stays_as_it_is_when_a_copy_is_refused(replica: Replica, tmp_path: Path) -> None:
    with pytest.raises(ForeignFile):
        replica.install(snapshot(tmp_path, backend="another"), "log")
    assert (replica.applied, ids(replica)) == (2, ["m2"])


# ---- the law

IDS = st.sampled_from(["a", "b", "c"])
ROLES = st.sampled_from(["user", "assistant"])
EVENTS = st.one_of(
    st.tuples(
        st.just("v1.ConversationCreated"),
        st.fixed_dictionaries({"id": IDS, "userId": st.just("u")}, optional={"title": st.text(max_size=3)}),
    ),
    st.tuples(
        st.just("v1.MessageAdded"),
        st.fixed_dictionaries(
            {"id": st.sampled_from("abcdefgh"), "conversationId": IDS, "role": ROLES},
            optional={"content": st.text(max_size=3), "metadata": st.sampled_from([None, '{"replyTo":"a"}', "{"])},
        ),
    ),
    st.tuples(
        st.just("v1.MemoryAdded"),
        st.fixed_dictionaries({"id": IDS, "conversationId": IDS, "fact": st.just("x")}),
    ),
    st.tuples(
        st.just("v1.ConversationUpdated"),
        st.fixed_dictionaries(
            {"id": IDS, "updatedAt": st.sampled_from([5, "2024-01-01", "soon"])},
            optional={"status": st.sampled_from(["active", "archived", None])},
        ),
    ),
    st.tuples(st.just("v2.Unheard"), st.just({})),
)  # fmt: skip
TABLES = [*agent_schema.tables, "events", "anomalies", "agentState"]


def seen(replica: Replica) -> dict[str, Any]:
    """Everything that a replica shows."""
    found: dict[str, Any] = {}
    for name in TABLES:
        found[f"sql {name}"] = sorted(replica.query(f'select * from "{name}"').to_pylist(), key=repr)
        found[f"table {name}"] = sorted(replica.table(name).to_pylist(), key=repr)
        if name in agent_schema.tables:
            key = agent_schema.tables[name].key
            rows = sorted(replica.rows(name), key=lambda row: row[key])
            found[f"rows {name}"] = rows
            found[f"count {name}"] = replica.count(name)
            found[f"row {name}"] = [replica.row(name, id) for id in "abcdefgh"]
    for group in "abc":
        for after, limit in ((None, 200), (None, 2), (0, 3), (4, 200)):
            found[f"tail {group} {after} {limit}"] = replica.tail("messages", group, after=after, limit=limit)
    found["status"] = replica.status()
    return found


def visible_rows(replica: Replica) -> dict[tuple[str, str], Any]:
    return {
        (name, row[table.key]): row
        for name, table in agent_schema.tables.items()
        for row in replica.rows(name)
    }


def told(rows: dict[tuple[str, str], Any], changes: Sequence[RowChange]) -> None:
    """Follow changes as a listener does, who believes what it is told."""
    for change in changes:
        place = (change.table, change.key)
        assert rows.get(place) == change.before
        rows.pop(place, None)
        if change.after is not None:
            rows[place] = change.after


@settings(max_examples=60)
@given(data=st.data())
def test_a_replica_shows_what_tables_would_to_which_all_events_were_applied(data: st.DataObject) -> None:
    """However events come: pending ones added, confirmed, rebased behind somebody else's, dropped, behind the log."""
    replica, plain = Replica(None), Replica(None)
    replica.begin("log")
    plain.begin("log")
    log: list[Event] = []
    pending: list[Event] = []
    rows: dict[tuple[str, str], Any] = {}

    def made(seq: int, drawn: tuple[str, dict[str, Any]], own: bool) -> Event:
        at = TIME + 2 * seq + data.draw(st.sampled_from([0, 1]))
        return event(seq, *drawn, actor="me" if own else data.draw(st.sampled_from(["me", "bob"])), at=at)

    def again(old: Event, seq: int, *, log: bool) -> Event:
        body = json.loads(old.body)
        actor, at = (
            (data.draw(st.sampled_from(["me", "mé"])), TIME + 2 * seq + 1)
            if log
            else (old.actor, old.recorded_at)
        )
        return event(seq, body["name"], body["args"], actor=actor, at=at)

    for _ in range(data.draw(st.integers(1, 7))):
        what = data.draw(st.sampled_from(["add", "add", "confirm", "others", "both", "drop"]))
        start = len(log) + 1
        if what == "add":
            drawn = data.draw(st.lists(EVENTS, min_size=1, max_size=3))
            events = [made(start + len(pending) + n, one, own=True) for n, one in enumerate(drawn)]
            told(rows, replica.add(events))
            pending += events
            continue
        count = data.draw(st.integers(0, len(pending))) if what in ("confirm", "both") else 0
        new = [again(old, start + n, log=True) for n, old in enumerate(pending[:count])]
        if what in ("others", "both"):
            drawn = data.draw(st.lists(EVENTS, min_size=1, max_size=3))
            new += [made(start + count + n, one, own=False) for n, one in enumerate(drawn)]
        rebased = what != "confirm"
        rest = [] if what == "drop" else pending[count:]
        if rebased:
            rest = [again(old, start + len(new) + n, log=False) for n, old in enumerate(rest)]
        told(rows, replica.confirm(new, count, rest, rebased))
        log += new
        pending = rest
        if data.draw(st.booleans()):
            replica.flush()
        if data.draw(st.booleans()):
            replica.tail("messages", "a", limit=1)
    plain.confirm([*log, *pending], 0, [], False)
    shown, expected = seen(replica), seen(plain)
    last = max([0, *(event.recorded_at for event in [*log[-1:], *pending[-1:]])])
    expected["status"]["lastActivity"] = iso(last) if last else None  # a log's times would not go back
    assert shown == expected
    assert rows == visible_rows(plain)
    replica.close()
    plain.close()
