"""The log over REST: reading events, and committing them."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.agent_schema import is_privileged
from ..core.errors import InvalidEvent
from ..core.events import Event, split
from ..core.rows import iso
from ..core.schema import Schema
from ..store import Draft, draft
from .body import write_json
from .conversations import DOOR
from .rest import Handler, operation
from .shapes import FLAG, NUMBER, TEXT, TIME, EventPage, NewEvents, array, nullable, record, ref

if TYPE_CHECKING:
    from ..store import Store

_PAGE_BYTES = 8_000_000

EVENT = record(
    seq=NUMBER,
    recordedAt=TIME,
    actor=TEXT,
    name=TEXT,
    args={"type": "object"},
    clientId=TEXT,
    sessionId=TEXT,
)


class _Out(msgspec.Struct, frozen=True):
    seq: int
    recordedAt: str
    actor: str
    name: str
    args: Any
    clientId: str
    sessionId: str


class Events(Handler):
    """``events``."""

    @operation(
        "Events of the log, in order; fewer than asked for when they are long",
        "read",
        record(events=array(ref("event")), head=NUMBER, backendId=nullable(TEXT)),
        query=EventPage,
    )
    async def get(self, page: EventPage) -> Any:
        store = await self.existing()
        self.finish(await self.host.call(_page, store, page, there=self.host.is_there(store)))

    @operation(
        "Commit events, all or none",
        "write",
        record(seqs=array(NUMBER), head=NUMBER, repeated=FLAG),
        body=NewEvents,
        errors={
            403: "Only who may execute may speak as 'assistant' or 'system'.",
            404: "An event is about something that is not there.",
            409: "An id is taken, or the commitId was used with other content.",
        },
    )
    async def post(self, body: NewEvents) -> Any:
        if any(is_privileged(event.name, event.args) for event in body.events):
            await self.allow("execute", self.store_id)
        drafts = await self.host.call(drafted, self.stores.schema, body)
        receipt = await self.commit(drafts, body.commitId)
        return {"seqs": list(receipt.seqs), "head": receipt.head, "repeated": receipt.repeated}


def drafted(schema: Schema, body: NewEvents) -> list[Draft]:
    """The events of a body, each checked.

    Raises:
        InvalidEvent: with the field at fault and, if there are more, the event's place.
    """
    drafts = []
    make = partial(draft, schema, door=DOOR, commit_id=body.commitId)
    for place, event in enumerate(body.events, 1):
        try:
            drafts.append(make(event.name, event.args))
        except InvalidEvent as error:
            if len(body.events) == 1:
                raise
            raise InvalidEvent(f"Event {place}: {error.message}", field=error.field) from None
    return drafts


def _page(store: Store, page: EventPage, *, there: bool) -> bytes:
    events = [_out(event) for event in store.read(page.after, page.limit, _PAGE_BYTES)]
    return write_json(
        {"events": events, "head": store.head, "backendId": store.backend_id if there else None}
    )


def _out(event: Event) -> _Out:
    """An event as it is answered; ``args`` are copied as they stand in the log."""
    time = iso(event.recorded_at)
    try:
        body = split(event.body)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a lone surrogate, which JSON allows
        fields = json.loads(event.body, parse_float=_finite)
        inside = (fields["name"], fields.get("args", {}), fields["clientId"], fields["sessionId"])
    else:
        inside = (body.name, body.args if bytes(body.args) else {}, body.clientId, body.sessionId)
    return _Out(event.seq, time, event.actor, *inside)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
