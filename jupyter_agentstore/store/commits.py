"""What is handed to a store to be written: drafts of events, and what the store says once they are durable.

What belongs here: values, and the strict check of one event's fields. Whether an id is taken is known only to the
store as it stands; see ``door``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from ..core.events import Wire, encode_args
from ..core.rows import written
from ..core.schema import Schema

CLIENT = "server"
"""The ``clientId`` of everything that is committed by REST, from Python or by the agent."""

COMMIT = "commit:"
"""What the ``sessionId`` of events with a commit id begins with."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event before the log has given it a number.

    Attributes:
        name: its type.
        args: its fields, JSON text.
        fields: the declared fields, checked.
        client_id: goes into the log with it.
        session_id: likewise.
    """

    name: str
    args: str
    fields: Mapping[str, Any]
    client_id: str
    session_id: str


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """A commit is durable.

    Attributes:
        seqs: the numbers of its events.
        head: the log's head when it was answered.
        repeated: the same commit id with the same content was there already; ``seqs`` are the first one's.
    """

    seqs: range
    head: int
    repeated: bool = False


class Commit:
    """A strict commit in the writer's queue."""

    __slots__ = ("actor", "commit_id", "drafts", "future")

    def __init__(self, drafts: Sequence[Draft], actor: str, commit_id: str | None) -> None:
        self.drafts = drafts
        self.actor = actor
        self.commit_id = commit_id
        self.future: Future[Receipt] = Future()


class Push:
    """A batch of a sync client in the writer's queue."""

    __slots__ = ("actor", "backend_id", "batch", "future")

    def __init__(self, batch: Sequence[Wire], actor: str, backend_id: str | None) -> None:
        self.batch = batch
        self.actor = actor
        self.backend_id = backend_id
        self.future: Future[int] = Future()


def draft(
    schema: Schema, name: str, args: Mapping[str, Any], *, door: str, commit_id: str | None = None
) -> Draft:
    """Check an event as every strict door does.

    Args:
        schema: the store's.
        name: its type.
        args: its fields.
        door: ``rest``, ``python`` or ``agent``; noted in the log as its session.
        commit_id: of the commit that it will be part of.

    Raises:
        InvalidEvent: with the name of the field at fault.
    """
    fields = schema.validate(name, args)
    session = f"{COMMIT}{commit_id}" if commit_id else door
    return Draft(name, encode_args(written(schema.events[name], args, fields)), fields, CLIENT, session)
