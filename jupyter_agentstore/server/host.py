"""What a server holds: its stores, its agent, and the threads that wait for them. Opened once, closed once.

What belongs here: the life of these things on the server's loop. Where they are configured is ``app``'s business, who
may reach them is ``base``'s.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..core.errors import NotFound, StoreClosed
from ..core.events import wire
from .feed import Feeds
from .hooks import Hooks, PullHook, PushHook
from .limits import Connections
from .presence import Hubs

if TYPE_CHECKING:
    from ..agent import Runtime
    from ..core.schema import Schema
    from ..state.query import Limits
    from ..store import Draft, Receipt, Registry, Store
    from .app import AgentStoreApp
    from .base import LocalIdentity

P = ParamSpec("P")
R = TypeVar("R")

_CALLS = 16
_COPIES = 2
_STOP_SECONDS = 10.0


class Host:
    """Stores and agent of one Jupyter server; ``self.settings["agentstore"]`` of its handlers.

    Nothing is opened before :meth:`start`, which the server calls once it is up, and the first request if it is
    faster.

    Args:
        app: the extension, with its configuration.
        identity: who shows the secret.
        open_stores: makes the registry; may block.
        open_runtime: makes the agent's runtime.
        open_limits: makes the limits of what one query may cost.
        queries: how many queries may run at once.
        body_bytes: the longest body of a request.
        connections: how many websockets there may be.
        user_connections: how many of one user.
        on_push: called before events are written.
        on_pull: called before events or tables are sent.
        log: the server's.

    Attributes:
        feeds: news of logs, for this server's websockets.
        hubs: who is there.
        connections: how many websockets there are.
        hooks: the deployment's own functions.
        secret: 64 hex digits; whoever shows them is the server's own user.
    """

    def __init__(
        self,
        app: AgentStoreApp,
        identity: LocalIdentity,
        open_stores: Callable[[], Registry],
        open_runtime: Callable[[Registry], Runtime],
        open_limits: Callable[[], Limits],
        queries: int,
        body_bytes: int,
        connections: int,
        user_connections: int,
        on_push: PushHook | None,
        on_pull: PullHook | None,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self.app = app
        self.identity = identity
        self._open_limits = open_limits
        self.body_bytes = body_bytes
        self.secret = secrets.token_hex(32)
        self.feeds = Feeds()
        self.hubs = Hubs()
        self.connections = Connections(connections, user_connections)
        self.hooks = Hooks(self, on_push, on_pull)
        self._open_stores = open_stores
        self._open_runtime = open_runtime
        self._log = log
        self._calls = ThreadPoolExecutor(_CALLS, "agentstore-call")
        self._queries = ThreadPoolExecutor(queries, "agentstore-query")
        self._copies = ThreadPoolExecutor(_COPIES, "agentstore-copy")
        self._foreign = ThreadPoolExecutor(_CALLS, "agentstore-hook")
        self._starting: asyncio.Task[None] | None = None
        self._stores: Registry | None = None
        self._runtime: Runtime | None = None
        self._nothing: Registry | None = None
        self._stand_in: Store | None = None
        self._spellings: dict[str, str] = {}
        self._stopped = False

    @property
    def stores(self) -> Registry:
        """All stores.

        Raises:
            StoreClosed: the server has not started, or is stopping.
        """
        if self._stores is None or self._stopped:
            raise StoreClosed("The server is stopping." if self._stopped else "The server has not started.")
        return self._stores

    @property
    def runtime(self) -> Runtime:
        """The agent.

        Raises:
            StoreClosed: the server has not started, or is stopping.
        """
        if self._runtime is None or self._stopped:
            raise StoreClosed("The server is stopping." if self._stopped else "The server has not started.")
        return self._runtime

    @cached_property
    def limits(self) -> Limits:
        """What one query may cost."""
        return self._open_limits()

    @property
    def ready(self) -> bool:
        """Whether stores can be used."""
        return self._runtime is not None and not self._stopped

    async def start(self) -> None:
        """Open what is needed to serve; the agent then wakes the stores that owe replies. Again is harmless."""
        if self.ready:
            return
        if self._stopped:
            raise StoreClosed("The server is stopping.")
        if self._starting is None or (self._starting.done() and not self.ready):
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        if self._stores is None:
            self._stores = await self.call(self._open_stores)
        runtime = self._open_runtime(self._stores)
        await runtime.start()
        self._runtime = runtime

    async def stop(self) -> None:
        """Finish what was begun and close everything; what was acknowledged is on disk."""
        if self._stopped:
            return
        self._stopped = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._runtime is not None:
            try:
                await asyncio.wait_for(self._runtime.stop(), _STOP_SECONDS)
            except Exception:
                self._log.exception("The agent did not stop in an orderly way.")
        for registry in (self._stores, self._nothing):
            if registry is not None:
                try:
                    await self.call(registry.close)
                except Exception:
                    self._log.exception("The stores were not closed in an orderly way.")
        for pool in (self._calls, self._queries, self._copies, self._foreign):
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- off the loop

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something that blocks for a short while in a thread."""
        return await self._run(self._calls, function, *args, **kwargs)

    async def query(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something that may take long in one of the few threads that there are for it."""
        return await self._run(self._queries, function, *args, **kwargs)

    async def copy(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Write a file that may be large; not where queries run, which would wait for all who wait for one copy."""
        return await self._run(self._copies, function, *args, **kwargs)

    async def ask(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a deployment's own function in a thread: if it takes its time, the stores need not wait for it."""
        return await self._run(self._foreign, function, *args, **kwargs)

    async def _run(
        self, pool: ThreadPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        try:
            future: Future[R] = pool.submit(function, *args, **kwargs)
        except RuntimeError:  # the pool was shut down
            raise StoreClosed("The server is stopping.") from None
        return await asyncio.wrap_future(future)

    # ---- stores

    async def open(self, store_id: str) -> Store:
        """The store with an id, made if it is not there."""
        return await self.call(partial(self.stores.get, store_id, create=True))

    async def find(self, store_id: str) -> Store:
        """The store with an id; one that is not there is empty, and reading it creates nothing."""
        try:
            return await self.call(partial(self.stores.get, store_id, create=False))
        except NotFound:
            return await self.call(self._empty)

    def is_there(self, store: Store) -> bool:
        """Whether what :meth:`find` gave is a store, and not the empty one in place of one that is not there."""
        return store is not self._stand_in

    def _empty(self) -> Store:
        from ..store import Registry

        if self._nothing is None:
            self._nothing = Registry(None, self.stores.schema, idle_seconds=3600.0)
        self._stand_in = self._nothing.get("nothing", create=True)
        return self._stand_in

    async def spelling(self, store_id: str) -> str:
        """A store's id as it was first spelled: what may be done with it must not depend on upper and lower case."""
        known = store_id.casefold()
        if known not in self._spellings:
            self._spellings = {name.casefold(): name for name in await self.call(self.stores.ids)}
        return self._spellings.get(known, store_id)

    async def commit(
        self, store_id: str, drafts: list[Draft], *, actor: str, commit_id: str | None = None
    ) -> Receipt:
        """Commit to a store, which is made if it is not there. Durable on return."""

        def put() -> Future[Receipt]:
            try:
                store = self.stores.get(store_id, create=False)
            except NotFound:
                refuse_first(self.stores.schema, drafts)
                store = self.stores.get(store_id, create=True)
            return store.commit(drafts, actor=actor, commit_id=commit_id)

        return await asyncio.wrap_future(await self.call(put))


def refuse_first(schema: Schema, drafts: Sequence[Draft]) -> None:
    """Refuse what an empty store would refuse, so that a refused commit leaves no store behind.

    Raises:
        Conflict, NotFound, TooLarge: as the store would.
    """
    from ..store.door import fit

    for draft in drafts:
        wire(draft.name, draft.args, 1, draft.client_id, draft.session_id)
    fit(schema, drafts, lambda table, key: False, lambda table, key: False)
