"""A store in a Jupyter server, over REST; what happens there comes by ``follower``.

What belongs here: requests, the errors that answers stand for, and trying again. Every request may be sent twice (a
commit carries its own id), so that one whose answer was lost is simply sent again, to wherever the server is by then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..core import errors
from ..core.errors import (
    AgentStoreError,
    Forbidden,
    InvalidEvent,
    InvalidRequest,
    StoreClosed,
    Unauthorized,
    Unreachable,
)
from ..core.events import replace_surrogates
from ..core.limits import store_id as checked
from .discovery import Endpoint, Source, user_name
from .follower import Follower
from .link import Listener, Params, Receipt, Result, RowListener, State
from .sync import Standing, Sync
from .values import at_place, plain, to_json

if TYPE_CHECKING:
    import httpx
    import pyarrow

PATIENCE = 30.0
"""Seconds for which a server that does not answer is tried again: long enough for a restart."""

ARROW = "application/vnd.apache.arrow.stream"

_ERRORS = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AgentStoreError)
}


def probe(endpoint: Endpoint, timeout: float = 5.0) -> str | None:
    """Ask a server for the extension.

    Returns:
        None if it answers at ``/agentstore/health``, else what is in the way.
    """
    import httpx

    try:
        with _http(endpoint) as http:
            answer = http.get("/agentstore/health", timeout=timeout)
            if answer.status_code == 200 and answer.headers.get("content-type", "").startswith(
                "application/json"
            ):
                return None
            if answer.status_code in (401, 403):
                return "it does not accept the token"
            return "it does not have the extension jupyter_agentstore"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"it does not answer ({type(error).__name__})"


class RemoteLink:
    """A :class:`~jupyter_agentstore.client.link.Link` to a store in a server.

    Args:
        store_id: which store.
        source: where to look for the server when it does not answer any more.
        endpoint: the server as it is now.
        patience: seconds for which a server that does not answer is tried again.
    """

    def __init__(self, store_id: str, source: Source, endpoint: Endpoint, patience: float = PATIENCE) -> None:
        self.store_id = checked(store_id)
        self.user = user_name()
        self.endpoint = endpoint
        self.patience = patience
        self._source = source
        self.sync = Sync(self)
        self._clients = threading.Lock()
        self._client: httpx.Client | None = None
        self._following = threading.Lock()
        self._follower: Follower | None = None
        self._closing = threading.Event()

    @property
    def where(self) -> str:
        return str(self.endpoint)

    @property
    def state(self) -> State:
        if self._closing.is_set():
            return "closed"
        follower = self._follower
        return "connected" if follower is None or follower.connected else "connecting"

    # requests

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        patience: float | None = None,
    ) -> httpx.Response:
        import httpx

        where = {k: replace_surrogates(v) for k, v in (query or {}).items()}  # an address is UTF-8
        sent = {} if body is None else {"Content-Type": "application/json"}
        patience = self.patience if patience is None else patience
        deadline = time.monotonic() + patience
        delay = 0.1
        while True:
            if self._closing.is_set():
                raise StoreClosed(f"The store {self.store_id!r} is closed; connect anew.")
            problem: Exception
            try:
                answer = self.client().request(
                    method,
                    f"/agentstore/{path}",
                    content=body,
                    params={"storeId": self.store_id, **where},
                    headers={"Accept": accept, **sent},
                )
            except httpx.TransportError as error:
                problem = error
            except (
                RuntimeError
            ) as error:  # another thread has found the server elsewhere, and closed this client
                problem = error
            except httpx.InvalidURL as error:
                raise InvalidRequest(f"This cannot be asked for by an address: {error}.") from None
            else:
                if answer.status_code < 400:
                    return answer
                problem = self.refusal(answer)
                if answer.status_code not in (502, 503, 504):
                    raise problem
            if time.monotonic() + delay > deadline:
                if isinstance(problem, AgentStoreError):
                    raise problem
                raise Unreachable(
                    f"The Jupyter server at {self.endpoint} did not answer for {patience:g} s "
                    f"({type(problem).__name__}: {problem}). Is it running? Try again when it is."
                ) from problem
            self._closing.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, 2.0)
            self.locate()

    def locate(self) -> Endpoint:
        """Look where the server is now, and turn there."""
        for candidate in self._source.endpoints():
            if candidate == self.endpoint and self._follower is not None and self._follower.connected:
                break
            if probe(candidate, timeout=2.0) is None:
                with self._clients:
                    if candidate != self.endpoint:
                        self.endpoint = candidate
                        if self._client is not None:
                            self._client.close()
                        self._client = None
                break
        return self.endpoint

    def client(self) -> httpx.Client:
        """For requests of other kinds, to where the server was last found."""
        with self._clients:
            if self._client is None:
                self._client = _http(self.endpoint)
            return self._client

    def refusal(self, answer: httpx.Response) -> AgentStoreError:
        """The error that an answer stands for."""
        return _error(answer)

    # what the protocol promises

    def commit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        commit_id: str,
        *,
        patience: float | None = None,
    ) -> Receipt:
        parts = []
        for place, (name, args) in enumerate(events, 1):
            try:
                parts.append(to_json({"name": name, "args": plain(dict(args), InvalidEvent)}, InvalidEvent))
            except InvalidEvent as error:
                raise at_place(error, place, len(events)) from None
        body = b'{"events":[%b],"commitId":%b}' % (b",".join(parts), to_json(commit_id, InvalidRequest))
        done = self._request("POST", "events", body=body, patience=patience).json()
        seqs = done["seqs"]
        return Receipt(
            range(seqs[0], seqs[-1] + 1) if seqs else range(0), done["head"], done.get("repeated", False)
        )

    def load(self, events: Sequence[tuple[str, Mapping[str, Any]]], commit_id: str) -> Receipt:
        return self.commit(events, commit_id)

    def flush(self, timeout: float) -> None:
        """Nothing waits: every commit was durable on return."""

    def query(self, sql: str, params: Params = None) -> Result:
        import pyarrow as pa

        body: dict[str, Any] = {"sql": sql} if params is None else {"sql": sql, "params": plain(params)}
        answer = self._request("POST", "query", body=to_json(body, InvalidRequest), accept=ARROW)
        with pa.ipc.open_stream(answer.content) as stream:
            table = stream.read_all()
        return Result(table, answer.headers.get("agentstore-stale") == "true")

    def table(self, name: str) -> pyarrow.Table:
        import pyarrow as pa

        answer = self._request("GET", f"tables/{quote(replace_surrogates(name), safe='')}", accept=ARROW)
        with pa.ipc.open_stream(answer.content) as stream:
            return stream.read_all()

    def messages(
        self, conversation: str, *, after: int | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        query: dict[str, Any] = {"conversationId": conversation, "limit": limit}
        if after is not None:
            query["after"] = after
        return list(self._request("GET", "messages", query=query).json()["messages"])

    def row(self, table: str, key: str) -> dict[str, Any] | None:
        found = self._request("GET", "row", query={"table": table, "key": key}).json()["row"]
        return None if found is None else dict(found)

    def status(self) -> dict[str, Any]:
        return dict(self._request("GET", "agent/status").json())

    def log(self) -> tuple[int, str | None]:
        """The store's head, and the name of its log: None if it is not there."""
        answer = self._request("GET", "events", query={"limit": 1}).json()
        return int(answer["head"]), answer.get("backendId")

    def schema(self, patience: float | None = None) -> str:
        """The hash of the server's schema."""
        return str(self._request("GET", "health", patience=patience).json().get("schema", ""))

    def listen(self, listener: Listener) -> Callable[[], None]:
        return self._follow().events.add(listener)

    def watch(self, listener: RowListener) -> Callable[[], None]:
        return self._follow().events.add(lambda _: listener(None))

    def tables_of(self, sql: str) -> frozenset[str] | None:
        return None

    def announce(self, state: Mapping[str, Any] | None) -> None:
        self._follow().announce(state)

    def present(self) -> list[dict[str, Any]]:
        return list(self._follow().present.values())

    def _follow(self) -> Follower:
        with self._following:
            if self._closing.is_set():
                raise StoreClosed(f"The store {self.store_id!r} is closed; connect anew.")
            if self._follower is None:
                self._follower = Follower(self.store_id, self.endpoint, self.locate, self.log)
                self._follower.start()
            return self._follower

    # what a user can do about the standing

    def standing(self) -> Standing:
        follower = self._follower
        if self._closing.is_set():
            return Standing("closed")
        if follower is not None and not follower.connected:
            return Standing("offline", error=follower.error)
        return Standing("synced")

    def retry(self) -> None:
        self.resume()

    def discard(self) -> int:
        return 0

    def pause(self) -> None:
        if self._follower is not None:
            self._follower.pause()

    def resume(self) -> None:
        if self._follower is not None:
            self._follower.resume()

    def close(self) -> None:
        self._closing.set()
        with self._following:
            follower = self._follower
        if follower is not None:
            follower.close()
        with self._clients:
            if self._client is not None:
                self._client.close()
            self._client = None


def _http(endpoint: Endpoint) -> httpx.Client:
    import httpx

    # A server found on this machine may show a certificate that it signed itself; nobody is between it and us.
    verify = not (endpoint.loopback and endpoint.url.startswith("https:"))
    headers = {"Authorization": endpoint.authorization} if endpoint.authorization else {}
    return httpx.Client(
        base_url=endpoint.url,
        transport=httpx.HTTPTransport(uds=endpoint.sock) if endpoint.sock else None,
        verify=verify,
        headers=headers,
        timeout=httpx.Timeout(120.0, connect=5.0),
        trust_env=not endpoint.loopback,
    )


def _error(answer: httpx.Response) -> AgentStoreError:
    """The error that an answer stands for."""
    try:
        said = answer.json()
    except ValueError:
        said = None
    told = said.get("error") if isinstance(said, dict) else None
    if isinstance(told, dict):
        kind = _ERRORS.get(str(told.get("code")), AgentStoreError)
        message, field = str(told.get("message", "")), told.get("field")
    else:
        message, field = f"The server answered {answer.status_code} {answer.reason_phrase}.", None
        kind = {401: Unauthorized, 403: Forbidden, 502: Unreachable, 503: Unreachable, 504: Unreachable}.get(
            answer.status_code, AgentStoreError
        )
        if answer.status_code == 403:  # what Jupyter says to a token that it does not know
            kind = Unauthorized
            message = "The server does not accept this token (403). Give connect() the right token."
    error = kind.saying(message, field=field)
    if isinstance(error, errors.StoreLocked):
        error.owner = {}
    return error
