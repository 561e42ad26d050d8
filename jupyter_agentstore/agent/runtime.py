"""The agent at work: in every store that is open, each message that waits gets one reply.

What belongs here: which stores are served, and the beginning and the end. The work in a store is its desk's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..core.agent_schema import AGENT
from ..store import Registry, Store
from .desk import Desk, Service
from .responder import Responder

_log = logging.getLogger(__name__)

_NEEDED = frozenset({"conversations", "messages", "conversationMemory", "pendingReplies"})
_THREADS = 8


class Runtime:
    """Replies in the stores of a registry, on the event loop that :meth:`start` is called on.

    Two runtimes may serve the same stores: each message is answered once all the same.

    Args:
        registry: whose stores to serve, each as soon as it is opened or woken.
        responder: writes the replies.
        concurrency: how many conversations are served at once, at least 1.
        name: the agent's; the actor of its replies is ``agent:<name>``.
        retry: the shortest and the longest wait after a failure, in seconds. It doubles in between; a new message
            in the conversation ends it.
        patience: how long a reply may take, in seconds, before that counts as a failure.
        wake: open the stores in which replies are owed from before. A server does; a notebook's process opens the
            stores that it is asked for, and leaves others to whoever serves them.
    """

    def __init__(
        self,
        registry: Registry,
        responder: Responder,
        *,
        concurrency: int = 32,
        name: str = "simulated",
        retry: tuple[float, float] = (1.0, 300.0),
        patience: float = 300.0,
        wake: bool = True,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"The concurrency {concurrency} is not positive.")
        self._registry = registry
        self._responder = responder
        self._concurrency = concurrency
        self._actor = f"{AGENT}{name}"
        self._retry = retry
        self._patience = patience
        self._service: Service | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._desks: dict[str, Desk] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._wake = wake
        self._waking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. Stores in which replies wait are opened in the background, if that is wanted.

        Raises:
            RuntimeError: it is running already, or was stopped.
        """
        if self._pool is not None:
            raise RuntimeError("A runtime can be started once.")
        loop = asyncio.get_running_loop()
        pool = self._pool = ThreadPoolExecutor(
            min(_THREADS, self._concurrency + 2), thread_name_prefix="agentstore-agent"
        )

        async def call(function: Callable[..., Any], /, *args: Any) -> Any:
            return await loop.run_in_executor(pool, function, *args)

        slots = asyncio.Semaphore(self._concurrency)
        self._service = Service(self._responder, self._actor, slots, call, loop, self._retry, self._patience)
        self._registry.on_wake(self._woken)
        if self._wake:
            self._waking = loop.create_task(self._wake_unfinished())

    async def stop(self) -> None:
        """End: nothing more is answered. What waits is answered by whoever opens the store next."""
        service, self._service = self._service, None
        if service is None or self._pool is None:
            return
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        await asyncio.gather(*(desk.close() for desk in self._desks.values()), *self._closing)
        self._desks.clear()
        await asyncio.to_thread(self._pool.shutdown)

    async def _wake_unfinished(self) -> None:
        """Open the stores in which replies wait; being opened, they are served."""
        service = self._service
        assert service is not None
        try:
            ids = await service.call(self._registry.unfinished)
        except Exception:
            _log.exception("Which stores wait for replies could not be read.")
            return
        for store_id in ids:
            try:
                await service.call(partial(self._registry.get, store_id, create=False))
            except Exception as error:
                _log.warning("%s, in which replies wait, could not be opened: %s", store_id, error)

    def _woken(self, store: Store) -> None:
        """In any thread: a store was opened or woken."""
        service = self._service
        if service is not None:
            try:
                service.loop.call_soon_threadsafe(self._serve, store)
            except RuntimeError:  # the loop was closed without stopping the runtime
                self._service = None

    def _serve(self, store: Store) -> None:
        if self._service is None or not store.schema.tables.keys() >= _NEEDED:
            return
        desk = self._desks.get(store.id)
        if desk is None or desk.store is not store:
            if desk is not None:  # its store was closed; there is nothing to do but to let go
                closing = self._service.loop.create_task(desk.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            desk = self._desks[store.id] = Desk(store, self._service)
        desk.scan()
