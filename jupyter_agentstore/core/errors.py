"""Every error that a user of the package can meet, each with a stable code.

What belongs here: the exception classes, and nothing that needs another module. A door (REST, websocket,
Python) turns them into its own form; ``status`` is what HTTP says of each (RFC 9110).
"""

from __future__ import annotations

from typing import Self


class AgentStoreError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: stable, machine-readable name of the error.
        status: the HTTP status that fits it.
        message: one sentence for a person.
        field: the field of the input at fault, or None.
    """

    code = "error"
    status = 500

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    @classmethod
    def saying(cls, message: str, *, field: str | None = None) -> Self:
        """An error of this kind of which no more than a sentence is known; some kinds want more of their maker."""
        error = cls.__new__(cls)
        AgentStoreError.__init__(error, message, field=field)
        return error


class InvalidEvent(AgentStoreError):
    """An event that its schema does not allow; ``field`` names the field at fault."""

    code, status = "invalid_event", 422


class InvalidRequest(AgentStoreError):
    """A request that cannot be read: no JSON, a wrong type, an unknown parameter."""

    code, status = "invalid_request", 400


class InvalidStoreId(AgentStoreError):
    """A store id that breaks the rules of :func:`~jupyter_agentstore.core.limits.store_id`."""

    code, status = "invalid_store_id", 400


class NotFound(AgentStoreError):
    """A conversation, message or store that is not there."""

    code, status = "not_found", 404


class Conflict(AgentStoreError):
    """An id that exists already, with other content."""

    code, status = "conflict", 409


class HeadMoved(AgentStoreError):
    """An append at a head that the log has left.

    Attributes:
        head: the log's head, a sequence number.
        provided: the head that the caller expected.
    """

    code, status = "head_moved", 409

    def __init__(self, head: int, provided: int) -> None:
        super().__init__(f"The log's head is {head}, not {provided}.")
        self.head = head
        self.provided = provided


class BackendIdMismatch(AgentStoreError):
    """The log is another one than the client knows (it was restored or reset)."""

    code, status = "backend_id_mismatch", 409

    def __init__(self, expected: str, received: str) -> None:
        super().__init__("This store's log is another one than the client knows: it was restored or reset.")
        self.expected = expected
        self.received = received


class TooLarge(AgentStoreError):
    """An input over one of the limits of :mod:`~jupyter_agentstore.core.limits`."""

    code, status = "too_large", 413


class RateLimited(AgentStoreError):
    """More than the caller may send in a time; later it will be taken.

    Attributes:
        retry_after: seconds until it will.
    """

    code, status = "rate_limited", 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyConnections(AgentStoreError):
    """The server, or one user, has as many connections as may be; ``status`` is 503 or 429."""

    code, status = "too_many_connections", 429

    def __init__(self, message: str, *, status: int = 429) -> None:
        super().__init__(message)
        self.status = status


class Unauthorized(AgentStoreError):
    """Nobody is logged in, or the token is wrong."""

    code, status = "unauthorized", 401


class Forbidden(AgentStoreError):
    """The caller may not do this."""

    code, status = "forbidden", 403


class StoreLocked(AgentStoreError):
    """Another process has the store's files.

    Attributes:
        owner: what its lock file says of that process: ``pid``, ``host``, ``url`` (each may be missing).
    """

    code, status = "store_locked", 423

    def __init__(self, message: str, owner: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.owner = owner or {}


class StoreClosed(AgentStoreError):
    """The store was closed while the call was under way, or before it."""

    code, status = "store_closed", 503


class Rebuilding(AgentStoreError):
    """The tables are being rebuilt for a changed schema, and the call needs newer ones."""

    code, status = "rebuilding", 503


class DamagedLog(AgentStoreError):
    """The event log is not what was written: a gap, events out of order, unreadable pages."""

    code, status = "damaged_log", 500


class ForeignFile(AgentStoreError):
    """A file where the event log or the tables should be is not one of this package's."""

    code, status = "foreign_file", 500


class QueryRefused(AgentStoreError):
    """SQL that is not one read-only statement over the store's tables."""

    code, status = "query_refused", 400


class QueryFailed(AgentStoreError):
    """SQL that was allowed and failed: a syntax error, an unknown column, a division of text."""

    code, status = "query_failed", 400


class QueryTimeout(AgentStoreError):
    """SQL that ran longer than its limit and was interrupted."""

    code, status = "query_timeout", 408


class QueryTooLarge(AgentStoreError):
    """SQL whose answer, or whose work in memory, is over the limit."""

    code, status = "query_too_large", 413


class ReplyTimeout(AgentStoreError):
    """No reply came within the time that the caller wanted to wait."""

    code, status = "reply_timeout", 504


class Unreachable(AgentStoreError):
    """No server with the store answered, for as long as the client was willing to try."""

    code, status = "unreachable", 503
