"""Events for states, a schema that does what its events say, and what tests ask of tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from jupyter_agentstore.core.events import Event, Meta, wire
from jupyter_agentstore.core.operations import Add, Delete, Insert, Operation, Update, Upsert
from jupyter_agentstore.core.rows import jsonable
from jupyter_agentstore.core.schema import Column, EventType, Field, Schema, Table
from jupyter_agentstore.duck import Instance, alias_of
from jupyter_agentstore.state.state import State

BACKEND = "backend"
KINDS = {"insert": Insert, "upsert": Upsert, "update": Update, "add": Add, "delete": Delete}


def event(seq: int, name: str, args: Any, *, actor: str = "ann", session: str = "s") -> Event:
    """An event as a log would have it; ``args`` may be JSON text already."""
    text = args if isinstance(args, str) else json.dumps(args)
    body = wire(name, text, seq, "server" if session.startswith("commit:") else "client", session)
    return Event(seq, 1_700_000_000_000 + seq, actor, body)


def created(seq: int, id: str = "c1", **more: Any) -> Event:
    """A conversation begins."""
    return event(seq, "v1.ConversationCreated", {"id": id, "userId": "u", **more})


def said(seq: int, id: str, content: str = "hello", conversation: str = "c1", **more: Any) -> Event:
    """Somebody says something."""
    args = {"id": id, "conversationId": conversation, "role": "user", "content": content, **more}
    return event(seq, "v1.MessageAdded", args)


def do(seq: int, *operations: Sequence[Any], **more: Any) -> Event:
    """An event of :func:`puppet`, whose materializer does as it is told: ``("insert", "things", {…})``."""
    return event(seq, "do", {"operations": json.dumps(operations)}, **more)


def _as_told(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    made: list[Operation] = []
    for kind, *arguments in json.loads(fields["operations"]):
        if kind == "raise":
            raise RuntimeError(arguments[0])
        if kind == "surrogate":
            made.append(Insert("things", {"id": arguments[0], "owner": "\ud83d", "amount": 0.5}))
        elif kind == "line":
            row = {"id": arguments[0], "thing": arguments[1], "seq": meta.seq, "text": meta.actor}
            made.append(Insert("lines", row))
        elif kind == "nothing":
            return None  # type: ignore[return-value]
        else:
            made.append(KINDS[kind](*arguments))
    return made


def puppet(version: int = 1, **more: Any) -> Schema:
    """A schema with one event, which says what is done to two tables."""
    things = Table(
        "things",
        (
            Column("id", "id"),
            Column("owner", "text", "nobody"),
            Column("amount", "number", 0.0),
            Column("count", "integer", 0),
            Column("since", "timestamp", nullable=True),
            Column("open", "boolean", default=True),
            *more.get("columns", ()),
        ),
        tally="owner",
        sized=True,
    )
    lines = Table(
        "lines",
        (
            Column("id", "id"),
            Column("thing", "id", nullable=True),
            Column("seq", "integer", nullable=True),
            Column("text", "text", ""),
        ),
        group="thing",
        sized=True,
    )
    return Schema(version, (things, lines), (EventType("do", (Field("operations", "json"),), _as_told),))


def open_state(
    instance: Instance,
    schema: Schema,
    folder: Path | None = None,
    *,
    head: int = 10**9,
    backend: str = BACKEND,
) -> State:
    """A state; one with a folder has an alias that belongs to the folder."""
    return State.open(instance, folder, alias_of(str(folder or uuid4())), schema, backend, head)


def query(state: State, sql: str) -> list[tuple[Any, ...]]:
    """What a reader finds once everything is written."""
    state.flush()
    with state.reader() as cursor:
        return cursor.execute(sql).fetchall()


def contents(state: State) -> dict[str, Any]:
    """Everything that the tables hold, in an order that says nothing of how it came about; and the counters."""
    names = [*state.schema.tables, "events", "anomalies", "agentstore_commits"]
    found: dict[str, Any] = {
        name: sorted(query(state, f'select * from "{name}"'), key=repr) for name in names
    }
    for name, table in state.schema.tables.items():
        found[f"count of {name}"] = state.count(name)
        if table.tally:
            found[f"tally of {name}"] = state.tally(name)
        if table.sized:
            found[f"size of {name}"] = state.size(name)
    return found


def recounted(state: State) -> dict[str, Any]:
    """The counters as the rows in the file say they should be, and what is counted."""
    found: dict[str, Any] = {}
    for name, table in state.schema.tables.items():
        rows = state.rows(name)
        found[f"count of {name}"] = len(rows)
        if table.tally:
            found[f"tally of {name}"] = dict(
                Counter(row[table.tally] for row in rows if row[table.tally] is not None)
            )
        if table.sized:
            found[f"size of {name}"] = sum(len(msgspec.json.encode(jsonable(table, row))) for row in rows)
    return found
