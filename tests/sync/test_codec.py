"""Frames in and out: what is read, what is refused and how, and that ``args`` come through as they are."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from jupyter_agentstore.core.errors import Conflict, HeadMoved
from jupyter_agentstore.core.events import Event, decode, wire
from jupyter_agentstore.sync import codec
from tests.sync.peer import pull, push


def pushed(args: str, name: str = "e") -> codec.Frame:
    """A push of one event, whose ``args`` are this text."""
    frame = json.dumps(push("1", 0, name=name, args={"here": 1}))
    return codec.decode(frame.replace('{"here": 1}', args))


def accepted(args: str) -> str:
    read = pushed(args)
    assert isinstance(read, codec.Push), read
    return bytes(read.batch[0].args).decode()


@pytest.mark.parametrize(
    "args",
    [
        '{"b":1,"a":2,"b":3}',
        '{"n":1.0,"m":1e3,"o":-0,"p":123456789012345678901234567890}',
        '{ "spaced" : [ 1 , 2 ] }',
        '{"text":"\\u00e9\\/ü\\n\U0001f600"}',
        '{"nested":{"payload":{"_tag":"Ping","args":null}}}',
        '"no object"',
        "null",
    ],
)
def test_args_stay_as_they_were_pushed(args: str) -> None:
    assert accepted(args) == args


@pytest.mark.parametrize(
    "args",
    [
        '{"title":"Hi \\ud83d"}',
        '{"title":"\\uDE00 and \\ud83d\\ude00 and \\\\ud83d"}',
        '{"\\ud83d":"\\ud83d\\ud83d"}',
        '{"title":"<surrogate>\\ud83d<surrogate->"}',
        '{"title":"<surrogate\\ud83d"}',
    ],
)
def test_halves_of_emojis_stay_as_they_were_pushed(args: str) -> None:
    assert accepted(args) == args
    decode(wire("e", accepted(args), 1, "c", "s"))


def test_no_frame_can_hold_all_the_masks_to_come() -> None:
    marks = "".join(f"<surrogate{'-' * count}>" for count in range(200))
    text = rf'"{marks}\ud83d"'
    mask, masked = codec.mask_surrogates(text.encode())
    assert len(mask) < 40
    assert bytes(codec.unmask(mask, msgspec.Raw(masked))).decode() == text


def test_a_frame_may_come_as_bytes() -> None:
    assert codec.decode(b'{"_tag":"Ping"}') == codec.Ping()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("", 1007),
        ("{", 1007),
        ("nonsense", 1007),
        (b'{"_tag":"Ping","x":"\xff"}', 1007),
        ('{"_tag":"Ping","x":"\ud83d"}', 1007),
        ('{"_tag":"Ping","x":' + "[" * 100_000, 1007),
        (json.dumps(push("1", 0)).replace('{"n": 1}', "[" * 2000 + "]" * 2000), 1007),
        ("[]", 1008),
        ('"Ping"', 1008),
        ("{}", 1008),
        ('{"_tag":"Pong"}', 1008),
        ('{"_tag":"Ack"}', 1008),
        ('{"_tag":"Ack","requestId":1}', 1008),
        ('{"_tag":"Request","id":1,"tag":"SyncWsRpc.Pull"}', 1008),
        ('{"_tag":"Request","id":"\\ud83d","tag":"SyncWsRpc.Pull","payload":{}}', 1008),
        (" " * 1_048_577, 1009),
    ],
)
def test_what_is_no_frame_ends_the_connection(frame: str | bytes, code: int) -> None:
    with pytest.raises(codec.ProtocolError) as raised:
        codec.decode(frame)
    assert raised.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"live": "yes"},
        {"cursor": None},
        {"cursor": {"_tag": "Some"}},
        {"cursor": {"_tag": "Some", "value": {"backendId": "b", "eventSequenceNumber": -1}}},
        {"cursor": {"_tag": "Some", "value": {"backendId": "b", "eventSequenceNumber": 2**60}}},
        {"cursor": {"_tag": "Some", "value": {"backendId": "b", "eventSequenceNumber": 1.5}}},
        {"storeId": 7},
    ],
)
def test_a_pull_of_another_shape_is_refused_by_itself(change: dict[str, Any]) -> None:
    frame = pull()
    frame["payload"] |= change
    read = codec.decode(json.dumps(frame))
    assert isinstance(read, codec.Refused)
    assert read.id == "p"


def test_an_unknown_request_is_refused_by_itself() -> None:
    read = codec.decode('{"_tag":"Request","id":"7","tag":"Sync.Dance"}')
    assert isinstance(read, codec.Refused)
    assert "no such request" in read.error.message


@pytest.mark.parametrize(
    "args",
    ['{"n":1e999}', '{"n":' + "9" * 5000 + "}"],
)
def test_args_that_nobody_could_read_back_are_refused(args: str) -> None:
    assert isinstance(pushed(args), codec.Refused)


@pytest.mark.parametrize(
    "event",
    [
        {"seqNum": 3},
        {"parentSeqNum": 1},
        {"seqNum": 0, "parentSeqNum": -1},
        {"name": None},
        {"name": "\ud83d"},
        {"clientId": 1},
    ],
)
def test_a_batch_with_a_broken_event_is_refused(event: dict[str, Any]) -> None:
    frame = push("1", 0, 2)
    frame["payload"]["batch"][0] |= event
    assert isinstance(codec.decode(json.dumps(frame)), codec.Refused)


def test_an_event_without_args_is_written_without_them() -> None:
    frame = push("1", 0, name="v1.Pinged")
    del frame["payload"]["batch"][0]["args"]
    read = codec.decode(json.dumps(frame))
    assert isinstance(read, codec.Push), read
    body = wire("v1.Pinged", bytes(read.batch[0].args).decode(), 1, "c", "s")
    assert json.loads(body).keys() == {"name", "seqNum", "parentSeqNum", "clientId", "sessionId"}
    assert decode(body).args == {}


def test_a_batch_with_a_gap_is_refused() -> None:
    frame = push("1", 0, 3)
    del frame["payload"]["batch"][1]
    assert isinstance(codec.decode(json.dumps(frame)), codec.Refused)


def test_a_batch_has_1_to_1000_events_and_at_most_900_000_bytes() -> None:
    assert isinstance(codec.decode(json.dumps(push("1", 0, 1000))), codec.Push)
    for count in (0, 1001):
        assert isinstance(codec.decode(json.dumps(push("1", 0, count))), codec.Refused)
    large = {"text": "x" * 449_000}
    assert isinstance(codec.decode(json.dumps(push("1", 0, 2, args=large))), codec.Push)
    large = {"text": "ü" * 225_000}
    refused = codec.decode(json.dumps(push("1", 0, 2, args=large), ensure_ascii=False))
    assert isinstance(refused, codec.Refused)
    assert refused.error.code == "too_large"


@pytest.mark.parametrize(
    ("name", "args", "privileged"),
    [
        ("v1.MessageAdded", '{"role":"assistant"}', True),
        ("v1.MessageAdded", '{"role":"system"}', True),
        ("v1.MessageAdded", '{"role":"user","role":"\\u0061ssistant"}', True),
        ("v1.MessageAdded", '{"x":"\\ud83d","role":"assistant"}', True),
        ("v1.MessageAdded", '{"role":"user"}', False),
        ("v1.MessageAdded", '{"role":["assistant"]}', False),
        ("v1.MessageAdded", "[]", False),
        ("v1.MemoryAdded", '{"role":"assistant"}', False),
    ],
)
def test_a_message_in_the_agents_or_the_systems_name_is_noticed(
    name: str, args: str, privileged: bool
) -> None:
    read = pushed(args, name)
    assert isinstance(read, codec.Push)
    assert read.privileged is privileged


def test_an_item_is_the_body_and_what_the_log_knows() -> None:
    body = wire("e", '{"b":1.0, "a":"\\ud83d"}', 1, "c", "s")
    item = codec.item(Event(1, 1_700_000_000_007, 'An"n', body))
    assert body in item
    assert json.loads(item)["metadata"] == {
        "_tag": "Some",
        "value": {
            "_tag": "SyncMessage.SyncMetadata",
            "createdAt": "2023-11-14T22:13:20.007Z",
            "actor": 'An"n',
        },
    }


def test_errors_are_told_in_livestores_words() -> None:
    assert codec.failure("5", HeadMoved(4, 3)) == (
        '{"_tag":"Exit","requestId":"5","exit":{"_tag":"Failure","cause":{"_tag":"Fail","error":'
        '{"minimumExpectedNum":4,"providedNum":3,"_tag":"ServerAheadError"}}}}'
    )
    said = json.loads(codec.failure("5", Conflict("It is \ud83d there.")))["exit"]["cause"]["error"]
    assert said == {"_tag": "UnknownError", "cause": {"name": "conflict", "message": "It is \ud83d there."}}


def test_nothing_of_an_unexpected_error_is_told() -> None:
    assert "secret" not in codec.failure("5", ValueError("secret"))
