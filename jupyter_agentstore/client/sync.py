"""``store.sync``: how a store in a notebook stands towards its server, for people and programs to read.

What belongs here: the standing as a value, its history, and what a user can do about it. How it comes about is the
business of each way to a store.
"""

from __future__ import annotations

import html
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

Status = Literal["synced", "sending", "joining", "offline", "refused", "local", "closed"]
"""How a store stands:

- ``synced``: connected, and the server has everything that was committed here;
- ``sending``: connected, and some events are on their way;
- ``joining``: the store's events are being fetched;
- ``offline``: no connection; commits are kept and sent later;
- ``refused``: the server does not take what is pending, and ``error`` says why: see :meth:`Sync.retry`;
- ``local``: there is no server, the store is in this process or its neighbour;
- ``closed``: the store was closed.
"""

KEPT = 200
"""Entries of the history that are kept."""


@dataclass(frozen=True)
class Standing:
    """How a store stands at one moment.

    Attributes:
        status: see :data:`Status`.
        pending: events committed here that the server does not have.
        head: the last event of the server that is here, a sequence number.
        error: what is in the way, a sentence, or "".
        on_disk: whether what is pending survives this process.
    """

    status: Status
    pending: int = 0
    head: int = 0
    error: str = ""
    on_disk: bool = False


@dataclass(frozen=True)
class Entry:
    """Something that happened.

    Attributes:
        at: when, in UTC.
        what: a sentence.
    """

    at: datetime
    what: str


@dataclass(frozen=True)
class Rejected:
    """An event that was committed here and will never be in the store.

    Attributes:
        name: its type.
        args: its fields.
        reason: a sentence.
    """

    name: str
    args: dict[str, Any]
    reason: str


class Controls(Protocol):
    """What a way to a store lets its user do about its standing."""

    def standing(self) -> Standing:
        """How it stands now."""

    def retry(self) -> None:
        """Try again what failed."""

    def discard(self) -> int:
        """Give up what is pending; how many events that were."""

    def pause(self) -> None:
        """Go offline."""

    def resume(self) -> None:
        """Go online again, at once."""


class Sync:
    """How a store stands towards its server; ``store.sync``.

    Attributes:
        rejected: events committed here that will never be in the store, with the reason.
    """

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._history: deque[Entry] = deque(maxlen=KEPT)
        self.rejected: list[Rejected] = []

    @property
    def standing(self) -> Standing:
        """All of it as of one moment."""
        return self._controls.standing()

    @property
    def status(self) -> Status:
        """See :data:`Status`."""
        return self.standing.status

    @property
    def pending(self) -> int:
        """Events committed here that the server does not have yet."""
        return self.standing.pending

    @property
    def error(self) -> str:
        """What is in the way, a sentence, or ""."""
        return self.standing.error

    @property
    def history(self) -> Sequence[Entry]:
        """What has happened, the oldest first: connections, breaks, events set behind those of others."""
        return tuple(self._history)

    def retry(self) -> None:
        """Connect, or send what was refused, again and at once."""
        self._controls.retry()

    def discard(self) -> int:
        """Give up everything that is pending, as if it had never been committed.

        Returns:
            How many events that were.

        Raises:
            Conflict: they are just being sent, and may be in the store already.
        """
        return self._controls.discard()

    def pause(self) -> None:
        """Go offline until :meth:`resume`: commits are kept, and nothing is fetched."""
        self._controls.pause()

    def resume(self) -> None:
        """Go online again, at once."""
        self._controls.resume()

    def note(self, what: str) -> None:
        """Add a sentence to the history; for those who build on this package."""
        if not self._history or self._history[-1].what != what:
            self._history.append(Entry(datetime.now(UTC), what))

    def __repr__(self) -> str:
        return f"<Sync: {self._says()}>"

    def __str__(self) -> str:
        return "\n".join([self._says(), *(f"{entry.at:%H:%M:%S} {entry.what}" for entry in self.history)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{entry.at:%H:%M:%S}</td><td style='text-align:left'>{html.escape(entry.what)}</td></tr>"
            for entry in list(self._history)[-20:]
        )
        return f"<b>{html.escape(self._says())}</b><table>{rows}</table>"

    def _says(self) -> str:
        now = self.standing
        says = [now.status, f"event {now.head:,}"]
        if now.pending:
            says.append(f"{now.pending:,} pending")
        if self.rejected:
            says.append(f"{len(self.rejected):,} rejected")
        if now.error:
            says.append(now.error)
        return ", ".join(says)
