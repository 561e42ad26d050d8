"""What was committed here and has not come back from the server: in memory, and on disk if the session has a name.

What belongs here: pending events as they are shown and kept, and what becomes of them when the store's log is another
one. What is pending, and under which numbers, is said by the session's machine.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..core.agent_schema import agent_schema
from ..core.errors import AgentStoreError
from ..core.events import Event, Wire, wire
from ..store import Draft, draft
from ..store.door import fit
from .sync import Rejected
from .values import DOOR

if TYPE_CHECKING:
    from .journal import Journal
    from .replica import Replica


class Outbox:
    """The pending events of a session. Not safe by itself: the session's lock is.

    Args:
        user: whom pending events are shown to be by.
        journal: of a named session.

    Attributes:
        client_id: of the session.
        session_id: likewise.
        shown: what is pending, with when it was committed and by whom.
        aside: what was pending on another log, until it can be seen what of it fits the new one.
        log: the name of the log that pending events are on; None if it is not known.
    """

    def __init__(self, user: str, journal: Journal | None) -> None:
        self.shown: list[Event] = []
        self.aside: list[Wire] = [] if journal is None else list(journal.aside)
        self.log = None if journal is None else journal.header.backendId
        self._user = user
        self._journal = journal
        if journal is None:
            self.client_id, self.session_id = f"kernel-{secrets.token_hex(6)}", secrets.token_hex(8)
        else:
            self.client_id, self.session_id = journal.header.clientId, journal.header.sessionId

    @property
    def on_disk(self) -> bool:
        """Whether it survives this process."""
        return self._journal is not None

    def recovered(self, log: str | None) -> Sequence[Wire]:
        """What an earlier process left pending on this log; the rest is aside."""
        pending = () if self._journal is None else tuple(self._journal.pending)
        if log is not None and self.log not in (None, log):
            self.aside += pending  # it ended after it had joined another log, and before that was noted
            return ()
        return pending

    def number(self, drafts: Sequence[Draft], head: int) -> list[Wire]:
        """Events as they will be pending after ``head``.

        Raises:
            TooLarge: one of them is over its limit.
        """
        client, session = self.client_id, self.session_id
        wires = []
        for seq, one in enumerate(drafts, head + 1):
            wire(one.name, one.args, seq, client, session)  # for its size
            wires.append(Wire(one.name, msgspec.Raw(one.args.encode()), seq, seq - 1, client, session))
        return wires

    # on disk; each raises OSError if the disk does not take it, and has then changed nothing

    def keep(self, events: Sequence[Wire]) -> None:
        """Have events that are about to be pending on disk."""
        if self._journal is not None:
            self._journal.add(events)

    def write(self, log: str | None, pending: Sequence[Wire], aside: Sequence[Wire] | None = None) -> None:
        """Have all of it on disk as it is now."""
        aside = self.aside if aside is None else list(aside)
        if self._journal is not None:
            self._journal.write(log, pending, aside)
        self.log, self.aside = log, aside

    def done(self, count: int, *, left: int) -> None:
        """The first ``count`` have come back from the server."""
        if self._journal is not None:
            self._journal.done(count, left=left)

    def close(self) -> None:
        """Let go of the file."""
        if self._journal is not None:
            self._journal.close()

    # as it is shown

    def add(self, events: Sequence[Wire]) -> list[Event]:
        """These are pending now, too; as they are shown."""
        now = _now()
        shown = [self._event(event, now) for event in events]
        self.shown += shown
        return shown

    def show(self, pending: Sequence[Wire]) -> None:
        """Have these pending in place of what was, with its times as far as they reach."""
        now = _now()
        times = [event.recorded_at for event in self.shown[: len(pending)]]
        times += [now] * (len(pending) - len(times))
        self.shown = [self._event(event, at) for event, at in zip(pending, times, strict=True)]

    def _event(self, event: Wire, at: int) -> Event:
        text = bytes(event.args).decode()
        body = wire(event.name, text, event.seqNum, event.clientId, event.sessionId)
        return Event(event.seqNum, at, self._user, body)

    # on another log

    def sort(self, replica: Replica) -> tuple[list[Draft], list[Rejected]]:
        """What of that which is aside fits these tables, and what does not, with the reason."""
        own: set[tuple[str, str]] = set()

        def there(table: str, key: str) -> bool:
            return (table, key) in own or replica.row(table, key) is not None

        fitting: list[Draft] = []
        rejected: list[Rejected] = []
        for event in self.aside:
            args = json.loads(bytes(event.args))
            try:
                one = draft(agent_schema, event.name, args, door=DOOR)
                own |= fit(agent_schema, [one], there, there).keys()
                fitting.append(one)
            except AgentStoreError as error:
                rejected.append(Rejected(event.name, args, error.message))
        return fitting, rejected


def _now() -> int:
    return time.time_ns() // 1_000_000
