"""An event read: its row in the table ``events``, and what its schema makes of it.

What belongs here: everything that is done to one event before tables come in. It is total: whatever a body holds,
there is a row to show and a reason to give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import msgspec

from ..core.errors import InvalidEvent
from ..core.events import Decoded, Event, Meta, clean_json, decode, replace_surrogates, too_deep
from ..core.operations import Operation
from ..core.schema import MAX_TIME, Schema
from .overlay import Twin
from .tables import commit_key

_COMMIT = "commit:"
_MAX_REASON = 500
_encode = msgspec.json.Encoder().encode


class Reading(msgspec.Struct, gc=False):
    """What an event means by itself.

    Attributes:
        twin: its row in the table ``events``.
        operations: what its materializer wants.
        reason: why it is an anomaly already, or ''.
        commit: of one that came with a commit id: key in the table of commits, actor, id.
    """

    twin: Twin
    operations: Sequence[Operation] = ()
    reason: str = ""
    commit: tuple[str, str, str] | None = None


def read(events: Sequence[Event], schema: Schema) -> list[Reading]:
    """Read events and ask their materializers."""
    types = schema.events
    readings = []
    for event in events:
        seq, time, actor = event.seq, event.recorded_at, event.actor
        try:
            body = decode(event.body)
        except InvalidEvent as error:
            twin = _salvage(event)
            readings.append(Reading(twin, (), _text(error), _commit(twin)))
            continue
        name, client, session = body.name, body.clientId, body.sessionId
        shown = time if 0 <= time <= MAX_TIME else MAX_TIME
        twin = (seq, shown, actor if actor.isascii() else clean(actor), name, _args(body), client, session)
        operations: Sequence[Operation] = ()
        reason = ""
        kind = types.get(name)
        if kind is None:
            reason = f"There is no event type {name[:80]!r} in this schema."
        else:
            try:
                operations = kind.materialize(kind.read(body.args), Meta(seq, time, actor, client, session))
                if type(operations) is not tuple:
                    operations = tuple(operations)
            except InvalidEvent as error:
                reason = _text(error)
            except MemoryError:
                raise
            except Exception as error:
                operations, reason = (), failure(error)
        commit = _commit(twin) if client == "server" else None
        readings.append(Reading(twin, operations, reason, commit))
    return readings


def _commit(twin: Twin) -> tuple[str, str, str] | None:
    """Which commit an event belongs to, if it says: only those of this side's own doors do."""
    _, _, actor, _, _, client, session = twin
    if client != "server" or not session.startswith(_COMMIT):
        return None
    commit_id = session.removeprefix(_COMMIT)
    return commit_key(actor, commit_id), actor, commit_id


def failure(error: BaseException) -> str:
    """What is said of an event whose materializer failed, or asked for what its tables do not allow."""
    return f"{type(error).__name__}: {_text(error)}"[:_MAX_REASON]


def clean(text: str) -> str:
    """Text that UTF-8 can hold."""
    if text.isascii():
        return text
    result: str = replace_surrogates(text)
    return result


def _text(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:
        return "no words for it"
    return clean(said[:_MAX_REASON])


def _args(body: Decoded) -> str:
    """The arguments as JSON that every reader takes alike: no key twice, nothing escaped that need not be."""
    try:
        return _encode(body.args).decode()
    except OverflowError:  # an integer beyond 64 bits
        return json.dumps(body.args, ensure_ascii=False, separators=(",", ":"))


class _Shallow(msgspec.Struct, gc=False):
    name: str = ""
    args: msgspec.Raw = msgspec.Raw(b"null")
    clientId: str = ""
    sessionId: str = ""


_shallow = msgspec.json.Decoder(_Shallow)
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"')


def _salvage(event: Event) -> Twin:
    """The row of a body that is no event: as much of it as can be read, the rest as text in JSON."""
    body, name, client, session = event.body, "", "", ""
    args = None
    if not too_deep(body):  # otherwise a parser's answer would depend on the stack it runs on
        try:
            shallow = _shallow.decode(body)
            name, client, session = shallow.name, shallow.clientId, shallow.sessionId
            args = _json_text(bytes(shallow.args).decode())
        except (msgspec.DecodeError, UnicodeError):
            args = _json_text(body)
    elif found := _NAME.match(body):
        name = clean(found[1])
    time = event.recorded_at if 0 <= event.recorded_at <= MAX_TIME else MAX_TIME
    return (event.seq, time, clean(event.actor), name, args or _in_json(body), client, session)


def _json_text(text: str) -> str:
    try:
        return clean_json(text)
    except ValueError:
        return _in_json(text)


def _in_json(text: str) -> str:
    return _encode(clean(text)).decode()
