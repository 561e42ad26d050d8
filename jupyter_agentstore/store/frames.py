"""What two processes of a user say to each other about a store: frames, and values as bytes.

What belongs here: pure translation. Who is asked what is in ``guest`` and ``hosting``, the sockets are in ``peers``.

A frame is a header (length of the body, number of the call, kind) and a body in MessagePack. Tables travel as Arrow,
in parts before the answer that they belong to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core import errors
from ..core.errors import AgentStoreError, TooLarge
from ..core.events import Event, Wire, replace_surrogates
from ..core.operations import RowChange
from ..core.schema import Schema
from .commits import Draft, Receipt

if TYPE_CHECKING:
    import pyarrow

CALL, PART, DONE, FAILED, GONE, NEWS = range(6)
"""Kinds of frames. GONE answers a call for a store that is not, or no longer, served here: nothing was done.
NEWS has the number of the call that asked for it."""

MAX_FRAME = 1 << 29
PART_BYTES = 1 << 20

_header = struct.Struct("!IQB")
_encoder = msgspec.msgpack.Encoder(enc_hook=str)


class BadFrame(Exception):
    """The other side does not speak this protocol."""


def pack(value: Any) -> bytes:
    """A value as a body. Lone surrogates in text, which MessagePack has no form for, become U+FFFD."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(replace_surrogates(value))


def unpack(body: bytes) -> Any:
    """What :func:`pack` was given; tuples are lists."""
    return msgspec.msgpack.decode(body)


def frame(kind: int, number: int, body: bytes | memoryview) -> bytes:
    """A frame.

    Raises:
        TooLarge: the body is over the limit.
    """
    if len(body) > MAX_FRAME:
        raise TooLarge(f"{len(body):,} bytes are too many to hand to the process that has the store.")
    return _header.pack(len(body), number, kind) + body


class Frames:
    """Puts frames together from what a socket gives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """The frames that are complete with ``data``: kind, number, body.

        Raises:
            BadFrame: a body is longer than any may be.
        """
        self._buffer += data
        at, end = 0, len(self._buffer)
        try:
            while end - at >= _header.size:
                length, number, kind = _header.unpack_from(self._buffer, at)
                if length > MAX_FRAME:
                    raise BadFrame
                after = at + _header.size + length
                if after > end:
                    return
                body = bytes(memoryview(self._buffer)[at + _header.size : after])
                at = after
                yield kind, number, body
        finally:
            del self._buffer[:at]


# ---- values


def pack_drafts(schema: Schema, drafts: Sequence[Draft]) -> list[Any]:
    """Drafts, with no more of their checked fields than a store's door looks at."""
    plain = []
    for draft in drafts:
        kind = schema.events[draft.name]
        wanted = {field for _, field in kind.requires} | ({kind.unique[1]} if kind.unique else set())
        fields = {name: draft.fields[name] for name in wanted}
        plain.append((draft.name, draft.args, fields, draft.client_id, draft.session_id))
    return plain


def unpack_drafts(plain: Sequence[Any]) -> list[Draft]:
    """What :func:`pack_drafts` was given, without the other fields."""
    return [Draft(*each) for each in plain]


def pack_batch(batch: Sequence[Wire]) -> list[Any]:
    """A pushed batch; its ``args`` stay the text that they are."""
    return [
        (event.name, bytes(event.args), event.seqNum, event.parentSeqNum, event.clientId, event.sessionId)
        for event in batch
    ]


def unpack_batch(plain: Sequence[Any]) -> list[Wire]:
    """What :func:`pack_batch` was given."""
    return [Wire(name, msgspec.Raw(args), *rest) for name, args, *rest in plain]


def pack_events(events: Sequence[Event]) -> list[Any]:
    """Events of a log."""
    return [(event.seq, event.recorded_at, event.actor, event.body) for event in events]


def unpack_events(plain: Sequence[Any]) -> list[Event]:
    """What :func:`pack_events` was given."""
    return [Event(*each) for each in plain]


def pack_changes(changes: Sequence[RowChange]) -> list[Any]:
    """Rows that changed."""
    return [(change.table, change.key, change.before, change.after, change.seq) for change in changes]


def unpack_changes(plain: Sequence[Any]) -> list[RowChange]:
    """What :func:`pack_changes` was given."""
    return [RowChange(*each) for each in plain]


def pack_receipt(receipt: Receipt) -> list[Any]:
    """A receipt."""
    return [receipt.seqs.start, receipt.seqs.stop, receipt.head, receipt.repeated]


def unpack_receipt(plain: Sequence[Any]) -> Receipt:
    """What :func:`pack_receipt` was given."""
    first, stop, head, repeated = plain
    return Receipt(range(first, stop), head, repeated)


def pack_params(params: Sequence[Any] | Mapping[str, Any] | None) -> Any:
    """A query's parameters: as they are, or in a row of Arrow if they hold times, decimals or the like."""
    if params is None or _is_plain(params if isinstance(params, Mapping) else list(params)):
        return [None, params]
    import pyarrow

    named = isinstance(params, Mapping)
    items = params.items() if isinstance(params, Mapping) else ((str(n), v) for n, v in enumerate(params))
    try:
        row = pyarrow.table({name: pyarrow.array([value]) for name, value in items})
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise errors.InvalidRequest(f"A parameter cannot be handed on: {error}", field="params") from None
    return [named, b"".join(table_parts(row))]


def unpack_params(plain: Sequence[Any]) -> Any:
    """What :func:`pack_params` was given."""
    named, value = plain
    if named is None:
        return value
    [row] = table_of([value]).to_pylist()
    return row if named else list(row.values())


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return value is None or type(value) in (str, bool, float, bytes)


def table_parts(table: pyarrow.Table) -> Iterator[bytes | memoryview]:
    """A table as an Arrow stream, in parts."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    view = memoryview(sink.getvalue())
    for at in range(0, len(view), PART_BYTES):
        yield view[at : at + PART_BYTES]


def table_of(parts: Sequence[bytes]) -> pyarrow.Table:
    """What :func:`table_parts` was given."""
    import pyarrow

    return pyarrow.ipc.open_stream(b"".join(parts)).read_all()


# ---- errors


def _all(kind: type[AgentStoreError]) -> Iterator[type[AgentStoreError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _all(each)


def pack_error(error: BaseException) -> bytes:
    """An error; of one that is not expected no more than its text."""
    if isinstance(error, AgentStoreError):
        return pack(["", error.code, vars(error)])
    if isinstance(error, OSError):
        return pack(["os", error.errno, str(error)])
    if isinstance(error, ValueError):
        return pack(["value", None, str(error)])
    return pack(["other", None, f"{type(error).__name__}: {error}"])


def unpack_error(body: bytes) -> Exception:
    """What :func:`pack_error` was given, as an error of the same class with the same attributes."""
    kind, code, said = unpack(body)
    if kind == "os":
        return OSError(code, said) if code is not None else OSError(said)
    if kind == "value":
        return ValueError(said)
    if kind == "other":
        return AgentStoreError(said)
    made = next((each for each in _all(AgentStoreError) if each.code == code), AgentStoreError)
    error = made.__new__(made, said["message"])
    error.args = (said["message"],)
    vars(error).update(said)
    return error
