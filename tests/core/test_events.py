"""An event's JSON: kept to the letter, read by everybody alike."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core import events as events_module
from jupyter_agentstore.core.errors import InvalidEvent, TooLarge
from jupyter_agentstore.core.events import (
    Event,
    check_size,
    clean_json,
    decode,
    encode_args,
    quote,
    replace_surrogates,
    too_deep,
    wire,
)
from jupyter_agentstore.core.limits import MAX_DEPTH, MAX_EVENT_BYTES

any_text = st.text(st.characters(exclude_categories=[]), max_size=40)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(any_text, values, max_size=5)
LONE = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def body(args: str) -> str:
    return wire("v1.Any", args, 7, "client", "session")


@given(objects)
def test_args_survive_writing_to_the_last_surrogate(args: dict[str, Any]) -> None:
    text = encode_args(args)
    text.encode()  # whatever stands in it, it can be stored and sent
    # Adjacent halves of a pair are a pair in JSON.
    joined = json.loads(json.dumps(args))
    assert json.loads(text) == joined
    assert json.loads(body(text))["args"] == joined


@given(objects)
def test_reading_replaces_lone_surrogates_and_nothing_else(args: dict[str, Any]) -> None:
    read = decode(body(encode_args(args))).args
    json.dumps(read, ensure_ascii=False).encode()
    assert read == replace_surrogates(json.loads(json.dumps(args)))


@given(any_text)
def test_each_lone_surrogate_becomes_one_replacement_character(text: str) -> None:
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert replace_surrogates(text) == LONE.sub("\ufffd", joined)


@given(any_text, any_text, any_text, st.integers(1, 2**53))
def test_a_body_says_what_it_was_made_of(name: str, client: str, session: str, seq: int) -> None:
    text = wire(name, '{"a": 1}', seq, client, session)
    assert json.loads(text) == json.loads(
        json.dumps(
            {"name": name, "args": {"a": 1}, "seqNum": seq, "parentSeqNum": seq - 1}
            | {"clientId": client, "sessionId": session}
        )
    )
    assert decode(text).name == replace_surrogates(json.loads(json.dumps(name)))


@pytest.mark.parametrize(
    "args",
    [
        '{"z":1,"a":2}',
        '{ "spaced" : [ 1 , 2 ] }',
        '{"a":1.0,"b":1e2,"c":1E+2,"d":-0,"e":0.10,"f":12345678901234567890123}',
        '{"a":"\\u00e9\\/\\ud83d"}',
        '{"same":1,"same":2}',
    ],
)
def test_args_stand_in_the_body_as_they_were_spelled(args: str) -> None:
    assert f'"args":{args},' in body(args)
    assert Event(7, 0, "ada", body(args)).decode().name == "v1.Any"


def test_the_order_of_keys_is_kept() -> None:
    assert encode_args({"z": 1, "a": {"y": 1, "b": 2}}) == '{"z":1,"a":{"y":1,"b":2}}'
    assert list(decode(body('{"z":1,"a":2,"m":3}')).args) == ["z", "a", "m"]


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, [{"deep": math.nan}], object(), {1, object()}, {(1, 2): 3}],
)
def test_what_json_has_no_word_for_is_refused(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="cannot be written as JSON") as refused:
        encode_args({"a": value})
    assert refused.value.field == "args"


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["me"] = value
    with pytest.raises(InvalidEvent):
        encode_args(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"args":{}}',
        '{"name":"a","args":[]}',
        '{"name":"a","args":null}',
        '{"name":7,"args":{}}',
        '{"name":"a","args":{}',
        '{"name":"a","args":{"x":NaN}}',
        '{"name":"a","args":{"x":Infinity}}',
        '{"name":"a","args":{"x":1e999}}',
        '{"name":"a","args":{"x":"\\ud83d","y":-1e999}}',
        '{"name":"a","args":{"x":"\\ud83d","y":NaN}}',
        '{"name":"a","args":{"x":' + "9" * 5000 + "}}",
        '{"name":"a","args":{"x":"a\nb"}}',
        '{"name":"a","args":{"x":' + "[" * 500 + "]" * 500 + "}}",
        '{"name":"a","args":{"x":' + "[" * 100_000,
        '\ufeff{"name":"a","args":{}}',
    ],
)
def test_what_is_no_event_is_refused(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(InvalidEvent, match="Not an event") as refused:
            decode(form)
        assert refused.value.field == "args"


@pytest.mark.parametrize(
    "data",
    [
        b'\xff{"name":"a","args":{}}',
        b'{"name":"\xed\xa0\xbd","args":{}}',
        '{"name":"a","args":{}}'.encode("utf-16"),
    ],
)
def test_bytes_that_are_not_utf8_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(data)


def test_a_surrogate_that_is_no_escape_is_replaced_as_well() -> None:
    assert decode('{"name":"a\ud83d","args":{"x":"\ud83d\ude00"}}').name == "a\ufffd"


@pytest.mark.parametrize("shape", ["[]", "{}"])
@pytest.mark.parametrize("stack", [0, 400])
def test_how_deep_json_may_be_nested_does_not_depend_on_the_stack(shape: str, stack: int) -> None:
    def nested(depth: int) -> str:
        opening = "[" if shape == "[]" else '{"a":'
        return opening * depth + "1" + shape[1] * depth

    def at(depth: int, frames: int) -> bool:
        if frames:
            return at(depth, frames - 1)
        try:
            decode(f'{{"name":"a","args":{{"x":{nested(depth)}}}}}')
        except InvalidEvent:
            return False
        return True

    assert at(MAX_DEPTH - 2, stack)
    assert not at(MAX_DEPTH - 1, stack)


@given(st.text('[]{}",\\a', max_size=60))
def test_brackets_within_text_do_not_count_as_nesting(text: str) -> None:
    assert not too_deep(json.dumps([text] * 50))
    assert too_deep("[" * MAX_DEPTH + json.dumps([text]) + "]" * MAX_DEPTH)
    assert not too_deep(json.dumps([[["a" + "[" * 1000]]] * 5))


@pytest.mark.parametrize(
    "text", ['{"a":1.0,"a":2}', " [1] ", "null", '"\\u00e9"', '"\\ud83d\\ude00"', "9" * 300]
)
def test_json_that_every_reader_takes_stays_as_it_is(text: str) -> None:
    assert clean_json(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('{"a":"x\\ud83d"}', '{"a":"x\ufffd"}'),
        ('["\\ude00",1.50]', '["\ufffd",1.5]'),
        ('"\ud83d"', '"\ufffd"'),
    ],
)
def test_json_with_lone_surrogates_is_written_anew_without(text: str, clean: str) -> None:
    assert clean_json(text) == clean


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "1e999", '["\\ud83d",1e999]', "[" * 101 + "]" * 101]
)
def test_json_that_not_every_reader_takes_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        clean_json(text)


def test_an_event_may_have_800000_bytes_and_no_more() -> None:
    frame = len(body('{"a":""}'))
    assert len(body('{"a":"' + "x" * (MAX_EVENT_BYTES - frame) + '"}')) == MAX_EVENT_BYTES == 800_000
    for filling in ("x" * (MAX_EVENT_BYTES - frame + 1), "ü" * ((MAX_EVENT_BYTES - frame) // 2 + 1)):
        with pytest.raises(TooLarge, match="800,000 bytes"):
            body('{"a":"' + filling + '"}')
    check_size("ü" * 400_000)
    with pytest.raises(TooLarge):
        check_size("世" * 266_667)


@given(any_text)
def test_a_quoted_string_reads_back(text: str) -> None:
    assert quote(text) == quote(text)
    assert json.loads(quote(text)) == json.loads(json.dumps(text))


def test_strings_that_are_remembered_are_few_and_short() -> None:
    quote("x" * 100_000)
    assert "x" * 100_000 not in events_module._strings
    for number in range(6000):
        quote(f"session {number}")
    assert len(events_module._strings) <= 4096
