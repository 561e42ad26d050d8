"""What every way to a store offers the client: the ``Link`` protocol and the values that go through it.

What belongs here: declarations only. ``embedded`` and ``remote`` keep the promise, ``store`` and its neighbours rely
on it; nothing above this file knows which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..core.events import Event
from ..core.operations import RowChange
from .sync import Sync

if TYPE_CHECKING:
    import pyarrow

RowListener = Callable[[Sequence[RowChange] | None], None]
"""Called in a thread of the link's with rows that look different now, in the order of events; with None when it is
not known which ones do. It must return at once."""

State = Literal["connected", "connecting", "embedded", "closed"]
"""How a link stands: to a server (``connected``, or ``connecting`` again), in this process, or closed."""

Params = Sequence[Any] | Mapping[str, Any] | None
"""An SQL statement's parameters: by position for ``?``, by name for ``$name``."""

Listener = Callable[[Sequence[Event]], None]
"""Called in a thread of the link's with events that were just committed, and with none when the link's state has
changed or something may have been missed. It must return at once."""


@dataclass(frozen=True)
class Receipt:
    """What a commit got.

    Attributes:
        seqs: the sequence numbers of its events; of a session's they may still change, as long as they are pending.
        head: the store's head after it, or later, as it is seen here.
        repeated: whether an earlier attempt had got through already (nothing is committed twice).
    """

    seqs: range
    head: int
    repeated: bool = False


@dataclass(frozen=True)
class Result:
    """What a query got.

    Attributes:
        table: a ``pyarrow.Table``.
        stale: whether it comes from older tables, because newer ones are still being built.
    """

    table: pyarrow.Table
    stale: bool = False


class Link(Protocol):
    """A way to one store. Every method may be called from any thread and blocks until it has its answer."""

    @property
    def store_id(self) -> str:
        """The store's id."""

    @property
    def user(self) -> str:
        """Who this process says it is, for ``userId``; who a commit is *by* is the store's business."""

    @property
    def where(self) -> str:
        """Where the store is, for a person to read; no secrets."""

    @property
    def state(self) -> State:
        """How the link stands."""

    @property
    def sync(self) -> Sync:
        """The same and more, for the user."""

    def commit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        commit_id: str,
        *,
        patience: float | None = None,
    ) -> Receipt:
        """Commit events, all or none. They can be read on return; :meth:`flush` waits until the store has them.

        Args:
            events: name and fields of each.
            commit_id: sent again with the same events it does nothing and answers as the first time; a session, which
                sends everything once by itself, has no use for it.
            patience: seconds for which a server that does not answer is tried again, by those who wait for one;
                None for the usual time.

        Raises:
            AgentStoreError: refused, or (:class:`~jupyter_agentstore.core.errors.Unreachable`) no answer.
        """

    def load(self, events: Sequence[tuple[str, Mapping[str, Any]]], commit_id: str) -> Receipt:
        """Commit many events, all or none: durable on return, and done once however often it is asked for."""

    def flush(self, timeout: float) -> None:
        """Wait until the store has everything that was committed here, durably.

        Raises:
            Unreachable: it has not, after ``timeout`` seconds.
            AgentStoreError: the server refuses it.
        """

    def query(self, sql: str, params: Params = None) -> Result:
        """Run one read-only statement on the tables as of everything committed so far."""

    def table(self, name: str) -> pyarrow.Table:
        """A whole table."""

    def messages(
        self, conversation: str, *, after: int | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        """A conversation's last messages or, with ``after``, the first ones past that ``seq``; times as text.

        At most 1,000, and fewer when they are long.
        """

    def row(self, table: str, key: str) -> dict[str, Any] | None:
        """The row with a primary key, times as text; None if there is none."""

    def status(self) -> dict[str, Any]:
        """Counts, and what the agent is doing."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have a listener called from now on; returns what ends that."""

    def watch(self, listener: RowListener) -> Callable[[], None]:
        """Have a listener called with rows that change from now on; returns what ends that."""

    def tables_of(self, sql: str) -> frozenset[str] | None:
        """The tables that a statement reads; None where that is not known."""

    def announce(self, state: Mapping[str, Any] | None) -> None:
        """Tell others who are connected something of this client, for as long as it is (None: nothing any more)."""

    def present(self) -> list[dict[str, Any]]:
        """What others who are connected tell of themselves: ``actor``, ``clientId``, ``sessionId``, ``state``."""

    def close(self) -> None:
        """Let go of the store. Again is harmless."""
