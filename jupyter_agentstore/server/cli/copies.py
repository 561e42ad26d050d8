"""``backup`` and ``restore``.

What belongs here: copies of logs, made of files, by the process that has the store, or by a server over REST.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...core.errors import AgentStoreError, Conflict, StoreLocked, Unauthorized
from ...core.limits import store_id as check_store_id
from ..announce import SCHEME
from .places import OK, counted, done, folder_of, place_of, progress_bar, spelled

if TYPE_CHECKING:
    import httpx

    from ...eventlog.backup import Report


def backup(options: argparse.Namespace) -> int:
    """``backup``."""
    from ...eventlog import backup as files

    store_id = check_store_id(options.store)
    if options.url:
        authorization = f"token {options.token}" if options.token else ""
        return _download(options, store_id, options.url, "", authorization)
    place = place_of(options, store_id)
    try:
        with progress_bar(options, "events") as progress:
            report = files.backup(place, options.file, progress, force=options.force)
    except StoreLocked as error:
        server = _announced(error.owner)
        if server is None:
            return done("Backed up", _ask_holder(options, place))
        return _download(
            options, place.name, server["url"], server.get("sock") or "", f"{SCHEME} {server['secret']}"
        )
    return done("Backed up", report)


def restore(options: argparse.Namespace) -> int:
    """``restore``."""
    from ...eventlog import backup as files

    store_id = check_store_id(options.store)
    folder = folder_of(options)
    place = folder / spelled(folder, store_id)
    with progress_bar(options, "events") as progress:
        report = files.restore(options.file, place, progress, force=options.force)
    if report.kept is not None:
        print(f"The log that was there is kept as {report.kept}.")
    return done("Restored", report)


def _ask_holder(options: argparse.Namespace, place: Path) -> Report:
    """Have the process hand the events over that has the store."""
    from ...store import Registry

    registry = Registry(place.parent, share=False)
    try:
        with progress_bar(options, "events") as progress:
            return registry.backup(place.name, options.file, progress, force=options.force)
    except StoreLocked as error:
        raise StoreLocked(
            f"{error.message} If that is a Jupyter server, name it: --url http://… and JUPYTER_TOKEN.",
            error.owner,
        ) from None
    finally:
        registry.close()


def _announced(owner: dict[str, object]) -> dict[str, Any] | None:
    """What a server of this user, on this machine, says of itself, if it is the owner of a lock."""
    import socket

    from jupyter_core.paths import jupyter_runtime_dir

    if owner.get("host") != socket.gethostname():
        return None
    try:
        said = json.loads((Path(jupyter_runtime_dir()) / f"agentstore-{owner.get('pid')}.json").read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("secret") and said.get("url") else None


def _download(options: argparse.Namespace, store_id: str, url: str, sock: str, authorization: str) -> int:
    """Have a server make the backup."""
    import httpx

    target: Path = options.file
    if target.exists() and not options.force:
        raise Conflict(f"{target} is there already.")
    parts = urlsplit(url)
    base = f"http://localhost{parts.path}" if sock else url
    local = bool(sock) or parts.hostname in ("localhost", "127.0.0.1", "::1")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=sock) if sock else None,
            headers={"Authorization": authorization} if authorization else {},
            verify=not local,  # a server on this machine may have signed its own certificate
            trust_env=not local,
            timeout=httpx.Timeout(30.0, read=600.0),
        ) as client:
            where = f"{base.rstrip('/')}/agentstore/backup"
            with client.stream("GET", where, params={"storeId": store_id}) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refused(url, answer)
                _keep(options, answer, temporary)
        report = _checked(temporary)
        temporary.replace(target)
    except httpx.HTTPError as error:
        raise OSError(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{url} made the backup {target}: {counted(report)}.")
    return OK


def _keep(options: argparse.Namespace, answer: httpx.Response, path: Path) -> None:
    total = int(answer.headers.get("Content-Length", 0))
    with path.open("xb") as file, progress_bar(options, "bytes") as progress:
        done = 0
        for part in answer.iter_bytes():
            file.write(part)
            done += len(part)
            if progress:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if done != total:
        raise OSError(f"The server sent {done:,} of {total:,} bytes.")


def _checked(path: Path) -> Report:
    from ...eventlog.backup import verify

    return verify(path)


def _refused(url: str, answer: httpx.Response) -> AgentStoreError:
    if answer.status_code == 401:
        return Unauthorized(f"{url} does not accept the token; give it as the environment's JUPYTER_TOKEN.")
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"{answer.status_code} {answer.reason_phrase}; is the extension installed there?"
    return AgentStoreError(f"{url}: {message}")
