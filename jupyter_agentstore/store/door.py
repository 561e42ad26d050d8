"""The strict door: whether a commit's ids are free and what it refers to is there, as the log stands at this moment.

What belongs here: the writer thread's knowledge of keys that are in the log and not yet in the tables. The tables
follow the log, so they alone cannot answer; waiting for them at each commit would make commits slow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.errors import Conflict, NotFound
from .commits import Commit, Draft

if TYPE_CHECKING:
    from ..core.schema import Schema
    from ..eventlog import EventLog
    from .projector import Projector

_MANY = 50_000

Key = tuple[str, str]


class Door:
    """Checks commits; used by the writer thread alone."""

    def __init__(self, schema: Schema, log: EventLog, projector: Projector) -> None:
        self._schema = schema
        self._log = log
        self._projector = projector
        self._new: dict[Key, int] = {}  # rows that accepted events insert, with the event's number
        self._commits: dict[tuple[str, str], tuple[int, Sequence[Draft]]] = {}
        self._many = _MANY  # entries at which it is worth looking for those that can go
        # The last event of which only the tables know what it did: by the sync door, or written before this opening.
        self._unchecked = log.head

    def check(self, commit: Commit, head: int) -> tuple[int, int] | None:
        """Whether a commit may follow the event ``head`` (which may be one that is about to be written).

        Returns:
            None, or ``(first number, count)`` of the same commit made earlier.

        Raises:
            Conflict: an id is taken, or the commit id was used with other content.
            NotFound: it refers to what is not there.
        """
        if commit.commit_id is not None:
            waiting = self._commits.get((commit.actor, commit.commit_id))
            if waiting is not None:
                first, drafts = waiting
                _compare(commit, [(draft.name, draft.args) for draft in drafts])
                return first, len(drafts)
            self._catch_up()
            earlier = self._projector.state.commit_of(commit.actor, commit.commit_id)
            if earlier is not None:
                first, count = earlier
                _compare(commit, [_content(event.body) for event in self._log.read(first - 1, count)])
                return earlier
        own = fit(self._schema, commit.drafts, self._is_there, self._is_taken)
        self._new.update((key, head + place) for key, place in own.items())
        if commit.commit_id is not None:
            self._commits[commit.actor, commit.commit_id] = (head + 1, commit.drafts)
        return None

    def passed_unchecked(self, seq: int) -> None:
        """Events up to ``seq`` came in by the sync door: what they do is known once they are applied."""
        self._unchecked = seq

    def forget_after(self, head: int) -> None:
        """Nothing after ``head`` was written after all."""
        self._new = {key: seq for key, seq in self._new.items() if seq <= head}
        self._commits = {key: place for key, place in self._commits.items() if place[0] <= head}
        self._unchecked = min(self._unchecked, head)

    def forget_applied(self) -> None:
        """Let go of what the tables know by now."""
        applied = self._projector.applied
        # Should the tables have to start over, they are waited for again.
        self._unchecked = max(self._unchecked, min(applied, self._log.head))
        if applied >= self._log.head:
            self._new.clear()
            self._commits.clear()
        elif len(self._new) + len(self._commits) > self._many:
            self._new = {key: seq for key, seq in self._new.items() if seq > applied}
            self._commits = {key: place for key, place in self._commits.items() if place[0] > applied}
            self._many = max(_MANY, 2 * (len(self._new) + len(self._commits)))

    def _is_there(self, table: str, key: str) -> bool:
        if (table, key) in self._new or self._projector.state.has(table, key):
            return True
        if self._projector.applied >= self._log.head:
            return False
        self._projector.wait_applied(self._log.head)
        return self._projector.state.has(table, key)

    def _is_taken(self, table: str, key: str) -> bool:
        if (table, key) in self._new:
            return True
        self._catch_up()
        state = self._projector.state
        return state.has(table, key) and state.row(table, key) is not None

    def _catch_up(self) -> None:
        """Wait for what only the tables know of."""
        if self._unchecked > self._projector.applied:
            self._projector.wait_applied(self._log.head)


def fit(
    schema: Schema,
    drafts: Sequence[Draft],
    is_there: Callable[[str, str], bool],
    is_taken: Callable[[str, str], bool],
) -> dict[Key, int]:
    """Check whether events can follow, one after the other, what is there.

    Args:
        schema: theirs.
        drafts: the events of one commit.
        is_there: whether a table has a row, for those that an event refers to.
        is_taken: likewise, for those that an event makes.

    Returns:
        The rows that they make, each with the place of its event, from 1.

    Raises:
        Conflict: an id is taken.
        NotFound: an event refers to what is not there.
    """
    own: dict[Key, int] = {}
    for place, draft in enumerate(drafts, 1):
        kind = schema.events[draft.name]
        for table, field in kind.requires:
            key = draft.fields[field]
            if (table, key) not in own and not is_there(table, key):
                raise NotFound(_say("There is no", table, key, place, drafts), field=field)
        if kind.unique is not None:
            table, field = kind.unique
            key = draft.fields[field]
            if (table, key) in own or is_taken(table, key):
                raise Conflict(_say("There is already a", table, key, place, drafts), field=field)
            own[table, key] = place
    return own


def _say(what: str, table: str, key: str, place: int, drafts: Sequence[Draft]) -> str:
    """A sentence about a row, with the event's place if there are more."""
    row = (
        table[:-1]
        if table.endswith("s") and not table.endswith(("ss", "ies"))
        else f"row in {table} with the id"
    )
    where = "" if len(drafts) == 1 else f"Event {place}: "
    return f"{where}{what} {row} {key[:80]!r}."


def _compare(commit: Commit, earlier: Sequence[tuple[str, str]]) -> None:
    """Raise Conflict unless an earlier commit, given by names and arguments, had the same content."""
    if len(earlier) != len(commit.drafts) or any(
        draft.name != name or (draft.args != args and json.loads(draft.args) != json.loads(args))
        for draft, (name, args) in zip(commit.drafts, earlier, strict=True)
    ):
        raise Conflict(
            f"The commit id {str(commit.commit_id)[:80]!r} was used with other content.", field="commitId"
        )


def _content(body: str) -> tuple[str, str]:
    """An event's name and arguments, as JSON text."""
    event = json.loads(body)
    return event["name"], json.dumps(event["args"])
