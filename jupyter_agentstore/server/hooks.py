"""A deployment's own functions that see what is written and what is synced, and may refuse it.

What belongs here: what such a function is told, and what becomes of what it raises. Who may do what at all is said by
Jupyter's authorizer.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..core.errors import AgentStoreError, InvalidEvent
from ..core.events import Decoded, Wire, decode, wire

if TYPE_CHECKING:
    from ..store import Draft
    from .host import Host

_log = logging.getLogger(__name__)


class PushInfo(msgspec.Struct, frozen=True, dict=True):
    """Events that are about to be written.

    Attributes:
        store_id: of the store, as the caller spells it.
        actor: the authenticated user.
        count: how many events.
        door: ``sync`` for a push, ``rest`` for a commit over REST.
    """

    store_id: str
    actor: str
    count: int
    door: Literal["sync", "rest"]
    _batch: Sequence[Wire | Draft]

    def __repr__(self) -> str:  # goes into logs, where the events' text has no business
        return f"<{self.count} events of {self.actor!r} for {self.store_id!r}, by {self.door}>"

    @cached_property
    def client_ids(self) -> frozenset[str]:
        """What the events say of where they come from."""
        return frozenset(e.clientId if isinstance(e, Wire) else e.client_id for e in self._batch)

    @cached_property
    def events(self) -> Sequence[Decoded | None]:
        """The events: ``name``, ``args``, ``clientId``, ``sessionId``; None for one whose ``args`` are no object."""
        return [_decoded(event) for event in self._batch]


class PullInfo(msgspec.Struct, frozen=True):
    """Events or tables that are about to be sent.

    Attributes:
        store_id: of the store, as the caller spells it.
        actor: the authenticated user.
        kind: ``pull`` for events, ``snapshot`` for a copy of the tables, ``watch`` for who is there and what the
            agent does.
        cursor: a pull's: the last event that the client has, or 0.
        live: whether what comes later is sent, too.
    """

    store_id: str
    actor: str
    kind: Literal["pull", "snapshot", "watch"]
    cursor: int = 0
    live: bool = False


PushHook = Callable[[PushInfo], Awaitable[None] | None]
PullHook = Callable[[PullInfo], Awaitable[None] | None]


class Hooks:
    """The functions that are configured.

    Args:
        host: whose threads run those that are not ``async``.
        on_push: called before events are written.
        on_pull: called before events or tables are sent.
    """

    def __init__(self, host: Host, on_push: PushHook | None, on_pull: PullHook | None) -> None:
        self._host = host
        self._on_push = on_push
        self._on_pull = on_pull

    async def push(
        self, store_id: str, actor: str, batch: Sequence[Wire | Draft], door: Literal["sync", "rest"]
    ) -> None:
        """Ask whether events may be written.

        Raises:
            AgentStoreError: they may not.
        """
        if self._on_push is not None:
            await self._call(self._on_push, PushInfo(store_id, actor, len(batch), door, batch))

    async def pull(self, info: PullInfo) -> None:
        """Ask whether events or tables may be sent.

        Raises:
            AgentStoreError: they may not.
        """
        if self._on_pull is not None:
            await self._call(self._on_pull, info)

    @property
    def pulls(self) -> bool:
        """Whether anybody asks about pulls."""
        return self._on_pull is not None

    @property
    def pushes(self) -> bool:
        """Whether anybody asks about pushes."""
        return self._on_push is not None

    async def _call(self, hook: Callable[[Any], Any], info: PushInfo | PullInfo) -> None:
        try:
            if inspect.iscoroutinefunction(hook):
                await hook(info)
            elif inspect.isawaitable(given := await self._host.ask(hook, info)):
                await given
        except AgentStoreError:
            raise
        except Exception:
            _log.exception("A hook of this deployment failed on %r.", info)
            raise AgentStoreError(
                "The server could not ask its deployment whether this may be done; its log says why."
            ) from None


def _decoded(event: Wire | Draft) -> Decoded | None:
    try:
        if isinstance(event, Wire):
            return decode(wire(event.name, bytes(event.args).decode(), 1, event.clientId, event.sessionId))
        return decode(wire(event.name, event.args, 1, event.client_id, event.session_id))
    except InvalidEvent:
        return None
