"""``connect``: which of the ways to a store to take.

What belongs here: the choice, and telling the user what was chosen when it was not the usual.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.agent_schema import agent_schema
from ..core.errors import InvalidRequest, TooLarge, Unreachable
from ..core.limits import store_id as checked
from .discovery import Endpoint, Given, Source, default_folder, sessions_folder, sources
from .store import Store

if TYPE_CHECKING:
    from .link import Link
    from .remote import RemoteLink

DEFAULT_STORE = "default-agent"

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


_sessions: weakref.WeakValueDictionary[Path, Store] = weakref.WeakValueDictionary()
"""Named sessions that are open in this process, so that a cell can be run again."""


class _How:
    """How to be connected to a server.

    Args:
        session: the name of a session that is kept on disk, or None.
        replica: whether to keep tables here.
    """

    def __init__(self, session: str | None, replica: bool) -> None:
        self.session = session
        self.replica = replica

    def folder(self, store_id: str, source: Source) -> Path:
        """Where the session is kept: by its name, the store, and whose it is."""
        digest = hashlib.sha256(f"{store_id.casefold()}\0{source.key}".encode()).hexdigest()[:12]
        return sessions_folder() / f"{store_id.casefold()}-{digest}" / (self.session or "")


def connect(
    store_id: str = DEFAULT_STORE,
    *,
    url: str | None = None,
    token: str | None = None,
    folder: str | Path | None = None,
    embedded: bool | None = None,
    session: str | None = None,
    replica: bool = True,
) -> Store:
    """Open a store: in the Jupyter server that started this kernel or, without one, in this process.

    With a server, the store is a *session*: its tables are kept here too, so that reading asks nobody, and commits
    apply here at once and are sent in the background, also those made while the server is away. ``store.sync`` says
    how that stands, ``store.flush()`` waits until the server has everything.

    Args:
        store_id: which store. It comes into being when somebody who may write to it opens it.
        url: a Jupyter server's address in place of the one found here; may be as Jupyter prints it, token and all.
        token: that server's token.
        folder: where the stores of this process are; ``agentstore`` in Jupyter's data directory unless given.
        embedded: True for a store in this process, False to insist on a server, None for whichever there is.
        session: a name by which this session is kept on disk, so that what the server does not have yet survives a
            restart of the kernel, and a big store is there at once the next time. One process at a time can have it;
            asked for again in the same one, it is the same store.
        replica: False to keep no tables here: every question goes to the server, every commit waits for it. So it is
            also where the server has other tables than this version of the package.

    Returns:
        The store. Use it as a context, or ``close`` it, to let go of it before Python ends.

    Raises:
        Unreachable: there is no server where one was asked for, or it has no agent stores.
        StoreLocked: another process has the embedded store, or the session of that name.
        InvalidStoreId: an id with other than letters, digits, ``-``, ``_`` and ``.``.
        InvalidRequest: arguments that contradict each other.
    """
    checked(store_id)
    if session is not None and not _SESSION.fullmatch(session):
        raise InvalidRequest(
            "A session's name is 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit.",
            field="session",
        )
    if session is not None and (not replica or embedded or folder is not None):
        raise InvalidRequest("A named session is for a store in a server, with tables here.", field="session")
    how = _How(session, replica)
    if url is not None:
        if embedded or folder is not None:
            raise InvalidRequest(
                "connect() takes either url, or embedded and folder: a store is in one place."
            )
        return _remote(store_id, Given(url, token), how)
    if token is not None:
        raise InvalidRequest("connect() needs the url that the token is for.", field="url")
    if embedded is False and folder is not None:
        raise InvalidRequest("A folder is for an embedded store; leave out embedded=False.", field="folder")
    why = ""
    if not embedded and folder is None:
        found, why = _find()
        if found is None and session is not None:
            raise Unreachable(f"A session needs a server, and none was found: {why}.")
        if found is not None:
            return _open(store_id, *found, how)
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


def _remote(store_id: str, source: Given, how: _How) -> Store:
    problem, tried, first = "", "", None
    for endpoint in source.endpoints():
        found = _probe(endpoint)
        if found is None:
            return _open(store_id, source, endpoint, how)
        problem, tried, first = found, str(endpoint), first or endpoint
    if how.session is not None and first is not None and how.folder(store_id, source).exists():
        return _open(store_id, source, first, how)  # what is on disk, until the server is back
    raise Unreachable(f"No agent stores at {tried}: {problem}.")


def _probe(endpoint: Endpoint) -> str | None:
    from .remote import probe

    return probe(endpoint)


def _open(store_id: str, source: Source, endpoint: Endpoint, how: _How) -> Store:
    from .remote import RemoteLink

    folder = None if how.session is None else how.folder(checked(store_id), source)
    open_here = None if folder is None else _sessions.get(folder)
    if open_here is not None and open_here.link.state != "closed":
        return open_here
    remote = RemoteLink(store_id, source, endpoint)
    link: Link = remote
    try:
        if how.replica:
            link = _session(remote, source, endpoint, how)
    except BaseException:
        remote.close()
        raise
    store = Store(link)
    if folder is not None:
        _sessions[folder] = store
    return store


def _session(remote: RemoteLink, source: Source, endpoint: Endpoint, how: _How) -> Link:
    """A session with the server; or the server alone, if it has other tables than this package."""
    from .joining import MOST_BYTES, Join
    from .journal import Journal
    from .replica import Replica
    from .session import Session
    from .synced import SyncedLink

    join = Join(remote, MOST_BYTES if how.session is None else None)
    away: Exception | None = None
    try:
        if remote.schema(patience=2.0) != agent_schema.hash:
            if how.session is not None:
                raise InvalidRequest(
                    "The server has other tables than this package, so a session is not possible."
                )
            return remote
    except Unreachable as error:
        if how.session is None:
            raise
        away = error
    folder = None if how.session is None else how.folder(remote.store_id, source)
    journal = None if folder is None else Journal(folder, remote.store_id)
    replica: Replica | None = None
    try:
        replica = Replica(None if folder is None else folder / "tables")
        if away is None and (journal is None or not journal.pending):
            join(replica)
        session = Session(remote, endpoint, replica, join, journal)
    except BaseException as error:
        if replica is not None:
            replica.close()
        if journal is not None:
            journal.close()
        if journal is None and isinstance(error, (TooLarge, OSError)):
            print(f"agentstore: {_no_tables(remote.store_id, error)}")  # noqa: T201 - it is slower so
            return remote
        raise
    try:
        session.start(remote.patience if away is None else 0.0)
    except Unreachable as error:
        if how.session is None:
            session.close()
            raise
        print(f"agentstore: {error} What is committed is kept, and sent when it is back.")  # noqa: T201
    except BaseException:
        session.close()
        raise
    return SyncedLink(remote, replica, session)


def _no_tables(store_id: str, error: BaseException) -> str:
    """A sentence about a store whose tables are not kept here."""
    why = error.message if isinstance(error, TooLarge) else str(error)
    return (
        f"the tables of {store_id!r} are not kept in this process ({why}), so every question goes to the server; "
        "a named session, connect(session=…), keeps them on disk."
    )
