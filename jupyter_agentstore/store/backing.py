"""What a store needs of whatever has its files: this process, or another one that is asked.

What belongs here: the contract, and what its two sides (``awake`` and ``guest``) have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..core.errors import StoreClosed
from ..core.operations import Row
from ..state.query import Limits
from .commits import Commit, Push

if TYPE_CHECKING:
    import pyarrow

    from ..core.events import Event
    from .snapshots import Snapshot

Params = Sequence[Any] | Mapping[str, Any] | None


class Answer(msgspec.Struct, frozen=True):
    """What a query gave.

    Attributes:
        table: the rows, a ``pyarrow.Table``.
        seq: the tables were as of this event.
        stale: they are being rebuilt, and this is from the old ones.
    """

    table: pyarrow.Table
    seq: int
    stale: bool


class Lost(Exception):
    """The process that has the store went away, or no longer has it; what was asked can be asked of the next."""


class Doubtful(StoreClosed):
    """Nobody knows whether it was done: the process that was to do it went away before it could say so."""


class Backing(Protocol):
    """An open store. What a call raises is said where a store's users call it.

    Any call may raise :class:`Lost`: then nothing is known to have been done.

    Attributes:
        own: whether the files are open in this process.
        backend_id: of the log.
        head: of the log, as far as is known here.
        progress: while the tables are rebuilt: ``(done, total)`` events; otherwise None.
        idle: whether nothing waits to be written.
    """

    @property
    def own(self) -> bool: ...

    @property
    def backend_id(self) -> str: ...

    @property
    def head(self) -> int: ...

    @property
    def progress(self) -> tuple[int, int] | None: ...

    @property
    def idle(self) -> bool: ...

    def refresh(self) -> None:
        """Make sure that it is there, and find out its head."""

    def put(self, entry: Commit | Push) -> None:
        """Have something written; its future says when it is."""

    def set_agent(self, document: Mapping[str, Any]) -> None: ...

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]: ...

    def row(self, table: str, key: str) -> Row | None: ...

    def tail(self, table: str, group: str, after: int | None, limit: int) -> list[Row]: ...

    def rows(
        self, table: str, where: Mapping[str, Any] | None, order: str | None, limit: int | None
    ) -> list[Row]: ...

    def count(self, table: str) -> int: ...

    def query(self, sql: str, params: Params, limits: Limits, at_least: int | None) -> Answer: ...

    def table(self, name: str) -> pyarrow.Table: ...

    def status(self, agent: Mapping[str, Any]) -> dict[str, Any]: ...

    def snapshot(self) -> Snapshot: ...
