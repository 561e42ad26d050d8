"""The client's side of the wire: requests to text, and what a server sends to values.

What belongs here: the shape of frames as a client meets them. What follows what is the business of
``client_session``. Bodies of events pass through as the text that they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from ..core.errors import AgentStoreError, BackendIdMismatch, HeadMoved, InvalidEvent
from ..core.events import Wire, encode_args, quote, replace_surrogates, split
from ..core.limits import MAX_PUSH_EVENTS
from .codec import mask_surrogates, unmask

PING = '{"_tag":"Ping"}'
FINAL = frozenset(
    {
        "unauthorized",
        "forbidden",
        "not_found",
        "conflict",
        "too_large",
        "invalid_event",
        "invalid_request",
        "invalid_store_id",
    }
)
"""Codes of errors that a push meets again if it is only repeated."""


class Unreadable(Exception):
    """What came is no frame that a client understands."""


class Pong(msgspec.Struct, frozen=True, tag_field="_tag", tag="Pong"):
    """The answer to a Ping."""


class Chunk(msgspec.Struct, tag_field="_tag", tag="Chunk"):
    """A part of a stream; ``values`` are for :func:`pages` or :func:`news`."""

    requestId: str
    values: msgspec.Raw
    mask: bytes = b""


class Exit(msgspec.Struct, frozen=True, tag_field="_tag", tag="Exit"):
    """The end of a request; see :func:`error`."""

    requestId: str
    exit: Any


class _About(msgspec.Struct, gc=False):
    createdAt: str = ""
    actor: str = ""


class _Metadata(msgspec.Struct, gc=False):
    value: _About = msgspec.field(default_factory=_About)


class _PageInfo(msgspec.Struct, gc=False):
    tag: str = msgspec.field(name="_tag")
    remaining: int = 0


class Item(msgspec.Struct, gc=False):
    """An event of a page, and what the log says of it."""

    eventEncoded: msgspec.Raw
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class Page(msgspec.Struct, gc=False):
    """A page of a pull."""

    batch: list[Item]
    pageInfo: _PageInfo
    backendId: str


class Numbers(msgspec.Struct, gc=False):
    """Where an event says that it stands."""

    seqNum: int
    parentSeqNum: int


_frames = msgspec.json.Decoder(Pong | Chunk | Exit)
_pages = msgspec.json.Decoder(list[Page])
_values = msgspec.json.Decoder(list[Any])
_numbers = msgspec.json.Decoder(Numbers)
_raw = msgspec.json.Decoder(msgspec.Raw)

_BAD = (msgspec.MsgspecError, ValueError, RecursionError)


# ---- what a server sends


def decode(frame: str | bytes) -> Pong | Chunk | Exit:
    """Read a frame.

    Raises:
        Unreadable: it is no frame, or none that a client knows.
    """
    try:
        read: Pong | Chunk | Exit = _frames.decode(frame)
        return read
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from None
    except _BAD:
        pass
    try:  # msgspec refuses the escape of half an emoji, which JSON allows
        mask, data = mask_surrogates(frame.encode() if isinstance(frame, str) else bytes(frame))
        read = _frames.decode(data)
        if isinstance(read, Exit):
            read = Exit(read.requestId, replace_surrogates(json.loads(frame)["exit"]))
    except _BAD as error:
        raise Unreadable(str(error)) from None
    if isinstance(read, Chunk):
        read.mask = mask
    return read


def pages(chunk: Chunk) -> list[Page]:
    """The pages of a pull.

    Raises:
        Unreadable: there are others, or none.
    """
    try:
        found = _pages.decode(chunk.values)
    except _BAD as error:
        raise Unreadable(str(error)) from None
    if not found:
        raise Unreadable("a chunk without a page")
    return found


def news(chunk: Chunk) -> list[dict[str, Any]]:
    """What a watch tells; what is no object is left out.

    Raises:
        Unreadable: it is no list.
    """
    try:
        values = _values.decode(chunk.values) if not chunk.mask else _plain(chunk)
    except _BAD as error:
        raise Unreadable(str(error)) from None
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, dict)]


def _plain(chunk: Chunk) -> list[Any]:
    found = replace_surrogates(json.loads(text(chunk.values, chunk.mask)))
    return found if isinstance(found, list) else []


def numbers(body: msgspec.Raw) -> Numbers:
    """The numbers of an event.

    Raises:
        Unreadable: it has none.
    """
    try:
        return _numbers.decode(body)
    except _BAD as error:
        raise Unreadable(str(error)) from None


def text(body: msgspec.Raw, mask: bytes) -> str:
    """A body as it is in the log.

    Raises:
        Unreadable: it is not UTF-8.
    """
    data = bytes(body)
    try:
        return (data.replace(mask, rb"\u") if mask else data).decode()
    except UnicodeDecodeError as error:
        raise Unreadable(str(error)) from None


def event(body: msgspec.Raw, mask: bytes) -> Wire:
    """A body split into its fields.

    Raises:
        Unreadable: it is no event.
    """
    try:
        read = split(body)
    except _BAD as error:
        raise Unreadable(str(error)) from None
    if mask:
        read.args = unmask(mask, read.args)
    return read


@lru_cache(maxsize=256)
def milliseconds(time: str) -> int:
    """ISO-8601 as milliseconds since 1970 UTC; 0 for no text.

    Raises:
        Unreadable: it is no time.
    """
    if not time:
        return 0
    try:
        moment = datetime.fromisoformat(time)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Unreadable(f"{time[:40]!r} is no time") from None


def error(end: Exit) -> AgentStoreError | None:
    """What a request failed with, as far as a server says it in words that are known; None if it was done."""
    exit = end.exit if isinstance(end.exit, dict) else {}
    if exit.get("_tag") == "Success":
        return None
    cause = exit.get("cause")
    shown = cause.get("error") if isinstance(cause, dict) else None
    if not isinstance(shown, dict):
        return AgentStoreError("The server ended a request without a word that is known.")
    match shown:
        case {"_tag": "ServerAheadError", "minimumExpectedNum": int(head), "providedNum": int(provided)}:
            return HeadMoved(head, provided)
        case {"_tag": "BackendIdMismatchError", "expected": str(expected)}:
            return BackendIdMismatch(expected, str(shown.get("received", "")))
    about = shown.get("cause")
    about = about if isinstance(about, dict) else {}
    failed = AgentStoreError(str(about.get("message", "The server failed, and does not say at what.")))
    code = about.get("name")
    if isinstance(code, str):
        failed = _KNOWN.get(code, AgentStoreError)(failed.message)
        failed.code = code
    return failed


def retry_after(end: Exit) -> float:
    """For how many seconds a server wants to be spared; 0.0 if it does not say."""
    match end.exit:
        case {"cause": {"error": {"cause": {"retryAfter": int() | float() as seconds}}}}:
            return float(seconds)
    return 0.0


def _known() -> dict[str, type[AgentStoreError]]:
    """The errors that are made of a sentence alone, by their codes."""
    found, queue = {}, [AgentStoreError]
    while queue:
        kind = queue.pop()
        queue += kind.__subclasses__()
        if kind.__init__ is AgentStoreError.__init__ and kind.__module__ == AgentStoreError.__module__:
            found[kind.code] = kind  # other rooms have finer kinds with the same codes
    return found


_KNOWN = _known()


# ---- what a client asks


def args(given: str) -> msgspec.Raw:
    """The args of an event as they will come back: without space around them, half emojis escaped.

    Raises:
        InvalidEvent: it is not JSON.
    """
    data = given.encode(errors="surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        data = b"".join(
            b"\\u%04x" % ord(char) if "\ud800" <= char <= "\udfff" else char.encode() for char in given
        )
    try:
        return _raw.decode(data).copy()
    except msgspec.DecodeError:
        pass
    try:
        mask, data = mask_surrogates(data)
        return unmask(mask, _raw.decode(data))
    except msgspec.DecodeError as error:
        raise InvalidEvent(f"The fields are no JSON: {error}", field="args") from None


def pull(id: str, store_id: str, backend_id: str | None, after: int) -> str:
    """Ask for what comes after an event, and go on asking."""
    cursor = '{"_tag":"None"}'
    if backend_id is not None:
        cursor = (
            f'{{"_tag":"Some","value":{{"backendId":{quote(backend_id)},"eventSequenceNumber":{after}}}}}'
        )
    payload = f'{{"storeId":{quote(store_id)},"live":true,"cursor":{cursor},"pageEvents":{MAX_PUSH_EVENTS}}}'
    return _request(id, "SyncWsRpc.Pull", payload)


def push(id: str, store_id: str, backend_id: str, bodies: Sequence[str]) -> str:
    """Ask for a batch to be appended."""
    payload = (
        f'{{"storeId":{quote(store_id)},"batch":[{",".join(bodies)}],'
        f'"backendId":{{"_tag":"Some","value":{quote(backend_id)}}}}}'
    )
    return _request(id, "SyncWsRpc.Push", payload)


def watch(id: str, store_id: str) -> str:
    """Ask for ephemeral news, and go on asking."""
    return _request(id, "AgentStore.Watch", f'{{"storeId":{quote(store_id)}}}')


def presence(id: str, store_id: str, client_id: str, session_id: str, state: dict[str, Any] | None) -> str:
    """Say who is there; ``state`` None: gone."""
    payload = {"storeId": store_id, "clientId": client_id, "sessionId": session_id, "state": state}
    return _request(id, "AgentStore.Presence", encode_args(payload))


def ack(id: str) -> str:
    """Say that a Chunk was taken."""
    return f'{{"_tag":"Ack","requestId":{quote(id)}}}'


def _request(id: str, tag: str, payload: str) -> str:
    return f'{{"_tag":"Request","id":"{id}","tag":"{tag}","payload":{payload},"headers":[]}}'
