"""What a client's session wants done: values that a host carries out, in the order in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.errors import AgentStoreError
from ..core.events import Event, Wire


class Send(msgspec.Struct, frozen=True):
    """Send a text frame."""

    text: str


class Committed(msgspec.Struct, frozen=True):
    """These events are pending now; make them durable before going on."""

    events: Sequence[Wire]


class Changed(msgspec.Struct, frozen=True):
    """The log has moved. Make ``pending`` durable and apply ``events`` before going on.

    Attributes:
        events: to be applied to the confirmed tables, without a gap after those of earlier actions.
        confirmed: how many of the first pending events are now upstream's.
        pending: what is pending now, a chain on ``head``.
        rebased: pending events were renumbered or dropped: what was made of them has to be made again.
        head: the upstream head that ``pending`` stands on.
    """

    events: Sequence[Event]
    confirmed: int
    pending: tuple[Wire, ...]
    rebased: bool
    head: int


class CaughtUp(msgspec.Struct, frozen=True):
    """Everything that was in the log when the connection was opened has come."""


class OtherLog(msgspec.Struct, frozen=True):
    """The log is another one than this session followed, or has lost events. The session has stopped for good."""

    backend_id: str


class Refused(msgspec.Struct, frozen=True):
    """A push was refused and would be again. Nothing is pushed until ``resume`` or ``discard``."""

    error: AgentStoreError


class Told(msgspec.Struct, frozen=True):
    """Ephemeral news."""

    values: list[dict[str, Any]]


class Hangup(msgspec.Struct, frozen=True):
    """Close the connection, and connect again after a while."""

    reason: str


Action = Send | Committed | Changed | CaughtUp | OtherLog | Refused | Told | Hangup
