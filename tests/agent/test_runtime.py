"""Which messages the agent answers, and that it answers each exactly once."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore.agent import Reply, Request, Runtime, Simulated
from jupyter_agentstore.agent.exchange import reply_id
from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import Rebuilding
from jupyter_agentstore.core.schema import Schema
from jupyter_agentstore.events import ConversationCreated, MessageAdded
from jupyter_agentstore.store import Registry, draft

from .conftest import Room, Scripted, message, serving


async def test_a_message_gets_a_reply_that_says_what_it_answers(registry: Registry) -> None:
    async with serving(registry, name="simulated"):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1", "A mocha, please")
        await room.until(lambda: room.replies("c1"))
    [reply] = room.replies("c1")
    assert (reply["id"], reply["role"], reply["actor"]) == (reply_id("m1"), "assistant", "agent:simulated")
    assert "A mocha, please" in reply["content"]
    tokens = len(reply["content"].split())
    assert json.loads(reply["metadata"]) == {"model": "simulated", "tokens": tokens, "replyTo": "m1"}


async def test_a_reply_and_the_touch_of_its_conversation_are_one_commit(registry: Registry) -> None:
    async with serving(registry):
        room = Room(registry.get("s", create=True))
        appended: list[list[str]] = []
        room.store.on_events(lambda events: appended.append([event.decode().name for event in events]))
        await room.create("c1")
        await room.say("m1", "c1")
        await room.until(lambda: room.replies("c1"))
    assert appended[-1] == ["v1.MessageAdded", "v1.ConversationUpdated"]
    events = room.store.read(2, 10)
    assert [(event.actor, event.decode().sessionId) for event in events] == [("agent:simulated", "agent")] * 2
    assert room.store.row("conversations", "c1")["updatedAt"] > 0  # type: ignore[index]


async def test_messages_that_wait_together_are_answered_together(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.set_status("c1", "paused")
        await room.commit(message("m1", "c1", "A mocha"), message("m2", "c1", "with oat milk"))
        await room.say("m3", "c1", "please")
        await room.set_status("c1", "active")
        asked = await script.next()
        assert asked.waiting == ["m1", "m2", "m3"]
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m3"])
    assert script.asked.empty()


async def test_a_message_sent_while_the_agent_is_busy_is_answered_afterwards(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        first = await script.next()
        await room.say("m2", "c1")
        await room.say("m3", "c1")
        first.say()
        second = await script.next()
        assert (first.waiting, second.waiting) == (["m1"], ["m2", "m3"])
        second.say()
        await room.until(lambda: room.answered("c1") == ["m1", "m3"])
    assert script.asked.empty()


@pytest.mark.parametrize("status", ["paused", "archived"])
async def test_only_active_conversations_are_served_others_once_they_are_active_again(
    registry: Registry, status: str
) -> None:
    script = Scripted()
    async with serving(registry, script, concurrency=1):
        room = Room(registry.get("s", create=True))
        await room.create("c1", "c2")
        await room.set_status("c1", status)
        await room.say("m1", "c1")
        await room.say("m2", "c2")
        asked = await script.next()
        assert asked.waiting == ["m2"]
        asked.say()
        await room.until(lambda: room.answered("c2") == ["m2"])
        await room.set_status("c1", "active")
        asked = await script.next()
        assert asked.waiting == ["m1"]
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m1"])


@pytest.mark.parametrize("status", ["paused", "archived"])
async def test_a_reply_under_way_is_dropped_when_its_conversation_is_halted(
    registry: Registry, status: str
) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        asked = await script.next()
        await room.set_status("c1", status)
        await asked.dropped()
        await room.say("m2", "c1")
        await room.set_status("c1", "active")
        asked = await script.next()
        assert asked.waiting == ["m1", "m2"]
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m2"])


async def test_a_reply_under_way_is_dropped_when_somebody_else_answers(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        asked = await script.next()
        await room.say("h1", "c1", "I'll take this one", role="assistant", actor="bob")
        await asked.dropped()
        await room.say("m2", "c1")
        asked = await script.next()
        assert asked.waiting == ["m2"]
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m2"])


async def test_imported_and_system_messages_wait_for_nobody(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1", "c2")
        await room.say("m1", "c1", imported=True)
        await room.say("m2", "c1", role="system")
        await room.say("m3", "c2")
        asked = await script.next()
        assert asked.waiting == ["m3"]
        asked.say()
        await room.until(lambda: room.answered("c2") == ["m3"])
    assert script.asked.empty()
    assert room.replies("c1") == []


async def test_an_imported_history_is_context_and_not_answered_with_the_next_message(
    registry: Registry,
) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1", imported=True)
        await room.say("m2", "c1")
        asked = await script.next()
        assert asked.waiting == ["m2"]
        assert [m["id"] for m in asked.request.messages] == ["m1", "m2"]
        asked.say()
        await room.until(lambda: room.replies("c1"))


async def test_a_reply_is_written_knowing_the_conversation_and_its_memory(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1", "c2")
        for n, conversation in enumerate(["c1", "c1", "c2"]):
            await room.commit(
                ("MemoryAdded", {"id": f"f{n}", "conversationId": conversation, "fact": f"fact {n}"})
            )
        await room.say("m1", "c1")
        asked = await script.next()
        assert sorted(asked.request.facts) == ["fact 0", "fact 1"]
        assert asked.request.conversation["personality"] == "helpful and friendly"
        asked.say()
        await room.until(lambda: room.replies("c1"))


async def test_a_reply_to_another_message_leaves_this_one_waiting(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        asked = await script.next()
        await room.say("forged", "c1", role="assistant", actor="mallory", replyTo="other")
        await room.say("forged2", "c1", role="assistant", actor="mallory", imported=True)
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m1"])
        await room.say("m2", "c1")
        await room.say("m5", "c1", imported=True)
        asked = await script.next()
        await room.say("forged3", "c1", role="assistant", actor="mallory", replyTo="m5")
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m1", "m2"])


@pytest.mark.parametrize("role", ["user", "system"])
async def test_a_message_under_the_replys_id_does_not_keep_the_reply_away(
    registry: Registry, role: str
) -> None:
    async with serving(registry):
        room = Room(registry.get("s", create=True))
        await room.create("c1", "c2")
        await room.say(reply_id("m1"), "c2", role=role, actor="mallory", replyTo="m1")
        await room.say("m1", "c1")
        await room.until(lambda: room.answered("c1") == ["m1"])
        await room.say("m2", "c1")
        await room.until(lambda: room.answered("c1") == ["m1", "m2"])
    assert room.replies("c1")[0]["id"] == reply_id("m1", 1)


async def test_a_message_that_comes_twice_is_answered_once(registry: Registry) -> None:
    async with serving(registry):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        await room.until(lambda: room.replies("c1"))
        for _ in range(3):
            await room.push(*message("m1", "c1"))
        await room.push("MessageAdded", {"id": "broken"})
        await room.say("m2", "c1")
        await room.until(lambda: len(room.replies("c1")) == 2)
    assert room.answered("c1") == ["m1", "m2"]


async def test_a_message_in_a_conversation_that_is_not_there_is_answered_once_it_is(
    registry: Registry,
) -> None:
    async with serving(registry):
        room = Room(registry.get("s", create=True))
        await room.push(*message("m1", "later"))
        await room.create("c1", "later")
        await room.until(lambda: room.answered("later") == ["m1"])


async def test_two_runtimes_answer_each_message_once(registry: Registry) -> None:
    async with serving(registry, name="one"), serving(registry, name="two"):
        room = Room(registry.get("s", create=True))
        names = [f"c{n}" for n in range(20)]
        await room.create(*names)
        for turn in range(3):
            await room.commit(*(message(f"{name}-{turn}", name) for name in names))
            await room.until(lambda turn=turn: all(f"{n}-{turn}" in room.answered(n) for n in names))
    assert all(room.answered(name) == [f"{name}-{turn}" for turn in range(3)] for name in names)


async def test_two_hundred_conversations_are_served_side_by_side_within_the_limit(registry: Registry) -> None:
    class Counting(Simulated):
        running = most = 0

        async def reply(self, request: Request) -> Reply:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                return await super().reply(request)
            finally:
                self.running -= 1

    counting = Counting((0, 0.01))
    async with serving(registry, counting, concurrency=16):
        room = Room(registry.get("s", create=True))
        names = [f"c{n}" for n in range(200)]
        await room.create(*names)
        await room.commit(*(message(f"m-{name}", name) for name in names))
        await room.until(lambda: room.store.count("pendingReplies") == 0)
    assert all(room.answered(name) == [f"m-{name}"] for name in names)
    assert 1 < counting.most <= 16


async def test_what_waits_when_a_process_ends_is_answered_by_the_next(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1", "c2")
        await room.say("m1", "c1")
        (await script.next()).say()
        await room.until(lambda: room.answered("c1") == ["m1"])
        await room.say("m2", "c1")
        await room.say("m3", "c2")
        await script.next()
    await asyncio.to_thread(registry.close)
    registry = Registry(tmp_path)
    try:
        async with serving(registry) as runtime:
            assert runtime._waking is not None
            await runtime._waking
            room = Room(registry.get("s", create=False))
            await room.until(lambda: room.store.count("pendingReplies") == 0)
        assert room.answered("c1") == ["m1", "m2"]
        assert room.answered("c2") == ["m3"]
    finally:
        await asyncio.to_thread(registry.close)


async def test_a_responder_that_fails_is_asked_again_and_the_state_says_so(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script, retry=(0.0, 0.0)):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1", "Hello there")
        (await script.next()).fail(ConnectionError("no route"))
        (await script.next()).fail(KeyError("choices"))
        (await script.next()).say()
        await room.until(lambda: room.answered("c1") == ["m1"])
        await room.until(lambda: room.shown[-1] == (False, None))
    assert room.replies("c1")[0]["content"] == "Certainly."


async def test_while_it_waits_to_ask_again_the_state_names_the_trouble_and_a_message_ends_the_wait(
    registry: Registry,
) -> None:
    script = Scripted()
    async with serving(registry, script, retry=(3600, 3600)):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1", "Hello there")
        (await script.next()).fail(ConnectionError("secret"))
        await room.until(lambda: room.shown and room.shown[-1][0] is False)
        assert room.shown[-1][1] == "No reply yet, trying again (ConnectionError): Hello there"
        await room.say("m2", "c1")
        asked = await script.next()
        assert asked.waiting == ["m1", "m2"]
        asked.say()
        await room.until(lambda: room.answered("c1") == ["m2"])


async def test_the_waits_between_failures_grow_up_to_a_limit(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    script = Scripted()
    async with serving(registry, script, retry=(0.001, 0.004)):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        for _ in range(4):
            (await script.next()).fail(ConnectionError())
        (await script.next()).say()
        await room.until(lambda: room.answered("c1") == ["m1"])
    waits = [r.args[3] for r in caplog.records if isinstance(r.args, tuple) and len(r.args) == 5]
    assert waits == [0.001, 0.002, 0.004, 0.004]


@pytest.mark.parametrize(
    "reply", [Reply("a\0b"), Reply("ok", {"tokens": float("nan")}), Reply("x" * 900_000)]
)
async def test_a_reply_that_cannot_be_an_event_is_asked_for_again(registry: Registry, reply: Reply) -> None:
    script = Scripted()
    async with serving(registry, script, retry=(0.0, 0.0)):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        (await script.next()).answer.set_result(reply)
        (await script.next()).say()
        await room.until(lambda: room.answered("c1") == ["m1"])


async def test_a_reply_whose_commit_fails_is_committed_later_without_asking_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted()
    async with serving(registry, script, retry=(0.0, 0.0)):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        failures = iter([OSError("No space left on device")] * 2)
        commit = room.store.commit

        def full(drafts: Any, *, actor: str) -> Any:
            if actor.startswith("agent:") and (error := next(failures, None)):
                raise error
            return commit(drafts, actor=actor)

        monkeypatch.setattr(room.store, "commit", full)
        await room.say("m1", "c1")
        (await script.next()).say("Kept.")
        await room.until(lambda: room.replies("c1"))
    assert room.replies("c1")[0]["content"] == "Kept."
    assert script.asked.empty()


async def test_metadata_of_a_responder_cannot_undo_that_it_is_a_reply(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        (await script.next()).say(imported=True, replyTo="m0", model="m")
        await room.until(lambda: room.store.count("pendingReplies") == 0)
    assert json.loads(room.replies("c1")[0]["metadata"]) == {"model": "m", "replyTo": "m1"}


async def test_a_responder_that_takes_too_long_cancels_itself_or_gives_nothing_has_failed(
    registry: Registry,
) -> None:
    class Odd:
        calls = 0

        async def reply(self, request: Request) -> Reply:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()
            if self.calls == 2:
                raise asyncio.CancelledError
            if self.calls == 3:
                return None  # type: ignore[return-value]
            return Reply("At last.")

    async with serving(registry, Odd(), retry=(0.0, 0.0), patience=0.01):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        await room.until(lambda: room.answered("c1") == ["m1"])


async def test_the_state_says_thinking_while_any_reply_runs_and_shows_the_latest(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1", "c2")
        await room.say("m1", "c1", "First")
        first = await script.next()
        await room.until(lambda: room.shown[-1:] == [(True, "Responding to: First")])
        await room.say("m2", "c2", "Second")
        second = await script.next()
        await room.until(lambda: room.shown[-1] == (True, "Responding to: Second"))
        second.say()
        await room.until(lambda: room.shown[-1] == (True, "Responding to: First"))
        assert room.store.status()["isThinking"] is True
        first.say()
        await room.until(lambda: room.shown[-1] == (False, None))
    assert room.store.status()["currentTask"] is None


async def test_a_store_stays_awake_while_a_reply_is_under_way(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    script = Scripted()
    try:
        async with serving(registry, script):
            room = Room(registry.get("s", create=True))
            await room.create("c1")
            await room.say("m1", "c1")
            asked = await script.next()
            await room.until(lambda: room.shown)
            assert not await asyncio.to_thread(room.store.sleep)
            asked.say()
            await room.until(lambda: room.shown[-1] == (False, None))
        assert await asyncio.to_thread(room.store.sleep)
    finally:
        await asyncio.to_thread(registry.close)


async def test_a_store_that_slept_is_served_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    try:
        async with serving(registry, Simulated((0, 0))):
            room = Room(registry.get("s", create=True))
            await room.create("c1")
            for turn in range(3):
                await room.say(f"m{turn}", "c1")
                await room.until(lambda turn=turn: len(room.replies("c1")) == turn + 1)
                await room.until(lambda: room.shown and room.shown[-1] == (False, None))
                await asyncio.to_thread(room.store.sleep)
        assert room.answered("c1") == ["m0", "m1", "m2"]
    finally:
        await asyncio.to_thread(registry.close)


async def test_stopping_drops_what_is_being_written_and_leaves_it_waiting(registry: Registry) -> None:
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        asked = await script.next()
    assert asked.cancelled.is_set()
    assert room.replies("c1") == []
    assert room.store.row("pendingReplies", "c1") is not None
    assert room.store.status()["isThinking"] is False


async def test_stopping_waits_for_a_reply_that_is_being_committed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(registry) as runtime:
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        commit, begun, go = room.store.commit, asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow(drafts: Any, *, actor: str) -> Any:
            if actor.startswith("agent:"):
                loop.call_soon_threadsafe(begun.set)
                assert go.wait(60)
            return commit(drafts, actor=actor)

        monkeypatch.setattr(room.store, "commit", slow)
        await room.say("m1", "c1")
        await begun.wait()
        stopping = asyncio.create_task(runtime.stop())
        loop.call_later(0.05, go.set)
        await stopping
        assert room.answered("c1") == ["m1"]


async def test_nothing_is_answered_after_the_end(registry: Registry) -> None:
    async with serving(registry) as runtime:
        room = Room(registry.get("s", create=True))
        await room.create("c1")
    await runtime.stop()
    await room.say("m1", "c1")
    registry.get("s", create=False)
    assert room.replies("c1") == []
    with pytest.raises(RuntimeError):
        await runtime.start()


async def test_a_store_closed_under_the_agent_is_let_go(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    script = Scripted()
    async with serving(registry, script):
        room = Room(registry.get("s", create=True))
        await room.create("c1")
        await room.say("m1", "c1")
        asked = await script.next()
        await asyncio.to_thread(registry.close)
        asked.say()
    registry = Registry(tmp_path)
    async with serving(registry):
        room = Room(registry.get("s", create=False))
        await room.until(lambda: room.answered("c1") == ["m1"])
    await asyncio.to_thread(registry.close)


async def test_tables_that_are_being_rebuilt_are_waited_for(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(registry.get("s", create=True))
    await room.create("c1")
    await room.say("m1", "c1")
    for name in ("rows", "row"):
        real, refusals = getattr(room.store, name), iter([Rebuilding("not yet")] * 2)

        def refuse(*args: Any, _real: Any = real, _refusals: Any = refusals, **kwargs: Any) -> Any:
            if error := next(_refusals, None):
                raise error
            return _real(*args, **kwargs)

        monkeypatch.setattr(room.store, name, refuse)
    async with serving(registry, retry=(0.0, 0.0)) as runtime:
        runtime._woken(room.store)
        await room.until(lambda: room.store._agent["lastActivity"] and not room.store._agent["isThinking"])
    assert room.answered("c1") == ["m1"]


async def test_a_store_whose_schema_knows_no_replies_is_left_alone() -> None:
    registry = Registry(None, Schema(1, agent_schema.table_list[:3], ()))
    async with serving(registry) as runtime:
        registry.get("s", create=True)
        await asyncio.sleep(0)
        assert runtime._desks == {}
    await asyncio.to_thread(registry.close)


async def test_a_store_that_cannot_be_opened_keeps_the_others_from_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    script = Scripted()
    async with serving(registry, script):
        for store_id in ("a", "b"):
            room = Room(registry.get(store_id, create=True))
            await room.create("c1")
            await room.say("m1", "c1")
            await script.next()
    await asyncio.to_thread(registry.close)
    (tmp_path / "a" / "eventlog.duckdb").write_bytes(b"no database" * 1000)
    registry = Registry(tmp_path)
    async with serving(registry):
        room = Room(registry.get("b", create=False))
        await room.until(lambda: room.answered("c1") == ["m1"])
    await asyncio.to_thread(registry.close)


def test_it_runs_on_a_loop_in_a_thread_of_its_own(registry: Registry) -> None:
    answered = threading.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runtime = Runtime(registry, Simulated((0, 0)))
    asyncio.run_coroutine_threadsafe(runtime.start(), loop).result(60)
    store = registry.get("s", create=True)
    store.on_rows(
        lambda changes: [answered.set() for c in changes if c.after and c.after.get("role") == "assistant"]
    )
    said = [
        ConversationCreated(id="c1", userId="ann"),
        MessageAdded(id="m1", conversationId="c1", role="user", content="Hi"),
    ]
    store.commit([draft(store.schema, e.name, e.args, door="python") for e in said], actor="ann").result(60)
    assert answered.wait(60)
    asyncio.run_coroutine_threadsafe(runtime.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()
    store.commit(
        [draft(store.schema, "v1.MessageAdded", said[1].args | {"id": "m2"}, door="python")], actor="ann"
    ).result(60)
    assert len(store.tail("messages", "c1")) == 3
