"""Rows as JSON values, and fields as the log gets them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.rows import iso, jsonable, written
from jupyter_agentstore.core.schema import MAX_TIME, MIN_TIME, Column, Table


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_001, "2023-11-14T22:13:20.001Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (MAX_TIME, "9999-12-31T23:59:59.999Z"),
        (MIN_TIME, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_are_iso_8601_with_milliseconds_and_z(milliseconds: int, text: str) -> None:
    assert iso(milliseconds) == text


@given(st.integers(MIN_TIME, MAX_TIME))
def test_every_time_that_a_row_may_have_can_be_shown_and_read_back(milliseconds: int) -> None:
    text = iso(milliseconds)
    assert len(text) == 24
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000 == milliseconds


def test_a_rows_times_become_text_and_all_else_stays() -> None:
    table = Table("t", (Column("id", "id"), Column("at", "timestamp", nullable=True), Column("n", "integer")))
    row = {"id": "a", "at": 0, "n": 0}
    assert jsonable(table, row) == {"id": "a", "at": "1970-01-01T00:00:00.000Z", "n": 0}
    assert row["at"] == 0
    assert jsonable(table, {"id": "a", "at": None, "n": 0})["at"] is None


@pytest.mark.parametrize(
    ("name", "given", "log"),
    [
        ("ConversationUpdated", {"id": "c", "updatedAt": 1}, {"updatedAt": "1970-01-01T00:00:00.001Z"}),
        (
            "ConversationUpdated",
            {"id": "c", "updatedAt": "1970-01-02"},
            {"updatedAt": "1970-01-02T00:00:00.000Z"},
        ),
        ("ConversationUpdated", {"id": "c", "updatedAt": 0, "status": None}, {"updatedAt": iso(0)}),
        (
            "ConversationUpdated",
            {"id": "c", "updatedAt": 0, "status": "paused"},
            {"updatedAt": iso(0), "status": "paused"},
        ),
        (
            "ConversationCreated",
            {"id": "c", "userId": "ada", "title": "", "personality": None},
            {
                "userId": "ada",
                "title": "New Conversation",
                "personality": "helpful and friendly",
                "instructions": "Be helpful and accurate",
            },
        ),
        (
            "MessageAdded",
            {"id": "c", "conversationId": "c", "role": "user", "content": ""},
            {"conversationId": "c", "role": "user", "content": "", "metadata": None},
        ),
    ],
)
def test_fields_are_written_as_a_livestore_app_decodes_them(
    name: str, given: dict[str, Any], log: dict[str, Any]
) -> None:
    kind = agent_schema.events[f"v1.{name}"]
    assert written(kind, given, agent_schema.validate(kind.name, given)) == {"id": "c", **log}
