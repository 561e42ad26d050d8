"""A store in a Jupyter server whose tables are kept here too: reading asks nobody, writing waits for nobody.

What belongs here: the calls of a ``Link``, answered from this side's tables. How these keep up with the server is the
session's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.agent_schema import agent_schema
from ..core.errors import NotFound
from ..core.rows import jsonable
from ..state.query import Limits
from .link import Listener, Params, Receipt, Result, RowListener, State
from .session import Session
from .sync import Sync
from .values import drafts_of

if TYPE_CHECKING:
    import pyarrow

    from .remote import RemoteLink
    from .replica import Replica

LIMITS = Limits(seconds=600.0, rows=50_000_000, bytes=8_000_000_000)
"""Of a query in this process, which harms nobody else."""

MAX_MESSAGES = 1_000
"""Messages that are given at once."""


class SyncedLink:
    """A :class:`~jupyter_agentstore.client.link.Link` with tables of its own.

    Args:
        remote: the way to the server for what does not go over the websocket.
        replica: this side's tables.
        session: what keeps them in step.
    """

    def __init__(self, remote: RemoteLink, replica: Replica, session: Session) -> None:
        self.store_id = remote.store_id
        self.user = remote.user
        self._remote = remote
        self._replica = replica
        self._session = session

    @property
    def where(self) -> str:
        return self._remote.where

    @property
    def state(self) -> State:
        return self._session.state

    @property
    def sync(self) -> Sync:
        return self._session.sync

    # in

    def commit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        commit_id: str,
        *,
        patience: float | None = None,
    ) -> Receipt:
        return self._session.commit(drafts_of(agent_schema, events))

    def load(self, events: Sequence[tuple[str, Mapping[str, Any]]], commit_id: str) -> Receipt:
        self.flush(self._remote.patience)
        receipt = self._remote.commit(events, commit_id)
        self._session.await_head(receipt.head, self._remote.patience)
        return receipt

    def flush(self, timeout: float) -> None:
        self._session.flush(timeout)

    # out

    def query(self, sql: str, params: Params = None) -> Result:
        self._session.check_open()
        return Result(self._replica.query(sql, params, LIMITS))

    def tables_of(self, sql: str) -> frozenset[str] | None:
        return self._replica.tables_of(sql)

    def table(self, name: str) -> pyarrow.Table:
        self._session.check_open()
        return self._replica.table(name)

    def messages(
        self, conversation: str, *, after: int | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        self._session.check_open()
        kind = agent_schema.tables["messages"]
        limit = min(limit, MAX_MESSAGES)
        rows = self._replica.tail("messages", conversation, after=after, limit=limit)
        return [jsonable(kind, row) for row in rows]

    def row(self, table: str, key: str) -> dict[str, Any] | None:
        self._session.check_open()
        if table not in agent_schema.tables:
            raise NotFound(f"There is no table {table!r}.")
        row = self._replica.row(table, key)
        return None if row is None else jsonable(agent_schema.tables[table], row)

    def status(self) -> dict[str, Any]:
        self._session.check_open()
        return dict(self._replica.status())

    def listen(self, listener: Listener) -> Callable[[], None]:
        return self._session.events.add(listener)

    def watch(self, listener: RowListener) -> Callable[[], None]:
        return self._session.rows.add(listener)

    # others

    def announce(self, state: Mapping[str, Any] | None) -> None:
        self._session.announce(state)

    def present(self) -> list[dict[str, Any]]:
        return self._session.present()

    def close(self) -> None:
        self._session.close()
