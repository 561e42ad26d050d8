"""What holds of following a store in a server."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from jupyter_agentstore.client import connect, live
from tests.client.jupyter import TOKEN, Jupyter, until


def stores(jupyter: Jupyter) -> list[str]:
    with jupyter.http() as http:
        return [store["id"] for store in http.get("/agentstore/stores").json()["stores"]]


def test_whoever_only_reads_makes_no_store_and_sees_its_first_event(jupyter: Jupyter) -> None:
    name = f"only-read-{uuid.uuid4().hex[:8]}"
    with (
        connect(name, url=jupyter.url, token=TOKEN) as reader,
        connect(name, url=jupyter.url, token=TOKEN) as writer,
    ):
        counts: list[int] = []
        looked: list[None] = []
        link: Any = reader.link
        head = link.head
        link.head = lambda: (looked.append(None), head())[1]
        reader.subscribe("conversations", lambda frame: counts.append(len(frame)))
        assert len(reader.df("messages")) == 0
        until(lambda: len(looked) >= 3)
        assert reader.status()["connection"] == "connected"
        assert name not in stores(jupyter)
        writer.conversation(title="The first")
        until(lambda: counts[-1] == 1)
        assert name in stores(jupyter)
        writer.conversation(title="The second")
        until(lambda: counts[-1] == 2)


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"x","args":{"a":"\\ud83d"},"seqNum":7}',
        '{"name":"x","args":{"\\udc00":["\\ud83d\\ud83d\\ude00"]},"seqNum":7}',
        '{"name":"x","args":{"a":"\\ud83d\\ude00 ü"},"seqNum":7}',
    ],
)
def test_a_page_with_escapes_of_half_emojis_is_read(body: str) -> None:
    item = f'{{"eventEncoded":{body},"metadata":{{"_tag":"Some","value":{{"actor":"ada"}}}}}}'
    frame = live._read(f'{{"_tag":"Chunk","requestId":"1","values":[{{"batch":[{item}],"backendId":"b"}}]}}')
    (read,) = frame.values[0].batch
    assert json.loads(bytes(read.eventEncoded)) == json.loads(body)
    assert live._number(bytes(read.eventEncoded)) == 7


@pytest.mark.parametrize("text", ['{"_tag":', '{"_tag":"Chunk","values":[7]}', '"\\ud83d"', "[]"])
def test_what_is_no_frame_is_an_error_and_not_a_page(text: str) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError, AttributeError)):
        live._read(text)
