"""Frames of the sync protocol: text to values and back.

What belongs here: the shape of every frame, and nothing of what may follow what (that is the session's business).
``args`` and the bodies in the log pass through as the bytes that they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from ..core.agent_schema import is_privileged
from ..core.errors import (
    AgentStoreError,
    BackendIdMismatch,
    HeadMoved,
    InvalidEvent,
    RateLimited,
    TooLarge,
)
from ..core.events import Event, Wire, clean_json, encode_args, quote, split
from ..core.limits import (
    MAX_ID_CHARS,
    MAX_PAGE_BYTES,
    MAX_PAGE_EVENTS,
    MAX_PRESENCE_BYTES,
    MAX_PUSH_EVENTS,
)
from ..core.rows import iso

MAX_FRAME_BYTES = 1_048_576
"""A frame in bytes of UTF-8: a batch of :data:`~jupyter_agentstore.core.limits.MAX_PAGE_BYTES` and its envelope."""

MAX_SEQ = 2**53 - 1
"""The largest sequence number: JavaScript's largest exact integer."""

INVALID_TEXT, INVALID_FRAME, TOO_BIG, TRY_LATER = 1007, 1008, 1009, 1013
"""Close codes (RFC 6455)."""


class ProtocolError(Exception):
    """A frame that ends the connection.

    Attributes:
        code: the websocket's close code.
        reason: one sentence.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Ping(msgspec.Struct, frozen=True, tag_field="_tag", tag="Ping"):
    """Liveness, asked for by the client."""


class Eof(msgspec.Struct, frozen=True, tag_field="_tag", tag="Eof"):
    """The client has no more requests."""


class Ack(msgspec.Struct, frozen=True, tag_field="_tag", tag="Ack"):
    """The client has taken a Chunk."""

    requestId: str


class Interrupt(msgspec.Struct, frozen=True, tag_field="_tag", tag="Interrupt"):
    """The client no longer wants a request."""

    requestId: str


class Cursor(msgspec.Struct, frozen=True):
    """The last event that a client has, and the log that it is in."""

    backendId: str
    eventSequenceNumber: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]


class Pull(msgspec.Struct, frozen=True):
    """A request for what comes after a cursor; ``cursor`` None: from the beginning.

    Attributes:
        page_events: the most events that a page may have; LiveStore's clients do not say.
    """

    id: str
    store_id: str
    live: bool
    cursor: Cursor | None
    page_events: int = MAX_PAGE_EVENTS


class Push(msgspec.Struct, frozen=True):
    """A request to append a batch.

    Attributes:
        privileged: whether an event of it is a message with role ``assistant`` or ``system``.
    """

    id: str
    store_id: str
    batch: Sequence[Wire]
    backend_id: str | None
    privileged: bool


class Watch(msgspec.Struct, frozen=True):
    """A request for what is told of the store and kept nowhere."""

    id: str
    store_id: str


class Presence(msgspec.Struct, frozen=True):
    """A request to tell of oneself.

    Attributes:
        state: a JSON object; None: one is gone.
    """

    id: str
    store_id: str
    client_id: str
    session_id: str
    state: str | None


class Refused(msgspec.Struct, frozen=True):
    """A request that cannot be served: its tag is unknown or its payload of another shape."""

    id: str
    error: AgentStoreError


Frame = Ping | Eof | Ack | Interrupt | Pull | Push | Watch | Presence | Refused


class _Request(msgspec.Struct, frozen=True, tag_field="_tag", tag="Request"):
    id: Annotated[str, msgspec.Meta(max_length=128)]
    tag: Annotated[str, msgspec.Meta(max_length=128)]
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Nothing(msgspec.Struct, tag_field="_tag", tag="None"):
    pass


class _SomeCursor(msgspec.Struct, tag_field="_tag", tag="Some"):
    value: Cursor


class _SomeText(msgspec.Struct, tag_field="_tag", tag="Some"):
    value: str


class _PullPayload(msgspec.Struct):
    storeId: str
    live: bool
    cursor: _Nothing | _SomeCursor
    pageEvents: Annotated[int, msgspec.Meta(ge=1, le=MAX_PUSH_EVENTS)] = MAX_PAGE_EVENTS


class _PushPayload(msgspec.Struct):
    storeId: str
    batch: list[msgspec.Raw]
    backendId: _Nothing | _SomeText = msgspec.field(default_factory=_Nothing)


class _WatchPayload(msgspec.Struct):
    storeId: str


_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]


class _PresencePayload(msgspec.Struct):
    storeId: str
    clientId: _Id
    sessionId: _Id
    state: msgspec.Raw


_frames = msgspec.json.Decoder(Ping | Eof | Ack | Interrupt | _Request)
_pulls = msgspec.json.Decoder(_PullPayload)
_pushes = msgspec.json.Decoder(_PushPayload)
_watches = msgspec.json.Decoder(_WatchPayload)
_presences = msgspec.json.Decoder(_PresencePayload)
_values = msgspec.json.Decoder()

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(frame: str | bytes) -> Frame:
    """Read a frame.

    Raises:
        ProtocolError: it is too large, no UTF-8, no JSON or no frame.
    """
    data = _utf8(frame)
    mask = b""
    try:
        read: Ping | Eof | Ack | Interrupt | _Request = _frames.decode(data)
    except msgspec.ValidationError as error:
        raise ProtocolError(INVALID_FRAME, f"Not a frame: {error}") from None
    except _UNREADABLE:
        mask, data = mask_surrogates(data)
        try:
            read = _frames.decode(data)
        except msgspec.ValidationError as error:
            raise ProtocolError(INVALID_FRAME, f"Not a frame: {error}") from None
        except _UNREADABLE as error:
            raise ProtocolError(INVALID_TEXT, f"Not JSON: {error}") from None
    if not isinstance(read, _Request):
        return read
    if mask and mask.decode() in read.id + read.tag:
        raise ProtocolError(INVALID_FRAME, "Not a frame: a lone surrogate in an id.")
    try:
        if read.tag == "SyncWsRpc.Pull":
            return _pull(read)
        if read.tag == "SyncWsRpc.Push":
            return _push(read, mask)
        if read.tag == "AgentStore.Watch":
            return Watch(read.id, _watches.decode(read.payload).storeId)
        if read.tag == "AgentStore.Presence":
            return _presence(read, mask)
    except msgspec.ValidationError as error:
        return Refused(read.id, InvalidEvent(f"The payload has another shape: {error}", field="payload"))
    except AgentStoreError as error:
        return Refused(read.id, error)
    except _UNREADABLE as error:
        return Refused(read.id, InvalidEvent(f"The payload cannot be read: {error}", field="payload"))
    return Refused(read.id, InvalidEvent("This server has no such request.", field="tag"))


def _utf8(frame: str | bytes) -> bytes:
    try:
        data = frame.encode() if isinstance(frame, str) else frame
        if not data.isascii() and not isinstance(frame, str):
            data.decode()
    except UnicodeError:
        raise ProtocolError(INVALID_TEXT, "Not UTF-8.") from None
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(TOO_BIG, f"A frame may have {MAX_FRAME_BYTES:,} bytes.")
    return data


def _pull(request: _Request) -> Pull:
    payload = _pulls.decode(request.payload)
    cursor = payload.cursor.value if isinstance(payload.cursor, _SomeCursor) else None
    return Pull(request.id, payload.storeId, payload.live, cursor, payload.pageEvents)


def _push(request: _Request, mask: bytes) -> Push:
    payload = _pushes.decode(request.payload)
    bodies = payload.batch if not mask else [unmask(mask, body) for body in payload.batch]
    size = sum(len(memoryview(body)) for body in bodies) + len(bodies) + 1
    if not 1 <= len(bodies) <= MAX_PUSH_EVENTS or size > MAX_PAGE_BYTES:
        raise TooLarge(
            f"A push has 1 to {MAX_PUSH_EVENTS:,} events and at most {MAX_PAGE_BYTES:,} bytes; "
            f"this one has {len(bodies)} and {size:,}.",
            field="batch",
        )
    privileged = False
    batch: list[Wire] = []
    for index, masked in enumerate(payload.batch):
        event = _event(masked, index)
        if mask:
            if mask.decode() in event.name + event.clientId + event.sessionId:
                raise InvalidEvent(f"A lone surrogate in the name of event {index}.", field="batch")
            event.args = unmask(mask, event.args)
        if event.seqNum != event.parentSeqNum + 1 or (batch and event.parentSeqNum != batch[-1].seqNum):
            raise InvalidEvent(f"The batch is no gapless chain at event {index}.", field="batch")
        privileged = is_privileged(event.name, _value(event.args, index)) or privileged
        batch.append(event)
    backend_id = payload.backendId.value if isinstance(payload.backendId, _SomeText) else None
    return Push(request.id, payload.storeId, batch, backend_id, privileged)


def _presence(request: _Request, mask: bytes) -> Presence:
    payload = _presences.decode(request.payload)
    if mask and mask.decode() in payload.clientId + payload.sessionId:
        raise InvalidEvent("A lone surrogate in the name of a client.", field="payload")
    state = bytes(unmask(mask, payload.state) if mask else payload.state)
    if state == b"null":
        return Presence(request.id, payload.storeId, payload.clientId, payload.sessionId, None)
    if len(state) > MAX_PRESENCE_BYTES:
        raise TooLarge(
            f"A presence has {MAX_PRESENCE_BYTES:,} bytes of JSON at most; this one has {len(state):,}.",
            field="state",
        )
    try:
        text = clean_json(state.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"The state of a presence: {error}", field="state") from None
    if not text.startswith("{"):
        raise InvalidEvent("The state of a presence is an object or null.", field="state")
    return Presence(request.id, payload.storeId, payload.clientId, payload.sessionId, text)


def _event(body: msgspec.Raw, index: int) -> Wire:
    try:
        event = split(body)
    except _UNREADABLE as error:
        raise InvalidEvent(f"Event {index} of the batch: {error}", field="batch") from None
    if not 0 <= event.parentSeqNum < event.seqNum <= MAX_SEQ:
        raise InvalidEvent(f"The sequence numbers of event {index} are out of range.", field="batch")
    return event


def _value(args: msgspec.Raw, index: int) -> Any:
    """What ``args`` say. Read in full: what is not JSON through and through must not get into the log."""
    if not bytes(args):  # there are none
        return None
    try:
        return _values.decode(args)
    except _UNREADABLE:
        pass
    try:
        return json.loads(bytes(args), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"The args of event {index} of the batch: {error}", field="args") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number beyond a double")
    return number


# JavaScript cuts emojis in half and writes the halves as escapes. JSON allows that, msgspec does not, not even in a
# Raw: so such escapes are masked by text that occurs nowhere in the frame, and the masks are taken off the pieces. No
# beginning of the mask is also its end, so none comes about where one meets other text.

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def mask_surrogates(data: bytes) -> tuple[bytes, bytes]:
    """``(mask, data)``: where a lone surrogate's escape began, there is the mask and its four digits."""
    mask = b"<surrogate>"
    while mask in data:  # one that the frame's sender could not foresee, or they would put in all that come
        mask = b"<surrogate-%d>" % hash(mask + data)

    def masked(match: re.Match[bytes]) -> bytes:
        lone: bytes | None = match[1]
        return match[0] if lone is None else mask + lone

    return mask, _ESCAPE.sub(masked, data)


def unmask(mask: bytes, raw: msgspec.Raw) -> msgspec.Raw:
    """A piece of the masked text as it was."""
    return msgspec.Raw(bytes(raw).replace(mask, rb"\u"))


# ---------------------------------------------------------------------------------------------------------------
# What the server sends.

PONG = '{"_tag":"Pong"}'

_iso = lru_cache(maxsize=256)(iso)


def item(event: Event) -> str:
    """An event as an item of a page: its body as it is, and what the log knows of it."""
    return (
        f'{{"eventEncoded":{event.body},"metadata":{{"_tag":"Some","value":{{"_tag":"SyncMessage.SyncMetadata",'
        f'"createdAt":"{_iso(event.recorded_at)}","actor":{quote(event.actor)}}}}}}}'
    )


def chunk(request_id: str, items: Sequence[str], remaining: int, backend_id: str) -> str:
    """A page of a pull.

    Args:
        request_id: the pull's.
        items: from :func:`item`.
        remaining: how many events come after these.
        backend_id: the log's.
    """
    more = f'{{"_tag":"MoreKnown","remaining":{remaining}}}' if remaining > 0 else '{"_tag":"NoMore"}'
    return (
        f'{{"_tag":"Chunk","requestId":{encode_args(request_id)},"values":[{{"batch":[{",".join(items)}],'
        f'"pageInfo":{more},"backendId":{quote(backend_id)}}}]}}'
    )


def news(request_id: str, items: Sequence[str]) -> str:
    """What a watcher is told: JSON objects."""
    return f'{{"_tag":"Chunk","requestId":{encode_args(request_id)},"values":[{",".join(items)}]}}'


def success(request_id: str, value: str | None = "{}") -> str:
    """The end of a request that was done; a stream's has no ``value``."""
    exit = '{"_tag":"Success"}' if value is None else f'{{"_tag":"Success","value":{value}}}'
    return f'{{"_tag":"Exit","requestId":{encode_args(request_id)},"exit":{exit}}}'


def failure(request_id: str, error: BaseException) -> str:
    """The end of a request that failed, with the error in LiveStore's words.

    Of an error that is not this package's own nothing is told but that it happened.
    """
    shown: dict[str, Any]
    if isinstance(error, HeadMoved):
        shown = {"minimumExpectedNum": error.head, "providedNum": error.provided, "_tag": "ServerAheadError"}
    elif isinstance(error, BackendIdMismatch):
        shown = {"expected": error.expected, "received": error.received, "_tag": "BackendIdMismatchError"}
    elif isinstance(error, AgentStoreError):
        about: dict[str, Any] = {"name": error.code, "message": error.message}
        if isinstance(error, RateLimited):
            about["retryAfter"] = error.retry_after
        shown = {"cause": about, "_tag": "UnknownError"}
    else:
        cause = {"name": "error", "message": "Something went wrong in the server; its log says what."}
        shown = {"cause": cause, "_tag": "UnknownError"}
    return (
        f'{{"_tag":"Exit","requestId":{encode_args(request_id)},"exit":{{"_tag":"Failure",'
        f'"cause":{{"_tag":"Fail","error":{encode_args(shown)}}}}}}}'
    )
