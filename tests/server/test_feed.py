"""News of a store for the connections of one loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.server.feed import Feeds
from jupyter_agentstore.store import Registry, draft


def test_who_comes_between_a_reset_and_its_news_is_given_nothing_of_the_old_log(tmp_path: Path) -> None:
    stores = Registry(tmp_path, agent_schema)

    async def look() -> None:
        store = stores.get("s", create=True)
        told = asyncio.Event()
        feed = Feeds().of(store)
        end = feed.follow(lambda head, events: told.set())
        said = {"id": "k", "userId": "ada"}
        store.commit([draft(agent_schema, "v1.ConversationCreated", said, door="test")], actor="ada")
        await told.wait()
        old = store.backend_id
        assert [event.seq for event in feed.page(old, 0, 10, 1_000)] == [1]
        reset = threading.Thread(target=stores.reset, args=("s",))
        reset.start()
        reset.join()  # the loop has no turn meanwhile
        assert store.backend_id != old
        assert not feed.page(store.backend_id, 0, 10, 1_000)
        await asyncio.sleep(0)
        assert not feed.page(old, 0, 10, 1_000)
        end()

    try:
        asyncio.run(look())
    finally:
        stores.close()
