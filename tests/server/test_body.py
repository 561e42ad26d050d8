"""Reading requests: what is taken, and what each fault is called."""

from __future__ import annotations

import pytest

from jupyter_agentstore.core.errors import InvalidRequest
from jupyter_agentstore.server.body import read, read_json, write_json
from jupyter_agentstore.server.shapes import Chat, EventPage, Facts, NewEvents, Query


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no body"),
        (b"hello", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "1e999 is beyond a double"),
        (b'{"a": ' + b"9" * 400 + b"}", "beyond a double"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "beyond a double"),
        (b'{"a": "\x00"}', "control character"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_json_object_is_refused_with_its_own_message(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_json(body)


def test_lone_surrogates_survive_reading_and_writing_as_they_came() -> None:
    value = read_json(rb'{"content": "half an emoji: \ud83d"}')
    assert write_json(value) == rb'{"content":"half an emoji: \ud83d"}'


def test_of_two_equal_keys_the_last_one_counts() -> None:
    assert read_json(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    ("kind", "values", "field", "said"),
    [
        (Chat, {}, "conversationId", "is missing"),
        (Chat, {"conversationId": "c"}, "content", "is missing"),
        (Chat, {"conversationId": 1, "content": "x"}, "conversationId", "must be text, not an integer"),
        (Chat, {"conversationId": "c", "content": None}, "content", "must be text, not null"),
        (Chat, {"conversationId": "c", "content": "x", "role": "boss"}, "role", "not 'boss'"),
        (Chat, {"conversationId": "c", "content": "x", "colour": 1}, "colour", "There is no field 'colour'"),
        (
            Chat,
            {"conversationId": "c", "content": "x", "commitId": "a\nb"},
            "commitId",
            "must be printable ASCII",
        ),
        (Facts, {"conversationId": "c", "facts": "one"}, "facts", "must be a list, not text"),
        (Facts, {"conversationId": "c", "facts": ["a", 2]}, "facts[1]", "must be text, not an integer"),
        (NewEvents, {"events": []}, "events", "length >= 1"),
        (NewEvents, {"events": [{"name": "x"}]}, "events[0].args", "is missing"),
        (
            NewEvents,
            {"events": [{"name": "x", "args": []}]},
            "events[0].args",
            "must be an object, not a list",
        ),
        (Query, {"sql": "select 1", "params": 1}, "params", "must be an object or a list or null"),
    ],
)
def test_a_wrong_field_is_named(kind: type, values: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said.replace("[", r"\[")) as caught:
        read(kind, values)
    assert caught.value.field == field


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "99999999999999999999", " "])
def test_a_number_in_the_query_string_must_be_one(after: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(EventPage, {"after": after}, query=True)
    assert caught.value.field == "after"


def test_numbers_that_are_none_leave_as_null() -> None:
    assert write_json({"a": float("nan"), "b": 2**70}) == b'{"a":null,"b":1180591620717411303424}'
