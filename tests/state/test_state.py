"""Tables follow events: at once in memory, a little later in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state.state import State
from tests.state.support import contents, created, event, open_state, query, recounted, said


@pytest.fixture
def state(instance: Instance, tmp_path: Path) -> Iterator[State]:
    opened = open_state(instance, agent_schema, tmp_path)
    yield opened
    opened.close()


def test_an_event_is_in_memory_at_once_and_in_the_file_after_a_flush(state: State) -> None:
    changes = state.apply([created(1), said(2, "m1")])
    assert [(c.table, c.key) for c in changes] == [
        ("conversations", "c1"),
        ("messages", "m1"),
        ("pendingReplies", "c1"),
    ]
    assert state.row("messages", "m1")["content"] == "hello"
    assert (state.applied, state.flushed) == (2, 0)
    with state.reader() as cursor:
        assert cursor.execute("select count(*) from messages").fetchall() == [(0,)]
    assert query(state, "select id, content, epoch_ms(timestamp) from messages") == [
        ("m1", "hello", 1_700_000_000_002)
    ]
    assert (state.applied, state.flushed) == (2, 2)


def test_events_without_effect_are_anomalies_and_have_their_twin(state: State) -> None:
    state.apply(
        [
            created(1),
            created(2),
            event(3, "v1.Nonsense", {}),
            event(4, "v1.MessageAdded", {"id": 1}),
            event(5, "v1.ConversationUpdated", {"id": "nobody", "updatedAt": 5}),
            event(6, "v1.MessageAdded", "[1]"),
        ]
    )
    found = query(state, "select seq, name, reason from anomalies order by seq")
    assert [row[:2] for row in found] == [
        (2, "v1.ConversationCreated"),
        (3, "v1.Nonsense"),
        (4, "v1.MessageAdded"),
        (5, "v1.ConversationUpdated"),
        (6, "v1.MessageAdded"),
    ]
    assert [row[2] for row in found][:4] == [
        "The table conversations has a row 'c1' already.",
        "There is no event type 'v1.Nonsense' in this schema.",
        "v1.MessageAdded: the field 'id' must be an id (text), not a number.",
        "The table conversations has no row 'nobody'.",
    ]
    assert query(state, "select list(seq order by seq) from events") == [([1, 2, 3, 4, 5, 6],)]
    assert query(state, "select args from events where seq in (3, 6) order by seq") == [("{}",), ("[1]",)]


def test_agent_state_is_what_was_set_and_what_the_tables_say(state: State) -> None:
    state.apply([created(1), said(2, "m1"), event(3, "v1.ConversationCreated", {"id": "c2", "userId": "u"})])
    state.apply([event(4, "v1.ConversationUpdated", {"id": "c2", "updatedAt": 5, "status": "archived"})])
    assert query(state, 'select * from "agentState"') == [(False, None, None, 1, 1)]
    state.document({"isThinking": True, "currentTask": "half a \ud83d", "lastActivity": 1_700_000_000_000})
    found = query(state, 'select * exclude ("lastActivity"), epoch_ms("lastActivity") from "agentState"')
    assert found == [(True, "half a \ufffd", 1, 1, 1_700_000_000_000)]
    state.document({"isThinking": False})
    assert query(state, 'select "isThinking", "currentTask" from "agentState"') == [(False, "half a \ufffd")]
    for wrong in ({"isThinking": 1}, {"totalMessages": 5}, {"lastActivity": 10**18}, {"currentTask": 5}):
        with pytest.raises(ValueError, match="agentState"):
            state.document(wrong)


def test_counters_answer_without_looking(state: State) -> None:
    state.apply([created(1), created(2, "c2"), said(3, "m1", "é"), created(4)])
    assert [state.count(name) for name in ("conversations", "messages", "conversationMemory")] == [2, 1, 0]
    assert state.tally("conversations") == {"active": 2}
    assert contents(state).items() >= recounted(state).items()


def test_a_commit_is_found_by_its_id_and_its_actor(state: State) -> None:
    log = [said(seq, f"m{seq}") for seq in range(1, 8)]
    for index, session in ((1, "commit:x"), (2, "commit:x"), (4, "commit:x"), (5, "commit:y"), (6, "rest")):
        log[index] = event(index + 1, "v1.Unheard", {}, session=session)
    log[3] = event(4, "v1.Unheard", {}, session="commit:x", actor="bob")
    state.apply(log)
    for _ in range(2):
        assert state.commit_of("ann", "x") == (
            2,
            2,
        )  # what comes later under the same id does not belong to it
        assert state.commit_of("bob", "x") == (4, 1)
        assert state.commit_of("ann", "y") == (6, 1)
        assert state.commit_of("ann", "z") is None
        state.flush()


def test_rows_are_chosen_and_ordered(state: State) -> None:
    state.apply([created(1), *(said(seq, f"m{seq}", conversation=f"c{seq % 2}") for seq in range(2, 8))])
    found = state.rows("messages", {"conversationId": "c0"}, order="seq desc", limit=2)
    assert [row["id"] for row in found] == ["m6", "m4"]
    assert [row["seq"] for row in state.rows("messages", {"timestamp": 1_700_000_000_003})] == [3]
    assert state.rows("messages", {"metadata": None}, order="seq") == state.rows("messages", order="id")
    assert state.rows("messages", {"metadata": "x"}) == []
    for wrong in ({"where": {"nothing": 1}}, {"order": "nothing"}, {"order": "seq; drop table messages"}):
        with pytest.raises(ValueError):
            state.rows("messages", **wrong)  # type: ignore[arg-type]


def test_what_is_handed_out_may_be_changed_without_harm(state: State) -> None:
    state.apply([created(1), said(2, "m1")])
    row, tail = state.row("messages", "m1"), state.tail("messages", "c1")
    assert row is not None
    row["content"] = tail[0]["content"] = "changed"
    assert state.tail("messages", "c1")[0]["content"] == state.rows("messages")[0]["content"] == "hello"


def test_a_row_read_before_it_changes_is_not_remembered_as_it_was(state: State) -> None:
    state.apply([created(1)])
    state.flush()
    for seq, status in enumerate(["paused", "archived", "active"], 2):
        assert state.row("conversations", "c1") is not None
        fields = {"id": "c1", "updatedAt": seq, "status": status}
        state.apply([event(seq, "v1.ConversationUpdated", fields)])
        state.flush()
        assert state.row("conversations", "c1") == state.rows("conversations")[0]
    assert state.tally("conversations") == {"active": 1}


def test_a_gap_is_refused(state: State) -> None:
    state.apply([created(1)])
    with pytest.raises(ValueError, match="3 comes where event 2"):
        state.apply([said(3, "m3")])
    with pytest.raises(ValueError, match="not read by groups"):
        state.tail("conversations", "c1")
    assert state.applied == 1
