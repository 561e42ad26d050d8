"""Tables follow events: at once in memory, a little later in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import StoreClosed
from jupyter_agentstore.duck import Instance, alias_of
from jupyter_agentstore.state.state import State
from tests.state.support import created, event, query, said


@pytest.fixture
def state(instance: Instance, tmp_path: Path) -> Iterator[State]:
    opened = State.open(instance, tmp_path, alias_of(uuid4().hex), agent_schema, "backend", 0)
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


def test_a_state_goes_on_where_it_stopped(instance: Instance, tmp_path: Path) -> None:
    alias = alias_of(uuid4().hex)
    first = State.open(instance, tmp_path, alias, agent_schema, "backend", 0)
    first.apply([created(1), said(2, "m1")])
    first.close()
    with pytest.raises(StoreClosed):
        first.apply([said(3, "m2")])
    second = State.open(instance, tmp_path, alias, agent_schema, "backend", 2)
    assert second.applied == second.flushed == 2
    second.apply([said(3, "m1"), said(4, "m2")])
    assert second.count("messages") == 2
    assert query(second, "select seq from anomalies") == [(3,)]
    assert [row["id"] for row in second.tail("messages", "c1")] == ["m1", "m2"]
    second.close()
