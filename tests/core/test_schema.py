"""Schemas: what they accept, what they say of what they refuse, and when two are the same."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import InvalidEvent
from jupyter_agentstore.core.events import Meta, encode_args
from jupyter_agentstore.core.operations import BadOperation, Operation
from jupyter_agentstore.core.schema import MAX_TIME, MIN_TIME, Column, EventType, Field, Schema, Table


def nothing(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    return ()


KIND = EventType(
    "v1.Everything",
    (
        Field("id", "id"),
        Field("text", "text", required=False),
        Field("choice", "text", required=False, nullable=True, choices=("a", "b")),
        Field("json", "json", required=False, nullable=True),
        Field("integer", "integer", required=False),
        Field("number", "number", required=False),
        Field("boolean", "boolean", required=False),
        Field("timestamp", "timestamp", required=False),
    ),
    nothing,
)
TABLE = Table(
    "things",
    (
        Column("id", "id"),
        Column("text", "text", "none"),
        Column("json", "json", nullable=True),
        Column("integer", "integer", 0),
        Column("number", "number", 0.0),
        Column("boolean", "boolean", False),
        Column("timestamp", "timestamp", nullable=True),
        Column("seq", "integer", 0),
    ),
    group="text",
    tally="text",
)
SCHEMA = Schema(3, (TABLE,), (KIND,))


def read(**args: Any) -> dict[str, Any]:
    return SCHEMA.validate("v1.Everything", {"id": "x", **args})


# ---- events


@pytest.mark.parametrize(
    ("field", "value", "read_as"),
    [
        ("id", "x" * 256, "x" * 256),
        ("text", "", ""),
        ("text", "a\ud83d", "a\ufffd"),
        ("id", "a\ud83d", "a\ufffd"),
        ("choice", "b", "b"),
        ("choice", None, None),
        ("json", None, None),
        ("json", '{"a": [1.50]}', '{"a": [1.50]}'),
        ("json", '"\\ud83d"', '"\ufffd"'),
        ("json", '"\\\\u0000"', '"\\\\u0000"'),
        ("integer", -(2**63), -(2**63)),
        ("number", 1, 1),
        ("number", -0.5, -0.5),
        ("boolean", False, False),
        ("timestamp", 0, 0),
        ("timestamp", 1.6, 2),
        ("timestamp", MAX_TIME, MAX_TIME),
        ("timestamp", MIN_TIME, MIN_TIME),
        ("timestamp", "2024-02-29T12:00:00.123Z", 1_709_208_000_123),
        ("timestamp", "2024-02-29T12:00:00.123999Z", 1_709_208_000_123),
        ("timestamp", "2024-02-29T12:00:00+02:00", 1_709_200_800_000),
        ("timestamp", "2024-02-29T12:00:00+0200", 1_709_200_800_000),
        ("timestamp", "2024-02-29 12:00", 1_709_208_000_000),
        ("timestamp", "2024-02-29", 1_709_164_800_000),
        ("timestamp", "0001-01-01T00:00:00Z", MIN_TIME),
    ],
)
def test_a_value_that_fits_its_field_is_read(field: str, value: Any, read_as: Any) -> None:
    assert read(**{field: value})[field] == read_as


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("id", "", "1 to 256 characters"),
        ("id", "x" * 257, "1 to 256 characters"),
        ("id", "a\0", "NUL"),
        ("id", 7, "must be an id"),
        ("id", None, "may not be null"),
        ("text", None, "may not be null"),
        ("text", "a\0b", "NUL"),
        ("text", 1, "must be text, not a number"),
        ("text", ["a"], "must be text, not a list"),
        ("text", {}, "must be text, not an object"),
        ("text", True, "must be text, not a boolean"),
        ("choice", "c", "must be one of a, b"),
        ("choice", "", "must be one of a, b"),
        ("json", "{", "text that holds JSON"),
        ("json", "", "text that holds JSON"),
        ("json", {}, "must be text that holds JSON, not an object"),
        ("json", "NaN", "text that holds JSON"),
        ("json", "[-Infinity]", "text that holds JSON"),
        ("json", "[1e999]", "text that holds JSON"),
        ("json", '["\\ud83d", 1e999]', "text that holds JSON"),
        ("json", '"\\u0000"', "NUL"),
        ("json", '"\\\\\\u0000"', "NUL"),
        ("json", "[" * 101 + "]" * 101, "deep"),
        ("integer", 2**63, "out of range"),
        ("integer", 1.0, "must be an integer, not a number"),
        ("integer", True, "must be an integer, not a boolean"),
        ("integer", "1", "must be an integer, not text"),
        ("number", math.nan, "out of range"),
        ("number", math.inf, "out of range"),
        ("number", 2**64, "out of range"),
        ("number", "1", "must be a number, not text"),
        ("boolean", 0, "must be a boolean, not a number"),
        ("timestamp", "yesterday", "must be a time"),
        ("timestamp", "", "must be a time"),
        ("timestamp", "2024-02-30", "must be a time"),
        ("timestamp", "2024-W01-1", "must be a time"),
        ("timestamp", "20240229", "must be a time"),
        ("timestamp", "2024-02-29T24:00:00Z", "must be a time"),
        ("timestamp", "2024-02-29T12:00:00Z\n", "must be a time"),
        ("timestamp", "٢٠٢٤-02-29", "must be a time"),
        ("timestamp", "0001-01-01T00:00:00+14:00", "must be a time"),
        ("timestamp", "1709208000123", "must be a time"),
        ("timestamp", True, "must be a time"),
        ("timestamp", math.nan, "must be a time"),
        ("timestamp", MAX_TIME + 1, "must be a time"),
        ("timestamp", MIN_TIME - 1, "must be a time"),
        ("timestamp", [0], "must be a time"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_fields_name(field: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidEvent, match=said) as refused:
        read(**{field: value})
    assert refused.value.field == field
    assert repr(field) in refused.value.message


def test_a_required_field_must_be_there_and_others_need_not() -> None:
    with pytest.raises(InvalidEvent, match="'id' is missing") as refused:
        SCHEMA.validate("v1.Everything", {})
    assert refused.value.field == "id"
    others = [field.name for field in KIND.fields if field.name != "id"]
    assert read() == {"id": "x", **dict.fromkeys(others)}


def test_an_unknown_field_is_refused_at_a_strict_door_and_left_out_elsewhere() -> None:
    with pytest.raises(InvalidEvent, match="no field 'colour'") as refused:
        read(colour="red")
    assert refused.value.field == "colour"
    assert "colour" not in KIND.read({"id": "x", "colour": "red"})


@pytest.mark.parametrize("name", ["v1.Nothing", "", None, 7, ["v1.Everything"], "x" * 1000])
def test_an_unknown_type_is_refused_and_the_known_ones_named(name: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"there are v1\.Everything") as refused:
        SCHEMA.validate(name, {})
    assert refused.value.field == "name"
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("args", [None, [], "id", 7])
def test_fields_must_be_an_object(args: Any) -> None:
    with pytest.raises(InvalidEvent, match="must be an object") as refused:
        SCHEMA.validate("v1.Everything", args)
    assert refused.value.field == "args"


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(list(agent_schema.events)), st.data())
def test_whatever_comes_is_read_or_refused_with_a_field(name: str, data: st.DataObject) -> None:
    fields = agent_schema.events[name].fields
    likely = {f.name: junk | st.sampled_from(["user", "active", "x", "2024-01-01", "{}", 0]) for f in fields}
    args = data.draw(st.fixed_dictionaries({}, optional=likely))
    values, field = None, next(iter(likely))
    try:
        values = agent_schema.validate(name, args)
    except InvalidEvent as error:
        field = str(error.field)
    assert field in likely
    if values is None:
        return
    assert list(values) == [f.name for f in fields]
    encode_args(args)
    operations = agent_schema.events[name].materialize(values, Meta(1, 0, "ada", "c", "s"))
    for operation in operations:
        table = agent_schema.tables[operation.table]
        row = getattr(operation, "row", None)
        if row is not None:
            assert list(table.complete(row)) == [column.name for column in table.columns]


# ---- rows


def test_a_row_is_completed_with_defaults_in_the_tables_order() -> None:
    row = TABLE.complete({"seq": 4, "id": "a"})
    assert list(row.items())[:3] == [("id", "a"), ("text", "none"), ("json", None)]
    assert list(row) == [column.name for column in TABLE.columns]
    assert TABLE.complete({"id": "b"})["seq"] == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"colour": "red"}, "no column 'colour'"),
        ({"id": None}, r"things\.id: a value is missing"),
        ({"text": None}, r"things\.text: a value is missing"),
        ({"text": 1}, "int is not text"),
        ({"integer": 1.0}, "float is not integer"),
        ({"integer": True}, "bool is not integer"),
        ({"integer": 2**63}, "out of range"),
        ({"number": math.nan}, "is not a number"),
        ({"number": math.inf}, "is not a number"),
        ({"number": 10**400}, "out of range"),
        ({"boolean": 1}, "int is not boolean"),
        ({"timestamp": MAX_TIME + 1}, "out of range"),
        ({"timestamp": MIN_TIME - 1}, "out of range"),
        ({"timestamp": 1.0}, "float is not timestamp"),
    ],
)
def test_a_row_that_does_not_fit_its_table_is_refused(values: dict[str, Any], said: str) -> None:
    for _ in range(2):  # rows like one that fitted are checked no less
        with pytest.raises(BadOperation, match=said):
            TABLE.complete({"id": "a", **values})
        TABLE.complete({"id": "a", "integer": 5, "number": 0.5, "timestamp": 9, "boolean": True})


def test_whole_numbers_in_number_columns_are_floats_as_they_come_back() -> None:
    assert repr(TABLE.complete({"id": "a", "number": 3})["number"]) == "3.0"
    assert repr(TABLE.complete({"id": "a", "number": 2**60 + 1})["number"]) == repr(float(2**60))


# ---- declarations


def ids(name: str, **more: Any) -> Table:
    return Table(name, (Column("id", "id"), Column("n", "integer", 0)), **more)


@pytest.mark.parametrize(
    "tables",
    [
        (ids("a"), ids("A")),
        *(
            (ids(name),)
            for name in ("events", "Anomalies", "agentState", "agentstore_meta", "AGENTSTORE_commits")
        ),
        (Table("a", (Column("id", "id"), Column("ID", "text"))),),
        (ids("a", key="n"),),
        (ids("a", key="nope"),),
        (ids("a", tally="nope"),),
        (ids("a", tally="n"),),
        (ids("a", group="nope"),),
        (ids("a", group="id"),),  # there is no seq
        (Table("a", (Column("id", "id"), Column("seq", "text")), group="id"),),
    ],
)
def test_tables_that_cannot_be_are_refused_when_declared(tables: tuple[Table, ...]) -> None:
    with pytest.raises(ValueError):
        Schema(1, tables, ())


@pytest.mark.parametrize(
    "events",
    [
        (KIND, KIND),
        (replace(KIND, unique=("nope", "id")),),
        (replace(KIND, unique=("things", "nope")),),
        (replace(KIND, requires=(("things", "id"), ("nope", "id"))),),
        (replace(KIND, requires=(("things", "nope"),)),),
    ],
)
def test_events_that_cannot_be_are_refused_when_declared(events: tuple[EventType, ...]) -> None:
    with pytest.raises(ValueError):
        Schema(1, (TABLE,), events)


def changed_table(**change: Any) -> Schema:
    return replace(SCHEMA, table_list=(replace(TABLE, **change),))


def changed_event(**change: Any) -> Schema:
    return replace(SCHEMA, event_list=(replace(KIND, **change),))


CHANGES = [
    replace(SCHEMA, version=4),
    replace(SCHEMA, table_list=()),
    replace(SCHEMA, event_list=()),
    SCHEMA.extend(version=1),
    SCHEMA.extend(version=1, tables=[ids("more")]),
    SCHEMA.extend(version=2, tables=[ids("more")]),
    changed_table(name="stuff"),
    changed_table(key="text"),
    changed_table(group=None),
    changed_table(tally=None),
    changed_table(sized=True),
    changed_table(columns=TABLE.columns[::-1]),
    changed_table(columns=(*TABLE.columns, Column("more", "text", ""))),
    changed_table(columns=(*TABLE.columns[:-1], Column("seq", "integer", 1))),
    changed_table(columns=(*TABLE.columns[:-1], Column("seq", "integer", 0, nullable=True))),
    changed_event(name="v2.Everything"),
    changed_event(unique=("things", "id")),
    changed_event(requires=(("things", "id"),)),
    changed_event(fields=KIND.fields[:-1]),
    changed_event(fields=(*KIND.fields[:-1], Field("timestamp", "integer", required=False))),
    changed_event(fields=(*KIND.fields[:-1], Field("timestamp", "timestamp"))),
    changed_event(fields=(*KIND.fields[:-1], Field("timestamp", "timestamp", required=False, nullable=True))),
    changed_event(fields=(*KIND.fields[:-1], Field("timestamp", "text", required=False, choices=("a",)))),
]


def test_the_hash_changes_with_every_declaration_and_with_the_version() -> None:
    hashes = [schema.hash for schema in (SCHEMA, *CHANGES)]
    assert len(set(hashes)) == len(hashes)
    assert all(len(hash) == 64 for hash in hashes)


def test_the_hash_does_not_depend_on_a_materializers_code() -> None:
    assert changed_event(materialize=lambda fields, meta: ()).hash == SCHEMA.hash


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from jupyter_agentstore.core.agent_schema import agent_schema; print(agent_schema.hash)"
    root = Path(__file__).parents[2]
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == agent_schema.hash


def test_an_extended_schema_has_what_it_extends_and_more() -> None:
    more = EventType("v1.More", (Field("id", "id"),), nothing)
    extended = agent_schema.extend(version=2, tables=[ids("more")], events=[more])
    assert list(extended.tables) == [*agent_schema.tables, "more"]
    assert list(extended.events) == [*agent_schema.events, "v1.More"]
    assert extended.validate("v1.More", {"id": "a"}) == {"id": "a"}
    with pytest.raises(ValueError, match="declared twice"):
        agent_schema.extend(version=2, tables=[ids("Messages")])
    with pytest.raises(ValueError, match="declared twice"):
        extended.extend(version=3, events=[more])
