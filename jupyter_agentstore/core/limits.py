"""The limits of every entrance, and the rule for store ids. Constants and checks only."""

from __future__ import annotations

import re

from .errors import InvalidStoreId

MAX_EVENT_BYTES = 800_000
"""An event's wire JSON, in bytes of UTF-8: room for one event within LiveStore's page of 900,000."""

MAX_PAGE_BYTES = 900_000
"""A page of a pull and a pushed batch, in bytes (LiveStore's own limit is just under Cloudflare's 1 MiB)."""

MAX_PAGE_EVENTS = 100
"""Events in a page of a pull (LiveStore's own limit)."""

MAX_PUSH_EVENTS = 1_000
"""Events in a pushed batch. LiveStore's own clients push 100 at most."""

MAX_PRESENCE_BYTES = 2_000
"""The JSON that a client tells of itself."""

MAX_COMMIT_EVENTS = 10_000
"""Events in one commit over REST or from Python."""

MAX_COMMIT_BYTES = 64_000_000
"""Bytes of all events of one commit."""

MAX_DEPTH = 100
"""How deep lists and objects may be nested in JSON that is read: what a parser bears depends on the stack it runs on,
and what an event does to tables may not."""

MAX_ID_CHARS = 256
"""Characters of an id inside an event."""

_STORE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def store_id(text: object) -> str:
    """Check a store id: 1-128 letters, digits, ``-``, ``_``, ``.``, beginning with a letter or digit.

    Ids are unique without regard to case; the spelling of the first use is kept.

    Raises:
        InvalidStoreId: it breaks the rule.
    """
    if isinstance(text, str) and _STORE_ID.fullmatch(text):
        return text
    shown = repr(text)[:80]
    raise InvalidStoreId(
        f"{shown} is no store id: use 1 to 128 letters, digits, '-', '_' or '.', "
        "beginning with a letter or digit.",
        field="storeId",
    )
