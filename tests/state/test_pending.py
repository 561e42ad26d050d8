"""Pending events over tables show what the tables would show had they been applied, whatever happens beneath."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agentstore.core.events import Event
from jupyter_agentstore.core.operations import Row, RowChange
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state import memory, overlay
from jupyter_agentstore.state.file import StateFile
from jupyter_agentstore.state.pending import Pending
from jupyter_agentstore.state.reading import read
from jupyter_agentstore.state.state import State
from tests.state.support import do, open_state, puppet
from tests.state.test_same_tables import BODIES

SCHEMA = puppet()
KEYS = ["a", "b", "c", "é", "no\nline", "never"]
TABLES = ["things", "lines", "events", "anomalies"]


def select(pending: Pending, state: State, sql: str, *tables: str) -> list[tuple[Any, ...]]:
    state.flush()
    with pending.reader() as (cursor, lay):
        if lay is not None:
            lay(tables)
        return cursor.execute(sql).fetchall()


def shown(pending: Pending, state: State) -> dict[str, Any]:
    """Everything that can be seen."""
    found: dict[str, Any] = {}
    for name in TABLES:
        found[name] = sorted(select(pending, state, f'select * from "{name}"', name), key=repr)
    for name, table in SCHEMA.tables.items():
        found[f"count of {name}"] = pending.count(name)
        found[f"size of {name}"] = pending.size(name)
        if table.tally:
            found[f"tally of {name}"] = pending.tally(name)
        found[f"rows of {name}"] = [(pending.row(name, key), pending.has(name, key)) for key in KEYS]
    for group in KEYS:
        for after, limit in ((None, 1), (None, 50), (0, 2), (3, 50), (None, 0)):
            found[f"tail {group} {after} {limit}"] = pending.tail("lines", group, after=after, limit=limit)
    return found


def everything(pending: Pending, state: State) -> dict[tuple[str, str], Row]:
    found = {}
    for name in SCHEMA.tables:
        layout = state.layouts[name]
        for values in select(pending, state, f"select {layout.select} from {layout.name}", name):
            row = layout.row(values)
            found[name, row["id"]] = row
    return found


def follow(rows: dict[tuple[str, str], Row], changes: Sequence[RowChange]) -> None:
    """Do what changes say, as a listener does, who believes what it is told."""
    for change in changes:
        place = (change.table, change.key)
        assert rows.get(place) == change.before
        rows.pop(place, None)
        if change.after is not None:
            rows[place] = change.after


def numbered(bodies: Sequence[str], after: int, actor: str) -> list[Event]:
    return [Event(seq, 1_700_000_000_000 + seq, actor, body) for seq, body in enumerate(bodies, after + 1)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "confirm", "others", "both", "beneath", "drop"]),
        st.lists(BODIES, max_size=3),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=7,
)


@settings(max_examples=60)
@given(steps=STEPS, far=st.booleans(), same=st.booleans())
def test_what_is_pending_is_seen_as_if_it_were_applied(
    instance: Instance, steps: list[tuple[str, list[str], int, bool]], far: bool, same: bool
) -> None:
    """``far``: the pending events stand on later ones than the tables have."""
    state = open_state(instance, SCHEMA)
    pending = Pending(state)
    rows: dict[tuple[str, str], Row] = {}
    log: list[Event] = []
    own: list[str] = []
    gap = 100 if far else 0

    def actor(own: bool) -> str:
        return "ann" if same or own else "bob"

    with patch.object(overlay, "_PACK_AT", 2):
        for what, bodies, number, flush in steps:
            head = len(log)
            if what == "add":
                follow(rows, pending.add(numbered(bodies, head + gap + len(own), actor(True))))
                own += bodies
            elif what == "beneath":  # as while a client that was away catches up
                gap = max(0, gap - len(bodies)) if far else 0
                new = numbered(bodies, head, "bob")
                renumbered = None if far and gap else numbered(own, head + len(new) + gap, actor(True))
                if far and gap == 0 and bodies:
                    far = False
                follow(rows, pending.follow(state.apply(new), 0, renumbered))
                log += new
            else:
                confirmed = min(number, len(own)) if what in ("confirm", "both") and not gap else 0
                new = numbered(own[:confirmed], head, actor(False))
                if what in ("others", "both") and not gap:
                    new += numbered(bodies, head + len(new), "bob")
                own = [] if what == "drop" else own[confirmed:]
                rest = None if what == "confirm" else numbered(own, head + gap + len(new), actor(True))
                follow(rows, pending.follow(state.apply(new), confirmed, rest))
                log += new
            if flush:
                state.flush()
                pending.tail("lines", "a", limit=1)
        plain = open_state(instance, SCHEMA)
        plain.apply(log)
        if gap:
            plain.applied += gap  # only for the numbers' sake
        plain.apply(numbered(own, len(log) + gap, actor(True)))
        plain.applied -= gap
        expected = shown(Pending(plain), plain)
        assert shown(pending, state) == expected
        assert rows == everything(pending, state)
        with suppress(Exception):
            plain.close()
    state.close()


def things(count: int, at: int = 1, **more: Any) -> list[Event]:
    return [do(seq, ("insert", "things", {"id": f"t{seq}", **more})) for seq in range(at, at + count)]


@pytest.fixture
def state(instance: Instance) -> Any:
    made = open_state(instance, SCHEMA)
    yield made
    made.close()


def test_many_pending_events_are_confirmed_without_being_read_again(state: State) -> None:
    pending = Pending(state)
    events = things(3000)
    pending.add(events)
    with patch.object(memory, "read", wraps=read) as reading:
        for start in range(0, 3000, 100):
            state.apply(events[start : start + 100])
            assert pending.follow([], 100) == []
        assert sum(len(call.args[0]) for call in reading.call_args_list) == 3000  # by the state
    assert pending.events == []


def test_a_reader_is_left_as_it_was(state: State) -> None:
    pending = Pending(state)
    state.apply(things(2))
    pending.add([do(3, ("update", "things", "t1", {"owner": "me"})), *things(1, 4)])
    for _ in range(2):
        sql = "select owner from things order by id"
        assert select(pending, state, sql, "things") == [("me",), ("nobody",), ("nobody",)]
        with state.reader() as cursor:
            assert cursor.execute(sql).fetchall() == [("nobody",), ("nobody",)]
            names = "select view_name from duckdb_views() where not internal and view_name <> 'agentState'"
            assert cursor.execute(names).fetchall() == []
            assert cursor.execute("select count(*) from things").fetchall() == [(2,)]


def test_a_failed_query_leaves_nothing_behind(state: State) -> None:
    pending = Pending(state)
    state.apply(things(1))
    pending.add(things(1, 2))
    with pytest.raises(Exception, match="nothing"):
        select(pending, state, "select nothing from things", "things")
    assert select(pending, state, "select count(*) from things", "things") == [(2,)]
    with state.reader() as cursor:
        assert cursor.execute("select count(*) from things").fetchall() == [(1,)]


def test_events_whose_rows_cannot_be_read_change_nothing(state: State) -> None:
    state.apply(things(1200))
    state.flush()
    fresh = [do(seq, ("insert", "lines", {"id": f"l{seq}", "thing": "t1"})) for seq in range(1201, 2001)]
    changes = [do(seq, ("update", "things", f"t{seq - 2000}", {"owner": "me"})) for seq in range(2001, 2010)]
    pending = Pending(state)
    pending.add(fresh[:1])
    state._memory.file_changed()  # so that rows come from the file
    with patch.object(StateFile, "fetch", side_effect=OSError("no")):
        with pytest.raises(OSError, match="no"):
            pending.add([*fresh[1:], *changes])
        with pytest.raises(OSError, match="no"):
            pending.reset([*fresh[1:], *changes])
    assert pending.events == fresh[:1]
    assert pending.count("lines") == 1
    assert len(pending.add([*fresh[1:], *changes])) == len(fresh) - 1 + len(changes)
    assert pending.count("lines") == len(fresh)
    assert pending.tally("things") == {"nobody": 1191, "me": 9}
