"""The JSON of requests and answers: bodies, query strings, and the JSON Schema of what comes back.

What belongs here: declarations. The structs are what requests are checked against, and the OpenAPI description is
made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..core.limits import MAX_COMMIT_EVENTS, MAX_ID_CHARS
from ..core.schema import Table, Type

DEFAULT_STORE = "default-agent"
"""The store of calls that name none."""

Id = Annotated[
    str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_ID_CHARS, "pattern": "^[^\\u0000]*$"})
]
"""An id of an event. Its length is checked by the event's schema, which names the event too."""

Text = Annotated[str, Meta(extra_json_schema={"pattern": "^[^\\u0000]*$"})]

Said = Annotated[
    str,
    Meta(
        min_length=1,
        extra_json_schema={"pattern": "^[^\\u0000]*$"},
        description="Text with something in it.",
    ),
]

CommitId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID_CHARS,
        pattern="^[ -~]*$",
        description="Makes the call safe to repeat: sent again with the same content, it answers as the first time.",
    ),
]
Seq = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A JSON body; what it does not declare is refused."""


class NewConversation(Body, frozen=True, kw_only=True):
    """A conversation to begin."""

    userId: Said
    title: Text | None = None
    personality: Text | None = None
    instructions: Text | None = None
    id: Id | None = None
    commitId: CommitId | None = None


class Chat(Body, frozen=True, kw_only=True):
    """Something to say."""

    conversationId: Id
    content: Said
    role: Literal["user", "assistant", "system"] = "user"
    id: Id | None = None
    commitId: CommitId | None = None


class Facts(Body, frozen=True, kw_only=True):
    """Facts to remember about a conversation."""

    conversationId: Id
    facts: Annotated[list[Said], Meta(max_length=MAX_COMMIT_EVENTS)]
    commitId: CommitId | None = None


class NewEvent(Body, frozen=True, kw_only=True):
    """An event to commit."""

    name: str
    args: dict[str, Any]


class NewEvents(Body, frozen=True, kw_only=True):
    """Events to commit, all or none."""

    events: Annotated[list[NewEvent], Meta(min_length=1, max_length=MAX_COMMIT_EVENTS)]
    commitId: CommitId | None = None


class Query(Body, frozen=True, kw_only=True):
    """An SQL statement. ``atLeast``: the tables must hold the events up to there; without it, all of them."""

    sql: Text
    params: list[Any] | dict[str, Any] | None = None
    atLeast: Seq | None = None


class RowKey(msgspec.Struct, frozen=True, kw_only=True):
    """Which row."""

    table: str
    key: str


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages: the last ones, or with ``after`` the first ones past that sequence number."""

    conversationId: str
    after: Seq | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 200


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Which events: those past a sequence number."""

    after: Seq = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 200


BODIES = (NewConversation, Chat, Facts, NewEvent, NewEvents, Query)

# ---- JSON Schema of answers

Shape = Mapping[str, Any]

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": "integer", "minimum": 0}
FLAG: Shape = {"type": "boolean"}
TIME: Shape = {"type": "string", "format": "date-time"}

_COLUMNS: Mapping[Type, Shape] = {
    "text": TEXT,
    "id": TEXT,
    "json": TEXT,
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": FLAG,
    "timestamp": TIME,
}


def ref(name: str) -> Shape:
    """A named shape of the description's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Shape) -> Shape:
    """A list."""
    return {"type": "array", "items": items}


def nullable(shape: Shape) -> Shape:
    """The shape, or null."""
    return {"anyOf": [shape, {"type": "null"}]}


def record(optional: Mapping[str, Shape] | None = None, /, **properties: Shape) -> Shape:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
        "additionalProperties": False,
    }


def row(table: Table) -> Shape:
    """A row of a table as answers carry it."""
    return record(
        **{
            column.name: nullable(_COLUMNS[column.type]) if column.nullable else _COLUMNS[column.type]
            for column in table.columns
        }
    )
