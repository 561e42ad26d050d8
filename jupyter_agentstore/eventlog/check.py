"""The full check of a log, page by page. It reads events and judges them; it opens and repairs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from ..core.errors import DamagedLog
from ..core.events import Event
from .contract import Progress


class _Body(msgspec.Struct, gc=False):
    name: str
    seqNum: int
    parentSeqNum: int
    clientId: str
    sessionId: str
    args: Any = None


_decoder = msgspec.json.Decoder(_Body)
_NUMBERS = re.compile(r'"seqNum":(\d{1,19}),"parentSeqNum":(\d{1,19}),')


def verify_pages(pages: Iterable[list[Event]], total: int, progress: Progress | None) -> int:
    """Check that the pages hold events 1 to ``total``, each as it must be; see :meth:`EventLog.verify`."""
    done = time = 0
    for page in pages:
        for event in page:
            done += 1
            if event.seq != done:
                raise DamagedLog(f"Event {event.seq} comes where event {done} should be.")
            if event.recorded_at < time:
                raise DamagedLog(f"Event {done}: recorded_at goes back from {time} to {event.recorded_at}.")
            time = event.recorded_at
            _check_body(event)
        if progress:
            progress(done, total)
    if done != total:
        raise DamagedLog(f"The log ends with event {done}; there should be {total}.")
    if progress and not total:
        progress(0, 0)
    return done


def _check_body(event: Event) -> None:
    try:
        body = _decoder.decode(event.body)
        numbers = body.seqNum, body.parentSeqNum
    except (msgspec.DecodeError, RecursionError):
        numbers = _numbers(event)
    if numbers != (event.seq, event.seq - 1):
        raise DamagedLog(f"Event {event.seq}: its body is numbered {numbers[0]} after {numbers[1]}.")


def _numbers(event: Event) -> tuple[int, int]:
    """The numbers of a body that msgspec refuses and JSON allows: lone surrogates, vast numbers, deep nesting."""
    try:
        body = msgspec.convert(json.loads(event.body, parse_constant=_refuse), _Body)
        return body.seqNum, body.parentSeqNum
    except RecursionError:
        found = _NUMBERS.findall(event.body)
        if not found:
            raise DamagedLog(f"Event {event.seq}: its body is not an event: it has no numbers") from None
        return int(found[-1][0]), int(found[-1][1])
    except (ValueError, msgspec.ValidationError) as error:
        raise DamagedLog(f"Event {event.seq}: its body is not an event: {error}") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
