"""The event: what the log keeps and the wire carries.

What belongs here: the event as a value, its wire JSON, and the reading of it. What an event *means* is the
schema's business. An event keeps the wire's own JSON, because LiveStore clients compare ``args`` when they
confirm their pending events: it must come back exactly as it was pushed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from .errors import InvalidEvent, TooLarge
from .limits import MAX_DEPTH, MAX_EVENT_BYTES


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event in the log.

    Attributes:
        seq: sequence number, from 1, gapless.
        recorded_at: when the log took it, whole milliseconds since 1970 UTC, never going back.
        actor: the authenticated user who committed it.
        body: wire JSON: ``{"name","args","seqNum","parentSeqNum","clientId","sessionId"}``.
    """

    seq: int
    recorded_at: int
    actor: str
    body: str

    def decode(self) -> Decoded:
        """Read the body.

        Raises:
            InvalidEvent: it is not an event, ``args`` is not an object, or it is nested too deeply.
        """
        return decode(self.body)


class Meta(msgspec.Struct, frozen=True, gc=False):
    """What the log knows of an event; the second argument of a materializer."""

    seq: int
    recorded_at: int
    actor: str
    client_id: str
    session_id: str


class Decoded(msgspec.Struct, gc=False):
    """A body read: ``args`` as plain Python values, lone surrogates replaced by U+FFFD."""

    name: str
    args: dict[str, Any] = msgspec.field(default_factory=dict)
    clientId: str = ""
    sessionId: str = ""


class Wire(msgspec.Struct, gc=False):
    """A body split into its fields, ``args`` untouched; empty (no bytes) where the body has none."""

    name: str
    args: msgspec.Raw
    seqNum: int
    parentSeqNum: int
    clientId: str
    sessionId: str


class _Void(msgspec.Struct, gc=False):
    """What LiveStore sends for an event whose schema is ``Schema.Void``."""

    name: str
    seqNum: int
    parentSeqNum: int
    clientId: str
    sessionId: str


_decoder = msgspec.json.Decoder(Decoded)
_wires = msgspec.json.Decoder(Wire)
_voids = msgspec.json.Decoder(_Void)
_json = msgspec.json.Decoder()
_text = msgspec.json.Encoder()
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def decode(body: str | bytes) -> Decoded:
    """Read a body; see :meth:`Event.decode`."""
    try:
        text = body if isinstance(body, str) else body.decode()
        if text.count("[") + text.count("{") > MAX_DEPTH and too_deep(text):
            raise InvalidEvent(f"Not an event: it is nested deeper than {MAX_DEPTH} times.", field="args")
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        return _decode_slowly(body, error)


def _decode_slowly(body: str | bytes, error: Exception) -> Decoded:
    try:
        return msgspec.convert(_loads(body.decode() if isinstance(body, bytes) else body), Decoded)
    except (ValueError, msgspec.ValidationError):
        raise InvalidEvent(f"Not an event: {error}", field="args") from None


def split(body: str | bytes | msgspec.Raw) -> Wire:
    """Split a body into its fields.

    Raises:
        msgspec.DecodeError: it is no event, or msgspec cannot read it: lone surrogates, vast numbers.
        UnicodeDecodeError: it is not UTF-8.
        RecursionError: it is nested too deeply.
    """
    try:
        return _wires.decode(body)
    except msgspec.ValidationError:
        void = _voids.decode(body)
        none = msgspec.Raw()
        return Wire(void.name, none, void.seqNum, void.parentSeqNum, void.clientId, void.sessionId)


def clean_json(text: str) -> str:
    """JSON text that every reader of JSON takes: the text itself, but for lone surrogates.

    Raises:
        ValueError: it is not JSON, is nested too deep, or holds a number beyond a double.
    """
    if too_deep(text):
        raise ValueError(f"nested deeper than {MAX_DEPTH} times")
    try:
        _json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return json.dumps(_loads(text), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text


def _loads(text: str) -> Any:
    """Read what msgspec refuses and JSON allows: escapes of lone surrogates, which are replaced."""
    return replace_surrogates(json.loads(text, parse_constant=_finite, parse_float=_finite))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond a double")
    return number


def too_deep(text: str) -> bool:
    """Whether JSON text has more than MAX_DEPTH lists and objects inside each other."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def replace_surrogates(value: Any) -> Any:
    """A JSON value with every lone surrogate in its text replaced by U+FFFD."""
    if isinstance(value, str):
        if value.isascii() or _is_utf8(value):
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    return value


def encode_args(args: Any) -> str:
    """``args`` as compact JSON text.

    Lone surrogates are kept, as escapes. NaN and infinities are refused.

    Raises:
        InvalidEvent: a value that JSON has no word for.
    """
    try:
        return (
            json.dumps(args, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
            if (_needs_care(args))
            else _text.encode(args).decode()
        )
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidEvent(f"The fields cannot be written as JSON: {error}", field="args") from None


def _needs_care(value: Any) -> bool:
    """Whether msgspec would change or refuse the value: a float that is no number, a lone surrogate."""
    if type(value) is dict:  # most events: text alone
        for item in value.values():
            if (type(item) is not str or not item.isascii()) and item is not None:
                break
        else:
            try:
                return not "".join(value).isascii()
            except TypeError:  # a key that is no text
                return True
    if isinstance(value, str):
        return not value.isascii() and not _is_utf8(value)
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_needs_care(key) or _needs_care(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_needs_care(item) for item in value)
    return False


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_strings: dict[str, str] = {}


def quote(text: str) -> str:
    """A string as JSON; the few names and client ids that come again and again are remembered."""
    known = _strings.get(text)
    if known is None:
        known = encode_args(text)
        if len(_strings) < 4096 and len(text) <= 256:
            _strings[text] = known
    return known


def wire(name: str, args_json: str, seq: int, client_id: str, session_id: str) -> str:
    """Write a body; with no ``args`` if ``args_json`` is empty.

    Raises:
        TooLarge: it is over :data:`~jupyter_agentstore.core.limits.MAX_EVENT_BYTES`.
    """
    args = f'"args":{args_json},' if args_json else ""
    body = (
        f'{{"name":{quote(name)},{args}"seqNum":{seq},"parentSeqNum":{seq - 1},'
        f'"clientId":{quote(client_id)},"sessionId":{quote(session_id)}}}'
    )
    check_size(body)
    return body


def check_size(body: str) -> None:
    """Raise :class:`TooLarge` for a body over the limit of one event."""
    if len(body) * 4 > MAX_EVENT_BYTES and len(body.encode()) > MAX_EVENT_BYTES:
        raise TooLarge(
            f"An event may have {MAX_EVENT_BYTES:,} bytes of JSON; this one has {len(body.encode()):,}."
        )
