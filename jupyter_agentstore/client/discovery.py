"""Finding the Jupyter server that this kernel belongs to, and finding it again when it has moved.

What belongs here: where to look and what each place says. Every place is a ``Source`` that lists endpoints, the
likeliest first, from what it finds *now*: a server that was restarted on another port is found by asking its source
again. Whether a server answers is for ``remote`` to try. Tokens and secrets live in an endpoint's ``authorization``
alone, which no ``repr`` shows.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

SERVER_FILE = "JUPYTER_AGENTSTORE_SERVER"
"""The environment variable with which a server tells its kernels the path of its own file."""


@dataclass(frozen=True)
class Endpoint:
    """A Jupyter server to talk to.

    Attributes:
        url: its address with the base URL, without a slash at the end.
        sock: the path of its unix socket, or "".
        authorization: the value of the ``Authorization`` header, or "".
    """

    url: str
    sock: str = ""
    authorization: str = field(default="", repr=False)

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine for certain, so that no proxy may come between."""
        host = urlsplit(self.url).hostname or ""
        return bool(self.sock) or host in ("localhost", "::1") or host.startswith("127.")

    def __str__(self) -> str:
        return f"{self.url} (socket {self.sock})" if self.sock else self.url


class Source(Protocol):
    """A place that knows of servers."""

    @property
    def key(self) -> str:
        """Names whose stores they have, also when the server comes back on another port."""

    def endpoints(self) -> Iterator[Endpoint]:
        """The servers that it knows of now, the likeliest first."""


@dataclass(frozen=True)
class Given:
    """The server that the user named. A token in the address (as Jupyter prints it) is taken out of it."""

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        *_, last = self.endpoints()
        return f"{last.url} {last.sock}"

    def endpoints(self) -> Iterator[Endpoint]:
        parts = urlsplit(self.url if "//" in self.url else f"http://{self.url}")
        token = self.token or next(iter(parse_qs(parts.query).get("token", ())), None)
        path = parts.path.rstrip("/")
        for page in ("/agentstore", "/lab", "/tree", "/notebooks"):
            at = f"{path}/".find(f"{page}/")
            path = path[:at] if at >= 0 else path
        sock = unquote(parts.netloc) if parts.scheme == "http+unix" else ""
        where = ("http", "localhost") if sock else (parts.scheme, parts.netloc.rpartition("@")[2])
        url = urlunsplit((*where, path, "", ""))
        if token is None:
            yield from (found for found in _servers(_runtime()) if (found.url, found.sock) == (url, sock))
        yield Endpoint(url, sock, f"token {token}" if token else "")


@dataclass(frozen=True)
class ServerFile:
    """The file that the extension writes for the kernels of its server's user.

    When the server is gone so is its file; another server's file with the same folder of stores takes its place.
    """

    path: Path
    folder: str

    @classmethod
    def named(cls, path: str) -> ServerFile:
        """The source for a path from the environment."""
        return cls(Path(path), str(_read(Path(path)).get("folder", "")))

    @property
    def key(self) -> str:
        return self.folder or str(self.path)

    def endpoints(self) -> Iterator[Endpoint]:
        files = sorted(self.path.parent.glob("agentstore-*.json"), key=_age)
        for file in [self.path, *(f for f in files if f != self.path)]:
            info = _read(file)
            if info and (file == self.path or (self.folder and info.get("folder") == self.folder)):
                yield _endpoint(info, f"agentstore {info.get('secret', '')}")


@dataclass(frozen=True)
class Hub:
    """The JupyterHub that started this single-user server tells it, and so its kernels, by the environment."""

    @property
    def key(self) -> str:
        return f"hub {urlsplit(os.environ.get('JUPYTERHUB_SERVICE_URL', '')).path}"

    def endpoints(self) -> Iterator[Endpoint]:
        url = os.environ.get("JUPYTERHUB_SERVICE_URL")
        token = os.environ.get("JUPYTERHUB_API_TOKEN")
        if url and token:
            parts = urlsplit(url)
            host = "127.0.0.1" if parts.hostname in ("0.0.0.0", "::", None) else parts.hostname  # noqa: S104
            where = f"{host}:{parts.port}" if parts.port else str(host)
            url = urlunsplit((parts.scheme, where, parts.path.rstrip("/"), "", ""))
            yield Endpoint(url, "", f"token {token}")


@dataclass(frozen=True)
class Parent:
    """The Jupyter server whose process started this one, by the file that every Jupyter server writes."""

    pid: int

    @property
    def key(self) -> str:
        info = _read(_runtime() / f"jpserver-{self.pid}.json")
        return f"parent {info.get('root_dir', '')}"

    def endpoints(self) -> Iterator[Endpoint]:
        info = _read(_runtime() / f"jpserver-{self.pid}.json")
        if info:
            token = str(info.get("token") or "")
            yield _endpoint(info, f"token {token}" if token else "")


def sources() -> list[Source]:
    """The places to look for the server that started this kernel, the surest first."""
    found: list[Source] = []
    if path := os.environ.get(SERVER_FILE):
        found.append(ServerFile.named(path))
    found.append(Hub())
    if (pid := os.environ.get("JPY_PARENT_PID", "")).isdigit():
        found.append(Parent(int(pid)))
    return found


def user_name() -> str:
    """Whom this process belongs to: ``JUPYTERHUB_USER``, else the operating system's user."""
    try:
        return os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"user-{os.getuid()}" if hasattr(os, "getuid") else "user"


def default_folder() -> Path:
    """The folder of the stores unless somebody names another: ``agentstore`` in Jupyter's data directory."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "agentstore"


def sessions_folder() -> Path:
    """The folder of named sessions: ``agentstore-sessions`` in Jupyter's data directory."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "agentstore-sessions"


def _runtime() -> Path:
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def _servers(folder: Path) -> Iterator[Endpoint]:
    """The servers on this machine that have a file of the extension's or, without one, a token."""
    for file in sorted(folder.glob("agentstore-*.json"), key=_age):
        if info := _read(file):
            yield _endpoint(info, f"agentstore {info.get('secret', '')}")
    for file in sorted(folder.glob("jpserver-*.json"), key=_age):
        if (info := _read(file)) and info.get("token"):
            yield _endpoint(info, f"token {info['token']}")


def _endpoint(info: dict[str, Any], authorization: str) -> Endpoint:
    base = str(info.get("base_url") or "/").rstrip("/")
    sock = str(info.get("sock") or "")
    if sock:
        return Endpoint(f"http://localhost{base}", sock, authorization)
    url = str(info.get("url") or "").rstrip("/")
    if base and not url.endswith(base):
        url += base
    return Endpoint(url, "", authorization)


def _read(file: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is none, or it is just being written."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _age(file: Path) -> float:
    """A sorting key: the newest first."""
    try:
        return -file.stat().st_mtime
    except OSError:
        return 0.0
