from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jupyter_agentstore.agent import Request, Simulated


def request(*contents: str, facts: tuple[str, ...] = (), id: str = "m1") -> Request:
    messages = [{"id": f"{id}-{n}", "content": content} for n, content in enumerate(contents)]
    return Request({"id": "c1"}, messages, messages, facts)


async def say(*contents: str, **settings: Any) -> str:
    return (await Simulated((0, 0)).reply(request(*contents, **settings))).content


async def test_a_reply_mentions_the_message() -> None:
    assert "A mocha with oat milk" in await say("A mocha with oat milk")


async def test_a_reply_to_several_messages_mentions_each() -> None:
    content = await say("A mocha", "with oat milk")
    assert "A mocha" in content
    assert "with oat milk" in content


async def test_a_reply_mentions_facts_that_have_to_do_with_it_and_no_others() -> None:
    content = await say("A mocha, please", facts=("Mocha is her favourite.", "The office is upstairs."))
    assert content.endswith("I remember: Mocha is her favourite.")


async def test_the_same_message_gets_the_same_words_and_others_get_others() -> None:
    assert await say("Hi") == await say("Hi")
    assert len({await say("Hi", id=str(n)) for n in range(50)}) > 1


async def test_metadata_names_the_model_and_counts_tokens() -> None:
    reply = await Simulated((0, 0)).reply(request("Hi"))
    assert reply.metadata == {"model": "simulated", "tokens": len(reply.content.split())}


async def test_a_long_message_is_cut_at_a_word() -> None:
    content = await say("word " * 10_000)
    assert len(content) < 400
    assert "word…”" in content


@pytest.mark.parametrize("content", ["", "   ", "\n", "x" * 10_000, "😀" * 10_000, "\ud83d"])
async def test_any_text_is_answered(content: str) -> None:
    assert await say(content, id=content[:100])


async def test_a_message_is_waited_for_as_long_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for n in range(100):
        await Simulated().reply(request("Hi", id=str(n)))
    assert all(1 <= seconds <= 3 for seconds in waits)
    assert max(waits) - min(waits) > 1


@pytest.mark.parametrize("delay", [(-1, 1), (2, 1), (float("nan"), 1)])
def test_a_delay_that_is_none_is_refused(delay: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="delay"):
        Simulated(delay)
