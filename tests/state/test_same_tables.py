"""The same log gives the same tables, however its events are grouped, written, interrupted or taken up again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.events import Event, Meta
from jupyter_agentstore.core.operations import Row, apply
from jupyter_agentstore.core.schema import Schema
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.state import file
from jupyter_agentstore.state.state import State
from tests.state.support import contents, open_state, puppet, query, recounted

KEYS = st.sampled_from(["a", "b", "c", "é", "no\nline"])
OWNERS = st.sampled_from(["ann", "bob", "", "\U0001f600"])
SMALL = st.integers(-3, 3)
ODD = st.one_of(st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 10**40, 1.7e308, True, None, "1"]), st.floats())
TIMES = st.sampled_from([None, 0, -1, 1_700_000_000_000, -62_135_596_800_000, 253_402_300_799_999])
GOOD_THING = st.fixed_dictionaries(
    {"id": KEYS},
    optional={
        "owner": OWNERS,
        "amount": st.one_of(SMALL, st.floats(allow_nan=False, allow_infinity=False)),
        "count": SMALL,
        "since": TIMES,
        "open": st.booleans(),
    },
)
ODD_THING = st.fixed_dictionaries(
    {"id": KEYS},
    optional={"amount": ODD, "count": ODD, "since": st.just(10**18), "open": ODD, "unknown": st.just(1)},
)
LINE = st.fixed_dictionaries(
    {"id": KEYS},
    optional={
        "thing": st.one_of(st.none(), KEYS),
        "seq": st.sampled_from([None, 0, -5, 3, 70]),
        "text": OWNERS,
    },
)
CHANGES = st.fixed_dictionaries(
    {}, optional={"owner": OWNERS, "amount": SMALL, "count": st.integers(2**61, 2**62), "since": TIMES}
)
LINE_CHANGES = st.fixed_dictionaries({}, optional={"thing": KEYS, "seq": SMALL, "text": OWNERS})
SUMS = st.fixed_dictionaries({}, optional={"amount": st.floats(), "count": SMALL})
ODD_CHANGES = st.dictionaries(
    st.sampled_from(["owner", "amount", "count", "since", "id", "unknown"]),
    st.one_of(ODD, OWNERS),
    max_size=2,
)
IF = st.one_of(
    st.none(), st.none(), st.just({}), st.fixed_dictionaries({"owner": OWNERS}), st.just({"unknown": 1})
)
TABLES = st.sampled_from(["things", "lines"])
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["insert", "upsert"]), st.just("things"), GOOD_THING),
    st.tuples(st.sampled_from(["insert", "upsert"]), st.just("lines"), LINE),
    st.tuples(st.just("update"), st.just("things"), KEYS, CHANGES, IF),
    st.tuples(st.just("update"), st.just("lines"), KEYS, LINE_CHANGES),
    st.tuples(st.just("add"), st.just("things"), KEYS, SUMS, IF),
    st.tuples(st.just("delete"), TABLES, KEYS, IF),
    st.tuples(st.just("line"), KEYS, KEYS),
)
ODD_OPERATIONS = st.one_of(
    OPERATIONS,
    st.tuples(st.sampled_from(["insert", "upsert"]), st.just("things"), ODD_THING),
    st.tuples(st.sampled_from(["update", "add"]), TABLES, KEYS, ODD_CHANGES, IF),
    st.sampled_from([("raise", "no"), ("nothing",), ("surrogate", "a"), ("insert", "nowhere", {"id": "a"})]),
    st.sampled_from([("insert", "things", {"id": 5}), ("insert", "things", []), ("delete", "things", ["a"])]),
    st.sampled_from(
        [("update", "things", "a", None), ("add", "things", "a", {"owner": 1}), ("insert", "things")]
    ),
)
ODD_BODIES = st.sampled_from(
    [
        "", "null", "[]", "{", '{"name":1,"args":{}}', '{"name":"do"}', '{"name":"do","args":[1]}',
        '{"name":"do","args":{}}', '{"name":"do","args":{"operations":"["}}', '{"name":"other","args":{"x":1e999}}',
        '{"name":"do","args":{"operations":"[]","x":' + "[" * 5000 + "]" * 5000 + "}}",
        '{"name":"do","args":{"operations":"' + "[" * 5000 + "]" * 5000 + '"}}',
        '{"name":"do","args":{"operations":"[]","x":' + "9" * 400 + "}}",
        '{"name":"do","args":{"operations":"[]","x":' + "9" * 5000 + "}}",
        '{"name":"do","args":{"operations":"[]","operations":"[[\\"raise\\",\\"twice\\"]]"}}',
        '{"name":"\\ud83d","args":{"\\ud83d":"\\udc00 \\u0000"},"clientId":"\\u0000","sessionId":"\\udfff"}',
        '{"name":"do","args":{"operations":"[[\\"raise\\",\\"\\\\ud83d\\"]]"}}',
        '{"name":"do","args":{"operations":null}}', '{"name":"do","args":{"operations":"[] \\u0000"}}',
    ]
)  # fmt: skip


def body(operations: list[Any]) -> str:
    return json.dumps({"name": "do", "args": {"operations": json.dumps(operations)}, "clientId": "c"})


BODIES = st.one_of(
    st.lists(OPERATIONS, max_size=3).map(body),
    st.lists(OPERATIONS, min_size=1, max_size=1).map(body),
    st.lists(OPERATIONS, min_size=1, max_size=1).map(body),
    st.lists(ODD_OPERATIONS, max_size=3).map(body),
    ODD_BODIES,
)
COMMITS = st.sampled_from(["", "", "commit:1", "commit:2"])


@st.composite
def logs(draw: st.DrawFn, bodies: st.SearchStrategy[str] = BODIES) -> list[Event]:
    """Events of a log: whole bodies, now and then of a commit with an id."""
    events = []
    for seq, drawn in enumerate(draw(st.lists(bodies, max_size=14)), 1):
        session = draw(COMMITS)
        marked = f'{drawn[:-1]},"clientId":"server","sessionId":"{session}"}}'
        text = marked if session and drawn.endswith("}") else drawn
        time = draw(st.sampled_from([1_700_000_000_000, 1, 2**62]))
        events.append(Event(seq, time, draw(st.sampled_from(["ann", "bób"])), text))
    return events


def one_by_one(instance: Instance, schema: Schema, events: list[Event]) -> State:
    """A state that wrote every event by itself."""
    state = open_state(instance, schema)
    for event in events:
        state.apply([event])
        state.flush()
    return state


@settings(max_examples=60)
@given(log=logs(), data=st.data())
def test_groups_and_writes_make_no_difference(
    instance: Instance, log: list[Event], data: st.DataObject
) -> None:
    schema = puppet()
    plain = one_by_one(instance, schema, log)
    grouped = open_state(instance, schema)
    start = 0
    while start < len(log):
        end = data.draw(st.integers(start + 1, len(log)))
        grouped.apply(log[start:end])
        if data.draw(st.booleans()):
            grouped.flush()
        start = end
    rebuilt = open_state(instance, schema)
    with patch.object(file, "_ARROW_ROWS", 1), patch.object(file, "_PARAMETERS", 0):  # as for many rows
        rebuilt.catch_up([log[start : start + 5] for start in range(0, len(log), 5)])
    expected = contents(plain)
    assert contents(grouped) == expected
    assert contents(rebuilt) == expected
    assert expected.items() >= recounted(plain).items()
    assert len(expected["events"]) == len(log)
    for state in (plain, grouped, rebuilt):
        state.close()


@settings(max_examples=60)
@given(log=logs(), cut=st.integers(0, 14), data=st.data())
def test_a_state_taken_up_again_comes_to_the_same(
    instance: Instance, log: list[Event], cut: int, data: st.DataObject
) -> None:
    schema = puppet()
    plain = one_by_one(instance, schema, log)
    with tempfile.TemporaryDirectory() as folder:
        first = open_state(instance, schema, Path(folder))
        first.apply(log[:cut])
        if data.draw(st.booleans()):
            first.size("things")
        first.close()
        second = open_state(instance, schema, Path(folder))
        assert second.applied == len(log[:cut])
        second.apply(log[cut:])
        assert contents(second) == contents(plain)
        second.close()
    plain.close()


@settings(max_examples=60)
@given(log=logs(), data=st.data())
def test_memory_says_what_the_file_will_say(
    instance: Instance, log: list[Event], data: st.DataObject
) -> None:
    state = open_state(instance, puppet())
    for event in log:
        state.apply([event])
        if data.draw(st.booleans()):
            state.flush()
        if data.draw(st.booleans()):  # so that there are tails to follow
            state.tail("lines", "a", limit=data.draw(st.integers(1, 3)))
            state.row("things", "a")
    keys = ["a", "b", "c", "é", "no\nline", "never"]
    memory = {(table, key): state.row(table, key) for table in ("things", "lines") for key in keys}
    there = {place: state.has(*place) for place in memory}
    tails = {
        (group, after, limit): state.tail("lines", group, after=after, limit=limit)
        for group in keys
        for after in (None, -4, 0, 2, 60)
        for limit in (1, 2, 50)
    }
    rows = {(table, row["id"]): row for table in ("things", "lines") for row in state.rows(table)}
    assert {place: row for place, row in memory.items() if row} == rows
    assert {place for place, yes in there.items() if yes} == rows.keys()
    for (group, after, limit), found in tails.items():
        members = [row for (table, _), row in rows.items() if table == "lines" and row["thing"] == group]
        members.sort(key=lambda row: (row["seq"] if row["seq"] is not None else -(2**63), row["id"]))
        if after is None:
            assert found == members[-limit:]
        else:
            later = [row for row in members if row["seq"] is not None and row["seq"] > after]
            assert found == later[:limit]
    state.close()


@settings(max_examples=60)
@given(log=logs())
def test_tables_are_what_a_plain_reading_of_the_rules_says(instance: Instance, log: list[Event]) -> None:
    schema = puppet()
    tables: dict[str, dict[str, Row]] = {name: {} for name in schema.tables}
    odd = []
    for event in log:
        try:
            body = event.decode()
            kind = schema.events[body.name]
            meta = Meta(event.seq, event.recorded_at, event.actor, body.clientId, body.sessionId)
            operations = tuple(kind.materialize(kind.read(body.args), meta))
            msgspec.json.encode(operations)
            changes = apply(operations, schema, lambda table, key: tables[table].get(key), event.seq)
            first = apply(operations[:1], schema, lambda table, key: tables[table].get(key), event.seq)
        except Exception:
            odd.append(event.seq)
            continue
        if operations and not first:
            odd.append(event.seq)
        for change in changes:
            tables[change.table].pop(change.key, None)
            if change.after is not None:
                tables[change.table][change.key] = change.after
    state = open_state(instance, schema)
    state.apply(log)
    assert [seq for (seq,) in query(state, "select seq from anomalies order by seq")] == odd
    for name, rows in tables.items():
        assert {row["id"]: row for row in state.rows(name)} == rows
    state.close()


IDS = st.sampled_from(["a", "b", "c"])
TEXTS = st.one_of(st.text(st.characters(), max_size=5), st.sampled_from(["x" * 300, "\ud83d", "\0", 5, None]))
METADATA = st.sampled_from(
    [None, "{}", '{"replyTo":"a"}', '{"imported":true}', "[1]", "{", '{"replyTo":5}', "\0"]
)
AGENT_EVENTS = st.one_of(
    st.tuples(
        st.just("v1.ConversationCreated"),
        st.fixed_dictionaries({"id": IDS, "userId": TEXTS}, optional={"title": TEXTS, "extra": TEXTS}),
    ),
    st.tuples(
        st.just("v1.MessageAdded"),
        st.fixed_dictionaries(
            {
                "id": IDS,
                "conversationId": IDS,
                "role": st.sampled_from(["user", "assistant", "system", "boss"]),
            },
            optional={"content": TEXTS, "metadata": METADATA},
        ),
    ),
    st.tuples(
        st.just("v1.MemoryAdded"), st.fixed_dictionaries({"id": IDS, "conversationId": IDS, "fact": TEXTS})
    ),
    st.tuples(
        st.just("v1.ConversationUpdated"),
        st.fixed_dictionaries(
            {"id": IDS, "updatedAt": st.sampled_from([5, "2024-01-01", "yesterday", 1e300, -1e14, None])},
            optional={"status": st.sampled_from(["active", "archived", "gone", None])},
        ),
    ),
    st.tuples(st.just("v2.Unheard"), st.just({})),
).map(lambda pair: json.dumps({"name": pair[0], "args": pair[1], "clientId": "c", "sessionId": "s"}))


@settings(max_examples=60)
@given(log=logs(AGENT_EVENTS), data=st.data())
def test_so_it_is_with_the_agents_own_schema(
    instance: Instance, log: list[Event], data: st.DataObject
) -> None:
    plain = one_by_one(instance, agent_schema, log)
    grouped = open_state(instance, agent_schema)
    cut = data.draw(st.integers(0, len(log)))
    grouped.apply(log[:cut])
    grouped.flush()
    grouped.apply(log[cut:])
    expected = contents(plain)
    assert contents(grouped) == expected
    assert expected.items() >= recounted(plain).items()
    plain.close()
    grouped.close()
