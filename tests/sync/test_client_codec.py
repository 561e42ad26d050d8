"""The client's side of the wire: what it asks is what the server reads, and nothing that comes can hurt it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.errors import (
    AgentStoreError,
    BackendIdMismatch,
    Forbidden,
    HeadMoved,
    StoreClosed,
    StoreLocked,
)
from jupyter_agentstore.core.events import encode_args, wire
from jupyter_agentstore.sync import client_codec, codec
from jupyter_agentstore.sync.client_session import Action, ClientSession, Hangup
from tests.sync.client import Client, event, failed, online, page

TRACE = [json.loads(line) for line in (Path(__file__).parent / "trace.jsonl").read_text().splitlines()]
FROM_SERVER = [json.dumps(line["d"]) for line in TRACE if line["dir"] == "s>c"]

texts = st.text(st.characters(codec=None), max_size=20)  # lone surrogates too


# ---- what a client asks


def test_a_pull_is_read_by_the_server_as_it_was_meant() -> None:
    assert codec.decode(client_codec.pull("1", "s", None, 0)) == codec.Pull("1", "s", True, None, 1_000)
    assert codec.decode(client_codec.pull("2", "s", 'b"', 7)) == codec.Pull(
        "2", "s", True, codec.Cursor('b"', 7), 1_000
    )


@given(st.lists(texts, min_size=1, max_size=3))
def test_a_push_is_read_by_the_server_as_it_was_meant(said: list[str]) -> None:
    args = [encode_args({"said": text}) for text in said]
    bodies = [wire("e", text, seq, "c", "t") for seq, text in enumerate(args, 1)]
    read = codec.decode(client_codec.push("3", "s", "b", bodies))
    assert isinstance(read, codec.Push)
    assert [bytes(one.args).decode() for one in read.batch] == args
    assert (read.id, read.backend_id) == ("3", "b")


def test_requests_have_the_fields_that_livestore_gives_them() -> None:
    for frame in (
        client_codec.pull("1", "s", None, 0),
        client_codec.push("1", "s", "b", [wire("e", "1", 1, "c", "t")]),
    ):
        read = json.loads(frame)
        recorded = next(line["d"] for line in TRACE if _like(line, read))
        assert set(read) | {"traceId", "spanId", "sampled"} == set(recorded)
        own = {"pageEvents"}  # which says what LiveStore's clients have no wish for
        assert (set(read["payload"]) - own) | {"payload"} == set(recorded["payload"])


def _like(line: dict[str, Any], read: dict[str, Any]) -> bool:
    return line["dir"] == "c>s" and line["d"].get("tag") == read["tag"]


@given(texts)
def test_args_stay_what_they_say(text: str) -> None:
    raw = client_codec.args(json.dumps(text, ensure_ascii=False))
    assert json.loads(bytes(raw)) == text or json.dumps(json.loads(bytes(raw))) == json.dumps(text)


# ---- what a server sends


def test_the_recorded_frames_of_a_livestore_server_are_understood() -> None:
    for frame in FROM_SERVER:
        read = client_codec.decode(frame)
        if isinstance(read, client_codec.Chunk):
            for one in client_codec.pages(read):
                for item in one.batch:
                    assert client_codec.numbers(item.eventEncoded).seqNum >= 1
                    assert client_codec.milliseconds(item.metadata.value.createdAt) > 1_700_000_000_000


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HeadMoved(4, 3), HeadMoved),
        (BackendIdMismatch("a", "b"), BackendIdMismatch),
        (Forbidden("Half \ud83d."), Forbidden),
        (StoreClosed("Closed."), StoreClosed),
        (StoreLocked("Locked."), AgentStoreError),
        (AgentStoreError("Odd."), AgentStoreError),
    ],
)
def test_an_error_arrives_as_what_it_was(error: AgentStoreError, kind: type) -> None:
    read = client_codec.decode(failed("5", error))
    assert isinstance(read, client_codec.Exit)
    told = client_codec.error(read)
    assert type(told) is kind
    assert isinstance(told, AgentStoreError)
    assert told.code == error.code
    if isinstance(told, HeadMoved):
        assert (told.head, told.provided) == (4, 3)
    elif not isinstance(told, BackendIdMismatch):
        assert told.message == error.message.replace("\ud83d", "\ufffd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
        ("2023-11-14T22:13:20.123", 1_700_000_000_123),
        ("", 0),
    ],
)
def test_times_are_milliseconds(text: str, expected: int) -> None:
    assert client_codec.milliseconds(text) == expected


def test_an_event_without_args_is_taken_as_any_other() -> None:
    void = event(1, "")
    client = Client().commit("1").opened().receive(page(void))
    assert client.applied == [void]
    assert [one.seqNum for one in client.session.state.pending] == [2]


def test_half_an_emoji_in_an_event_is_kept_as_it_is() -> None:
    half = '{"a":"\\ud83d","b":"\\ud83d\\ude00","c":"\\\\ud83d"}'
    client = online().commit(half)
    client.receive(page(event(1, half, by="a"), event(2, '"\\udc00"')))
    assert client.session.state.pending == ()
    assert [one.body for one in client.applied] == [event(1, half, by="a").body, event(2, '"\\udc00"').body]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{}",
        "[]",
        "null",
        b"\xff\xfe",
        '{"_tag":"Chunk"}',
        '{"_tag":"Defect","defect":"x"}',
        '{"_tag":"Chunk","requestId":"1","values":[]}',
        '{"_tag":"Chunk","requestId":"1","values":{}}',
        '{"_tag":"Chunk","requestId":"1","values":[{"batch":[]}]}',
        page(event(1)).replace('"seqNum":1', '"seqNum":"1"'),
        page(event(1)).replace('"seqNum":1', '"seqNum":1.5'),
        page(event(1)).replace('"parentSeqNum":0', '"parentSeqNum":1'),
        page(event(1)).replace("2023-11-14", "yesterday"),
        page(event(1)).replace("2023-11-14", "9999-99-99"),
        page(event(1, '"x"')).encode().replace(b'"x"', b'"\xff"'),
        page(event(1)).replace('"NoMore"', "7"),
        "[" * 100_000,
        page(event(1, "1")).replace('"args":1', '"args":' + "[" * 100_000),
        page(event(1, "1")).replace('"args":1', '"args":\\ud83d'),
        "\ud83d",
    ],
)
def test_what_is_no_frame_ends_the_connection_and_changes_nothing(frame: str | bytes) -> None:
    client = Client().commit("1").opened()
    client.new()
    before = client.session.state
    client.receive(frame)
    assert [type(action) for action in client.new()] == [Hangup]
    assert client.session.state == before
    assert client.applied == []
    client.opened().receive(page(event(1), id=str(client.session._requests)))
    assert client.session.caught_up


def _taken(session: ClientSession, frames: list[str | bytes]) -> list[Action]:
    actions: list[Action] = session.opened()
    for frame in frames:
        actions += session.receive(frame)
        session.state.check()
        if not session._open:
            actions += session.opened()
    return actions


VALID = [
    *FROM_SERVER,
    page(),
    page(event(1)),
    page(event(1), event(2, "1", by="a"), more=3),
    page(event(1, "1", by="a")),
    page(event(1, '"\\ud83d"'), more=1),
    failed("2", HeadMoved(3, 0)),
    failed("2", Forbidden("No.")),
    codec.success("2"),
]
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["1", "2", "Chunk", "Exit", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["_tag", "requestId", "values", "exit", "cause", "error", "batch", "pageInfo", "backendId"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
).map(json.dumps)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A frame that is valid but for some bytes."""
    data = bytearray(draw(st.sampled_from(VALID)).encode())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=2) | st.sampled_from([b"0", b"}", b'"'])
        )
    return bytes(data)


@given(st.lists(st.sampled_from(VALID) | bent() | junk | texts | st.binary(max_size=20), max_size=6))
def test_whatever_comes_nothing_is_raised_and_the_state_stays_one(frames: list[str | bytes]) -> None:
    session = ClientSession("s", "client-a", "session-a", watch=True)
    session.commit([("e", "1"), ("e", "2")])
    _taken(session, frames)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["_tag", "cause", "error", "name", "message", "retryAfter", "minimumExpectedNum"]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_every_exit_says_something(value: Any) -> None:
    end = client_codec.Exit("1", value)
    told = client_codec.error(end)
    assert told is None or told.message
    assert client_codec.retry_after(end) >= 0 or isinstance(msgspec.json.encode(value), bytes)
