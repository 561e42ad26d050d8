"""The agent's own schema: names that LiveStore apps know, defaults, and who waits for a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.agent_schema import agent_schema, details, is_privileged
from jupyter_agentstore.core.errors import InvalidEvent
from jupyter_agentstore.core.events import Meta
from jupyter_agentstore.core.operations import Row, apply

Tables = dict[str, dict[str, Row]]


def play(tables: Tables, *events: tuple[str, dict[str, Any]], actor: str = "ada") -> Tables:
    """The tables after further events, numbered on."""
    for name, args in events:
        seq = tables.setdefault("_seq", {}).setdefault("n", {"n": 0})
        seq["n"] += 1
        kind = agent_schema.events[f"v1.{name}"]
        operations = kind.materialize(kind.read(args), Meta(seq["n"], 1000 * seq["n"], actor, "c", "s"))
        changes = apply(operations, agent_schema, lambda table, key: tables.get(table, {}).get(key), seq["n"])
        for change in changes:
            rows = tables.setdefault(change.table, {})
            if change.after is None:
                del rows[change.key]
            else:
                rows[change.key] = change.after
    return tables


def created(id: str = "c", **more: Any) -> tuple[str, dict[str, Any]]:
    return "ConversationCreated", {"id": id, "userId": "ada", **more}


def said(
    id: str, role: str = "user", *, to: Any = None, conversation: str = "c", **metadata: Any
) -> tuple[str, dict[str, Any]]:
    if to is not None:
        metadata["replyTo"] = to
    args = {"id": id, "conversationId": conversation, "role": role, "content": f"says {id}"}
    return "MessageAdded", {**args, "metadata": json.dumps(metadata) if metadata else None}


def waiting(*events: tuple[str, dict[str, Any]]) -> dict[str, str]:
    """For each conversation that waits, the last message."""
    rows = play({}, created(), *events).get("pendingReplies", {})
    return {key: row["lastMessageId"] for key, row in rows.items()}


def test_tables_and_events_have_the_names_of_the_original() -> None:
    columns = {table.name: [column.name for column in table.columns] for table in agent_schema.table_list}
    assert columns == {
        "conversations": [
            "id",
            "userId",
            "title",
            "createdAt",
            "updatedAt",
            "personality",
            "instructions",
            "status",
        ],
        "messages": ["id", "conversationId", "role", "content", "timestamp", "metadata", "seq", "actor"],
        "conversationMemory": ["id", "conversationId", "fact", "createdAt"],
        "pendingReplies": ["conversationId", "lastMessageId", "seq"],
    }
    fields = {event.name: [field.name for field in event.fields] for event in agent_schema.event_list}
    assert fields == {
        "v1.ConversationCreated": ["id", "userId", "title", "personality", "instructions"],
        "v1.MessageAdded": ["id", "conversationId", "role", "content", "metadata"],
        "v1.MemoryAdded": ["id", "conversationId", "fact"],
        "v1.ConversationUpdated": ["id", "updatedAt", "status"],
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"title": "", "personality": "", "instructions": ""},
        {"title": None, "personality": None, "instructions": None},
    ],
)
def test_empty_and_absent_texts_take_their_defaults(given: dict[str, Any]) -> None:
    assert play({}, created(**given))["conversations"]["c"] == {
        "id": "c",
        "userId": "ada",
        "title": "New Conversation",
        "createdAt": 1000,
        "updatedAt": 1000,
        "personality": "helpful and friendly",
        "instructions": "Be helpful and accurate",
        "status": "active",
    }


def test_given_texts_are_kept() -> None:
    row = play({}, created(title="T", personality="P", instructions="I"))["conversations"]["c"]
    assert (row["title"], row["personality"], row["instructions"]) == ("T", "P", "I")


def test_a_message_has_its_number_its_time_and_who_wrote_it() -> None:
    row = play({}, created(), said("m", mood="curt"), actor="grace")["messages"]["m"]
    assert row == {
        "id": "m",
        "conversationId": "c",
        "role": "user",
        "content": "says m",
        "timestamp": 2000,
        "metadata": '{"mood": "curt"}',
        "seq": 2,
        "actor": "grace",
    }


def test_facts_are_remembered() -> None:
    fact = ("MemoryAdded", {"id": "f", "conversationId": "c", "fact": "likes mocha"})
    row = play({}, created(), fact)["conversationMemory"]["f"]
    assert row == {"id": "f", "conversationId": "c", "fact": "likes mocha", "createdAt": 2000}


def test_a_conversation_is_touched_and_its_status_changes_only_when_given() -> None:
    touch = ("ConversationUpdated", {"id": "c", "updatedAt": "2024-01-01T00:00:00Z"})
    pause = ("ConversationUpdated", {"id": "c", "updatedAt": 7, "status": "paused"})
    row = play({}, created(), pause, touch)["conversations"]["c"]
    assert (row["updatedAt"], row["status"], row["createdAt"]) == (1_704_067_200_000, "paused", 1000)
    assert "conversations" not in play({}, touch)


def test_of_two_events_with_one_id_the_first_wins_entirely() -> None:
    tables = play(
        {}, created(title="A"), created(title="B"), said("m"), said("n"), said("m", conversation="d")
    )
    assert tables["conversations"]["c"]["title"] == "A"
    assert tables["messages"]["m"]["conversationId"] == "c"
    assert set(tables["pendingReplies"]) == {"c"}
    assert tables["pendingReplies"]["c"]["lastMessageId"] == "n"


@pytest.mark.parametrize("role", ["User", "", "agent", None])
def test_only_three_roles_speak(role: Any) -> None:
    with pytest.raises(InvalidEvent) as refused:
        play({}, created(), said("m", role))
    assert refused.value.field == "role"


# ---- who waits


def test_a_user_message_waits_and_a_later_one_takes_its_place() -> None:
    assert waiting() == {}
    assert waiting(said("m")) == {"c": "m"}
    assert waiting(said("m"), said("n")) == {"c": "n"}
    assert waiting(said("m"), said("n", conversation="d")) == {"c": "m", "d": "n"}


def test_the_row_of_one_who_waits_has_the_messages_number() -> None:
    assert play({}, created(), said("m"), said("n"))["pendingReplies"]["c"] == {
        "conversationId": "c",
        "lastMessageId": "n",
        "seq": 3,
    }


def test_a_reply_ends_the_waiting_of_the_message_it_answers() -> None:
    assert waiting(said("m"), said("r", "assistant", to="m")) == {}
    assert waiting(said("m"), said("r", "assistant", to="m"), said("n")) == {"c": "n"}


def test_a_reply_to_an_earlier_message_leaves_the_later_one_waiting() -> None:
    assert waiting(said("m"), said("n"), said("r", "assistant", to="m")) == {"c": "n"}
    assert waiting(said("m"), said("n"), said("r", "assistant", to="m"), said("s", "assistant", to="n")) == {}


def test_an_assistant_message_that_answers_nothing_by_name_ends_the_waiting() -> None:
    assert waiting(said("m"), said("n"), said("r", "assistant")) == {}
    assert waiting(said("m"), said("r", "assistant", model="x")) == {}
    assert waiting(said("m"), said("r", "assistant", to=7)) == {}


def test_a_reply_in_another_conversation_changes_nothing_here() -> None:
    assert waiting(said("m"), said("r", "assistant", conversation="d")) == {"c": "m"}


def test_system_and_imported_messages_neither_wait_nor_answer() -> None:
    assert waiting(said("m", "system")) == {}
    assert waiting(said("m", imported=True)) == {}
    assert waiting(said("m"), said("n", "system")) == {"c": "m"}
    assert waiting(said("m"), said("r", "assistant", imported=True)) == {"c": "m"}
    assert waiting(said("m"), said("n", imported="taskmaster")) == {"c": "m"}
    assert waiting(said("m", imported=False)) == {"c": "m"}


def test_a_second_message_with_a_known_id_makes_nobody_wait() -> None:
    assert waiting(said("m"), said("r", "assistant", to="m"), said("m")) == {}


@pytest.mark.parametrize("metadata", ["[]", "7", "null", '"imported"', '{"replyTo": null}', ""])
def test_metadata_that_is_no_object_says_nothing(metadata: str) -> None:
    assert details(metadata).get("imported") is None
    assert details(metadata).get("replyTo") is None


@pytest.mark.parametrize("metadata", [None, "", "{", "NaN", "[" * 100_000])
def test_metadata_that_cannot_be_read_says_nothing(metadata: str | None) -> None:
    assert details(metadata) == {}


ids = st.sampled_from(["a", "b", "c", "d"])
messages = st.builds(
    lambda name, role, to, conversation: said(name, role, to=to, conversation=conversation),
    st.uuids().map(str) | ids,
    st.sampled_from(["user", "assistant", "system"]),
    st.none() | ids,
    st.sampled_from(["c", "d"]),
)


@given(st.lists(messages, max_size=12))
def test_who_waits_is_who_spoke_last_without_an_answer(events: list[tuple[str, dict[str, Any]]]) -> None:
    expected: dict[str, str] = {}
    known = set()
    for _, args in events:
        if args["id"] in known:
            continue
        known.add(args["id"])
        conversation = args["conversationId"]
        to = details(args["metadata"]).get("replyTo")
        if args["role"] == "user":
            expected[conversation] = args["id"]
        elif args["role"] == "assistant" and to in (None, expected.get(conversation)):
            expected.pop(conversation, None)
    assert waiting(*events) == expected


texts = st.text(max_size=5)
metas = st.builds(Meta, st.integers(1, 99), st.integers(0, 10**13), texts, texts, texts)
fields = {
    "v1.ConversationCreated": st.fixed_dictionaries(
        {"id": ids, "userId": texts, "title": texts, "personality": texts, "instructions": texts | st.none()}
    ),
    "v1.MessageAdded": messages.map(lambda event: event[1]),
    "v1.MemoryAdded": st.fixed_dictionaries({"id": ids, "conversationId": ids, "fact": texts}),
    "v1.ConversationUpdated": st.fixed_dictionaries(
        {
            "id": ids,
            "updatedAt": st.integers(0, 10**13),
            "status": st.none() | st.sampled_from(["active", "paused"]),
        }
    ),
}


@pytest.mark.parametrize("name", list(agent_schema.events))
@given(st.data(), metas)
def test_a_materializer_makes_the_same_of_the_same_and_changes_nothing(
    name: str, data: st.DataObject, meta: Meta
) -> None:
    args = data.draw(fields[name])
    before = json.dumps(args)
    materialize = agent_schema.events[name].materialize
    once, twice = materialize(args, meta), materialize(json.loads(before), meta)
    assert once == twice
    assert json.dumps(args) == before
    for operation in once:
        assert operation.table in agent_schema.tables


@pytest.mark.parametrize(
    ("name", "args", "privileged"),
    [
        ("v1.MessageAdded", {"role": "assistant"}, True),
        ("v1.MessageAdded", {"role": "system", "id": 7}, True),
        ("v1.MessageAdded", {"role": "user"}, False),
        ("v1.MessageAdded", {"role": ["assistant"]}, False),
        ("v1.MessageAdded", {"role": {"assistant": 1}}, False),
        ("v1.MessageAdded", [], False),
        ("v1.MessageAdded", None, False),
        ("v1.MemberAdded", {"role": "system"}, False),
    ],
)
def test_only_messages_of_the_agent_and_the_system_are_privileged(
    name: str, args: object, privileged: bool
) -> None:
    assert is_privileged(name, args) is privileged
