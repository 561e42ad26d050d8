"""``connect``: which of the ways to a store to take.

What belongs here: the choice, and telling the user what was chosen when it was not the usual.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InvalidRequest, Unreachable
from ..core.limits import store_id as checked
from .discovery import Endpoint, Given, Source, default_folder, sources
from .store import Store

DEFAULT_STORE = "default-agent"


def connect(
    store_id: str = DEFAULT_STORE,
    *,
    url: str | None = None,
    token: str | None = None,
    folder: str | Path | None = None,
    embedded: bool | None = None,
) -> Store:
    """Open a store: in the Jupyter server that started this kernel or, without one, in this process.

    Args:
        store_id: which store. In a server it comes into being when something is first written to it; embedded, its
            folder is made when it is opened.
        url: a Jupyter server's address in place of the one found here; may be as Jupyter prints it, token and all.
        token: that server's token.
        folder: where the stores of this process are; ``agentstore`` in Jupyter's data directory unless given.
        embedded: True for a store in this process, False to insist on a server, None for whichever there is.

    Returns:
        The store. Use it as a context, or ``close`` it, to let go of it before Python ends.

    Raises:
        Unreachable: there is no server where one was asked for, or it has no agent stores.
        StoreLocked: another process has the embedded store.
        InvalidStoreId: an id with other than letters, digits, ``-``, ``_`` and ``.``.
        InvalidRequest: arguments that contradict each other.
    """
    checked(store_id)
    if url is not None:
        if embedded or folder is not None:
            raise InvalidRequest(
                "connect() takes either url, or embedded and folder: a store is in one place."
            )
        return _remote(store_id, Given(url, token))
    if token is not None:
        raise InvalidRequest("connect() needs the url that the token is for.", field="url")
    if embedded is False and folder is not None:
        raise InvalidRequest("A folder is for an embedded store; leave out embedded=False.", field="folder")
    why = ""
    if not embedded and folder is None:
        found, why = _find()
        if found is not None:
            return _open(store_id, *found)
        if embedded is False:
            raise Unreachable(f"No server with agent stores was found: {why}.")
    from .embedded import EmbeddedLink

    store = Store(EmbeddedLink(store_id, Path(folder) if folder is not None else default_folder()))
    if why:
        print(  # noqa: T201 - a notebook's reader must know where the data went
            f"agentstore: {why}, so the store {store.id!r} is embedded in this process, in {store.link.where}"
        )
    return store


def _find() -> tuple[tuple[Source, Endpoint] | None, str]:
    """The server that started this kernel, and where to look for it; or None and why."""
    reasons: list[str] = []
    for source in sources():
        for endpoint in source.endpoints():
            problem = _probe(endpoint)
            if problem is None:
                return (source, endpoint), ""
            reason = f"the Jupyter server at {endpoint} cannot be used ({problem})"
            if reason not in reasons:
                reasons.append(reason)
    return None, "; ".join(reasons) or "no Jupyter server started this process"


def _remote(store_id: str, source: Given) -> Store:
    problem, tried = "", ""
    for endpoint in source.endpoints():
        found = _probe(endpoint)
        if found is None:
            return _open(store_id, source, endpoint)
        problem, tried = found, str(endpoint)
    raise Unreachable(f"No agent stores at {tried}: {problem}.")


def _probe(endpoint: Endpoint) -> str | None:
    from .remote import probe

    return probe(endpoint)


def _open(store_id: str, source: Source, endpoint: Endpoint) -> Store:
    from .remote import RemoteLink

    return Store(RemoteLink(store_id, source, endpoint))
