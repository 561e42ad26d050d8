"""What an event's operations do to rows, compared with the rules written out plainly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.operations import (
    Add,
    BadOperation,
    Delete,
    Insert,
    Operation,
    Row,
    Update,
    Upsert,
    apply,
)
from jupyter_agentstore.core.schema import Column, Schema, Table

COLUMNS = (
    Column("id", "id"),
    Column("n", "integer", 0),
    Column("x", "number", 0.0),
    Column("t", "text", "", nullable=True),
)
SCHEMA = Schema(1, (Table("a", COLUMNS), Table("b", COLUMNS)), ())
Tables = dict[tuple[str, str], Row]

places = st.tuples(st.sampled_from("ab"), st.sampled_from("123"))
values = st.fixed_dictionaries({}, optional={"n": st.integers(0, 3), "t": st.sampled_from([None, "", "z"])})
conditions = st.none() | st.fixed_dictionaries(
    {}, optional={"n": st.integers(0, 3), "t": st.sampled_from([None, "z"])}
)
amounts = st.fixed_dictionaries({}, optional={"n": st.integers(-2, 2), "x": st.sampled_from([0.5, 1])})
operations = st.one_of(
    st.builds(lambda p, v: Insert(p[0], {"id": p[1], **v}), places, values),
    st.builds(lambda p, v: Upsert(p[0], {"id": p[1], **v}), places, values),
    st.builds(lambda p, v, c: Update(*p, v, c), places, values, conditions),
    st.builds(lambda p, v, c: Add(*p, v, c), places, amounts, conditions),
    st.builds(lambda p, c: Delete(*p, c), places, conditions),
)
rows = st.builds(lambda v: {"n": 0, "x": 0.0, "t": "", **v}, values)
tables = st.dictionaries(places, rows, max_size=6).map(lambda d: {p: {"id": p[1], **r} for p, r in d.items()})


def key(operation: Operation) -> tuple[str, str]:
    row = getattr(operation, "row", None)
    return operation.table, operation.key if row is None else row["id"]  # type: ignore[union-attr]


def model(before: Tables, todo: Sequence[Operation]) -> Tables:
    """The rules: in order, each on the rows as the last one left them; nothing if the first has no effect."""
    after = copy.deepcopy(before)
    for index, operation in enumerate(todo):
        place = key(operation)
        row = after.get(place)
        if_ = getattr(operation, "if_", None) or {}
        met = row is not None and all(row[name] == value for name, value in if_.items())
        done = True
        match operation:
            case Insert() if row is None:
                after[place] = {"id": place[1], "n": 0, "x": 0.0, "t": "", **operation.row}
            case Upsert():
                after[place] = {"id": place[1], "n": 0, "x": 0.0, "t": "", **operation.row}
            case Update() if met and row is not None:
                after[place] = {**row, **operation.values}
            case Add() if met and row is not None:
                after[place] = {**row, **{n: row[n] + amount for n, amount in operation.values.items()}}
            case Delete() if met:
                del after[place]
            case _:
                done = False
        if index == 0 and not done:
            return before
    return after


@given(tables, st.lists(operations, min_size=1, max_size=6))
def test_operations_do_what_the_rules_say(before: Tables, todo: list[Operation]) -> None:
    untouched = copy.deepcopy((before, todo))
    changes = apply(todo, SCHEMA, lambda table, key: before.get((table, key)), 9)
    assert (before, todo) == untouched
    after = dict(before)
    for change in changes:
        place = (change.table, change.key)
        assert change.seq == 9
        assert change.before == before.get(place)
        if change.after is None:
            del after[place]
        else:
            after[place] = change.after
            assert list(change.after) == ["id", "n", "x", "t"]
    assert after == model(before, todo)
    assert len({(change.table, change.key) for change in changes}) == len(changes)


@given(tables, st.lists(operations, min_size=1, max_size=5), st.integers(0, 5))
def test_a_bad_operation_anywhere_means_that_none_is_done(
    before: Tables, todo: list[Operation], where: int
) -> None:
    todo = [Upsert("a", {"id": "9"}), *todo[:where], Upsert("a", {"id": "8", "n": "text"}), *todo[where:]]
    with pytest.raises(BadOperation):
        apply(todo, SCHEMA, lambda table, key: before.get((table, key)), 9)


@pytest.mark.parametrize(
    "bad",
    [
        Insert("nope", {"id": "1"}),
        Delete("nope", "1"),
        Insert("a", {}),
        Insert("a", {"id": 1}),
        Delete("a", 1),  # type: ignore[arg-type]
        Insert("a", {"id": "new", "colour": "red"}),
        Insert("a", {"id": "new", "n": None}),
        Upsert("a", {"id": "1", "n": 1.5}),
        Update("a", "1", {"n": 2**63}),
        Update("a", "1", {"id": "2"}),
        Update("a", "1", {"colour": "red"}),
        Add("a", "1", {"t": 1}),
        Add("a", "1", {"n": 2**63}),
        Add("a", "1", {"n": True}),
        Add("a", "1", {"nope": 1}),
        Add("a", "1", {"x": 1e308}),
        Add("a", "1", {"id": 1}),
    ],
)
def test_an_operation_that_does_not_fit_its_table_is_refused(bad: Operation) -> None:
    row = {"id": "1", "n": 1, "x": 1e308, "t": ""}
    for todo in ([bad], [Insert("b", {"id": "1"}), bad]):
        with pytest.raises(BadOperation):
            apply(todo, SCHEMA, lambda table, key: row if (table, key) == ("a", "1") else None, 9)


def test_an_insert_and_a_delete_of_one_row_leave_no_trace() -> None:
    assert apply([Insert("a", {"id": "1"}), Delete("a", "1")], SCHEMA, lambda *_: None, 1) == []


def test_an_update_may_name_the_key_that_the_row_has() -> None:
    row: dict[str, Any] = {"id": "1", "n": 1, "x": 0.0, "t": ""}
    [change] = apply([Update("a", "1", {"id": "1", "n": 2})], SCHEMA, lambda *_: row, 1)
    assert change.after == {**row, "n": 2}


def test_no_operations_change_nothing() -> None:
    assert apply([], SCHEMA, lambda *_: None, 1) == []
