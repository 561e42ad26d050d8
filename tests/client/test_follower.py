"""What holds of a store in a server that is used without tables of one's own."""

from __future__ import annotations

import uuid

from jupyter_agentstore.client import connect
from tests.client.jupyter import TOKEN, Jupyter, until


def test_the_first_event_of_a_new_store_is_heard_at_once(jupyter: Jupyter) -> None:
    name = f"first-{uuid.uuid4().hex[:8]}"
    with (
        connect(name, url=jupyter.url, token=TOKEN, replica=False) as reader,
        connect(name, url=jupyter.url, token=TOKEN, replica=False) as writer,
    ):
        counts: list[int] = []
        reader.subscribe("conversations", lambda frame: counts.append(len(frame)))
        assert len(reader.df("messages")) == 0
        until(lambda: reader.sync.status == "synced")
        writer.conversation(title="The first")
        until(lambda: counts[-1] == 1)
        writer.conversation(title="The second")
        until(lambda: counts[-1] == 2)
