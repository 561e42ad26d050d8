"""A store to talk in, responders that do as they are told, and waiting for what happens without sleeping."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jupyter_agentstore.agent import Reply, Request, Responder, Runtime, Simulated
from jupyter_agentstore.core.events import Wire, encode_args
from jupyter_agentstore.store import Registry, Store, draft

PATIENCE = 60


async def within(work: Awaitable[Any]) -> Any:
    """What is awaited, or an error that says where it hung."""
    async with asyncio.timeout(PATIENCE):
        return await work


class Room:
    """A store in which a test talks and waits."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.shown: list[tuple[bool, str | None]] = []
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify(*_: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._news.set)

        store.on_rows(notify)
        set_agent = store.set_agent

        def show(*, isThinking: bool, currentTask: str | None) -> None:
            set_agent(isThinking=isThinking, currentTask=currentTask)
            self.shown.append((isThinking, currentTask))
            notify()

        store.set_agent = show  # type: ignore[method-assign]

    async def commit(self, *events: tuple[str, dict[str, Any]], actor: str = "ann") -> None:
        drafts = [draft(self.store.schema, f"v1.{name}", args, door="rest") for name, args in events]
        await within(asyncio.wrap_future(self.store.commit(drafts, actor=actor)))

    async def create(self, *ids: str) -> None:
        await self.commit(*(("ConversationCreated", {"id": id, "userId": "ann", "title": id}) for id in ids))

    async def say(
        self,
        id: str,
        conversation: str,
        content: str = "Hello",
        *,
        role: str = "user",
        actor: str = "ann",
        **about: Any,
    ) -> None:
        await self.commit(message(id, conversation, content, role=role, **about), actor=actor)

    async def set_status(self, conversation: str, status: str) -> None:
        await self.commit(("ConversationUpdated", {"id": conversation, "updatedAt": 0, "status": status}))

    async def push(self, name: str, args: dict[str, Any]) -> None:
        head = self.store.head
        raw = encode_args(args).encode()
        import msgspec

        wire = Wire(f"v1.{name}", msgspec.Raw(raw), head + 1, head, "phone", "s1")
        await within(asyncio.wrap_future(self.store.push([wire], actor="ann", backend_id=None)))

    def messages(self, conversation: str) -> list[dict[str, Any]]:
        return self.store.tail("messages", conversation)

    def replies(self, conversation: str) -> list[dict[str, Any]]:
        return [m for m in self.messages(conversation) if m["actor"].startswith("agent:")]

    def answered(self, conversation: str) -> list[str]:
        """The ids of the messages that the agent's replies say they answer, in order."""
        return [json.loads(reply["metadata"])["replyTo"] for reply in self.replies(conversation)]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self._news.wait()
                self._news.clear()


class Scripted:
    """Answers each request as soon as the test lets it."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Asked] = asyncio.Queue()

    async def reply(self, request: Request) -> Reply:
        asked = Asked(request)
        self.asked.put_nowait(asked)
        try:
            return await asked.answer
        except asyncio.CancelledError:
            asked.cancelled.set()
            raise

    async def next(self) -> Asked:
        async with asyncio.timeout(PATIENCE):
            return await self.asked.get()


class Asked:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.cancelled = asyncio.Event()

    async def dropped(self) -> None:
        """Wait until nobody wants the answer any more."""
        await within(self.cancelled.wait())

    @property
    def waiting(self) -> list[str]:
        return [message["id"] for message in self.request.waiting]

    def say(self, content: str = "Certainly.", **metadata: Any) -> None:
        self.answer.set_result(Reply(content, metadata))

    def fail(self, error: Exception) -> None:
        self.answer.set_exception(error)


def message(id: str, conversation: str, content: str = "Hello", *, role: str = "user", **about: Any) -> Any:
    metadata = json.dumps(about) if about else None
    args = {"id": id, "conversationId": conversation, "role": role, "content": content, "metadata": metadata}
    return "MessageAdded", args


@asynccontextmanager
async def serving(
    registry: Registry, responder: Responder | None = None, **settings: Any
) -> AsyncIterator[Runtime]:
    """A runtime that serves while the block lasts."""
    runtime = Runtime(registry, responder or Simulated((0, 0)), **settings)
    await runtime.start()
    try:
        yield runtime
    finally:
        await within(runtime.stop())


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(None)
    yield registry
    registry.close()
