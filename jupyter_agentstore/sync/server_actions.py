"""What a :class:`~jupyter_agentstore.sync.server_session.ServerSession` asks of its host.

What belongs here: the actions as values. When they come, and what follows from them, is the session's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..core.events import Wire
from ..core.limits import MAX_PAGE_BYTES, MAX_PAGE_EVENTS


class Send(msgspec.Struct, frozen=True):
    """Send a text frame."""

    text: str


class Open(msgspec.Struct, frozen=True):
    """Find the store, or make it if the user may write; then ``opened``, ``absent`` or ``unavailable``.

    After ``absent`` look for it again, now and then. It comes once.
    """


class ReadPage(msgspec.Struct, frozen=True):
    """Read up to ``limit`` events after ``after``, ``max_bytes`` of bodies; then ``page`` or ``page_failed``.

    Attributes:
        begins: it is a pull's first; if the user may not have it, ``pull_refused``.
        live: of the pull.
    """

    pull: int
    after: int
    begins: bool = False
    live: bool = False
    limit: int = MAX_PAGE_EVENTS
    max_bytes: int = MAX_PAGE_BYTES


class PushBatch(msgspec.Struct, frozen=True):
    """Append a batch, in the order of these actions; then ``pushed`` or ``push_failed``.

    Attributes:
        push: names it towards the session.
        privileged: the user needs more than to write: it holds a message with role assistant or system.
    """

    push: int
    batch: Sequence[Wire]
    backend_id: str | None
    privileged: bool


class Follow(msgspec.Struct, frozen=True):
    """Tell what changes from now on by ``told``, and this watch first of all that is there by ``watching``.

    Or ``watch_failed``. What is told is what is kept nowhere.
    """

    watch: int


class Present(msgspec.Struct, frozen=True):
    """Tell all watchers of a client's presence; then ``presented`` or ``present_failed``.

    Attributes:
        present: names it towards the session.
        state: a JSON object; None: the client is gone.
    """

    present: int
    client_id: str
    session_id: str
    state: str | None


class Close(msgspec.Struct, frozen=True):
    """Close the connection; there are no more actions after it."""

    code: int
    reason: str


Action = Send | Open | ReadPage | PushBatch | Follow | Present | Close
