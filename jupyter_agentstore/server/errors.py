"""What HTTP says of an error: a status and ``{"error": {"code", "message", "field"?}}``.

What belongs here: pure translation. Nothing of an unexpected error goes to the client; it is in the server's log.
"""

from __future__ import annotations

import errno
from http.client import responses
from typing import Any

from tornado.web import HTTPError

from ..core.errors import AgentStoreError

CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    416: "invalid_request",
}
"""The codes of errors that tornado and Jupyter raise, by status."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def describe(error: BaseException | None, status: int = 500) -> tuple[int, dict[str, Any]]:
    """The status and the JSON body for an error.

    Args:
        error: what was raised, or None if all that is known is the status.
        status: what tornado would answer.
    """
    if isinstance(error, AgentStoreError):
        field = {} if error.field is None else {"field": error.field}
        return error.status, {"error": {"code": error.code, "message": error.message, **field}}
    if isinstance(error, HTTPError):
        status = error.status_code
        return status, _body(CODES.get(status, "error"), _said(error))
    if isinstance(error, OSError) and error.errno in _FULL:
        return 507, _body("disk_full", "The server's disk is full: nothing was written.")
    if error is None and status != 500:
        return status, _body(CODES.get(status, "error"), responses.get(status, "Error"))
    return 500, _body("internal", "The server could not do this; its log says why.")


def _body(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _said(error: HTTPError) -> str:
    message = error.log_message or error.reason or responses.get(error.status_code, "Error")
    if error.log_message and error.args:
        try:
            return message % error.args
        except TypeError:
            return message
    return message
