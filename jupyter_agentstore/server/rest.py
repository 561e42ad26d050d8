"""A REST call: what it takes, who may make it, and how it answers, declared once and held to.

What belongs here: :class:`Operation`, which is both what a handler enforces and what the OpenAPI description says,
and :class:`Handler`, which reads bodies and writes answers. What the calls do is in the modules named after them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import APIHandler
from tornado.web import stream_request_body

from ..core.errors import TooLarge
from .base import Access, Action
from .body import read, read_json, write_json

if TYPE_CHECKING:
    from ..store import Draft, Receipt, Store

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
_ON_THE_LOOP = 64_000  # bytes of JSON that are read in less than a millisecond

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True)
class Operation:
    """What one method of one path takes and answers.

    Attributes:
        summary: one line for people.
        action: what the caller must be allowed to do with the store; None: be logged in.
        answer: JSON Schema of a successful answer's JSON.
        query: struct of the query string, beside ``storeId``.
        body: struct of the JSON body.
        store: whether it is about a store, and takes ``storeId``.
        media: further media types of the answer, with what they hold.
        headers: headers of the request that mean something to the call.
        partial: what an answer with status 206 is; None if there is none.
        errors: further statuses, with when they are given.
    """

    summary: str
    action: Action | None
    answer: Mapping[str, Any] | None = None
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    store: bool = True
    media: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    partial: str | None = None
    errors: Mapping[int, str] = field(default_factory=dict)


def operation(
    summary: str,
    action: Action | None,
    answer: Mapping[str, Any] | None = None,
    *,
    query: type[msgspec.Struct] | None = None,
    body: type[msgspec.Struct] | None = None,
    store: bool = True,
    media: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    partial: str | None = None,
    errors: Mapping[int, str] | None = None,
) -> Callable[[Method], Method]:
    """Declare a handler's method; see :class:`Operation`.

    The method is called with the path's parts, then ``query`` and ``body`` where they are declared, and what it
    returns is the answer's JSON, or None if it has answered by itself.
    """
    declared = Operation(
        summary, action, answer, query, body, store, media or {}, headers or {}, partial, errors or {}
    )

    def wrap(method: Method) -> Method:
        @wraps(method)
        async def call(self: Handler, *path: str) -> None:
            self.refuse_late()
            if declared.action is not None:
                await self.allow(declared.action, self.store_id)
            given: list[Any] = [*path]
            if declared.query is not None:
                given.append(self.read_query(declared.query))
            if declared.body is not None:
                given.append(await self.read_body(declared.body))
            answer = await method(self, *given)
            if answer is not None:
                self.finish(
                    await self.host.call(write_json, answer) if _is_long(answer) else write_json(answer)
                )

        call.operation = declared  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return wrap


@stream_request_body
class Handler(Access, APIHandler):
    """A handler of REST calls.

    It takes the body as it comes, so that tornado neither reads it as a form (curl says that it is one) nor keeps
    more of it than the limit. A refusal waits until the body is through: a connection that is closed while the
    client still sends is reset, and the client never sees why.
    """

    def initialize(self) -> None:
        """Begin a request."""
        self._chunks: list[bytes] = []
        self._received = 0
        self._refusal: Exception | None = None
        self._through = False

    async def prepare(self) -> None:  # type: ignore[override]
        """Find out who calls; a refusal is kept for :meth:`refuse_late`."""
        try:
            await super().prepare()
        except Exception as error:
            self._refusal = error

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body, or let it go if it will not be read."""
        self._received += len(chunk)
        if self._refusal is not None or self._received > self.host.body_bytes:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    def refuse_late(self) -> None:
        """Raise what :meth:`prepare` found, now that the body is through."""
        self._through = True
        if self._refusal is not None:
            raise self._refusal

    @allow_unauthenticated
    def options(self, *path: str) -> None:
        """What another site's page may send."""
        self.refuse_late()
        super().options(*path)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with an error as JSON."""
        if not self._through:  # tornado then closes the connection; the client must not send more on it
            self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)

    async def read_body(self, kind: type[Any]) -> Any:
        """The body as a typed value.

        Raises:
            TooLarge: it is over the limit.
            InvalidRequest: it is not JSON, or not what the call takes.
        """
        limit = self.host.body_bytes
        if self._received > limit:
            raise TooLarge(f"A body may have {limit:,} bytes; this one has {self._received:,}.")
        body = b"".join(self._chunks)
        self._chunks.clear()
        if len(body) <= _ON_THE_LOOP:
            return read(kind, read_json(body))
        return await self.host.call(lambda: read(kind, read_json(body)))

    def read_query(self, kind: type[Any]) -> Any:
        """The query string as a typed value; parameters that the call does not know are left alone."""
        names = {item.encode_name for item in msgspec.structs.fields(kind)}
        values = {
            name: self.get_query_argument(name, strip=False)
            for name in names & self.request.query_arguments.keys()
        }
        return read(kind, values, query=True)

    async def existing(self) -> Store:
        """The store to read; empty if it is not there."""
        return await self.host.find(self.store_id)

    async def commit(self, drafts: list[Draft], commit_id: str | None = None) -> Receipt:
        """Commit as the caller, durably; the store is made if need be."""
        if self.host.hooks.pushes:
            await self.host.hooks.push(self.store_id, self.actor, drafts, "rest")
        return await self.host.commit(self.store_id, drafts, actor=self.actor, commit_id=commit_id)


def _is_long(answer: Any) -> bool:
    """Whether writing the answer would keep the loop from other work."""
    return isinstance(answer, dict) and any(isinstance(v, list) and len(v) > 500 for v in answer.values())
