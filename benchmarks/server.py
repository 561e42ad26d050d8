"""A real Jupyter server with the extension, in a process of its own, and a client to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0

_OTHERS = ("jupyterlab", "notebook", "notebook_shim", "jupyter_lsp", "jupyter_server_terminals", "nbclassic")
"""Extensions that may be installed and take seconds to start."""


class Refused(Exception):
    """An answer that is no success; ``status`` is HTTP's."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:500]}")
        self.status = status


class Server:
    """A server process on the loopback interface; its folders are in ``home``, which outlives it.

    Args:
        home: for Jupyter's own folders; the stores are in ``home/stores``.
        settings: traits, such as ``{"AgentStoreApp.reply_delay": [0, 0]}``.
        extensions: further server extensions.
        environment: further environment variables.
    """

    def __init__(
        self,
        home: Path,
        settings: Mapping[str, Any] | None = None,
        extensions: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.stores = home / "stores"
        self.token = secrets.token_hex(16)
        self._settings = {
            "AgentStoreApp.folder": str(self.stores),
            "ServerApp.jpserver_extensions": dict.fromkeys(_OTHERS, False)
            | dict.fromkeys(["jupyter_agentstore", *extensions], True),
            "ServerApp.root_dir": str(home),
            "ServerApp.allow_root": True,
            "ServerApp.open_browser": False,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.log_level": "WARN",
            **(settings or {}),
        }
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Server:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with what it said.
        """
        home = self.home
        home.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        settings = self._settings | {"ServerApp.port": self.port, "ServerApp.port_retries": 0}
        lines = [f"c.{name} = {value!r}" for name, value in settings.items()]
        config = home / "config.py"
        config.write_text("c = get_config()\n" + "\n".join(lines) + "\n")
        environment = os.environ | {
            "JUPYTER_TOKEN": self.token,
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            **self._environment,
        }
        self.log = home / "server.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", "--config", str(config)],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"The server did not start:\n{self.log.read_text()[-3000:]}")
            try:
                with self.client() as client:
                    client.get("health")
                return self
            except (OSError, http.client.HTTPException, Refused):
                time.sleep(0.02)

    def client(self) -> Client:
        return Client("127.0.0.1", self.port, self.token)

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()


class Client:
    """One connection, kept open; for one thread."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}

    def get(self, path: str, store: str | None = None) -> Any:
        return self._call("GET", path, store, None)

    def post(self, path: str, body: Any, store: str | None = None) -> Any:
        return self._call("POST", path, store, json.dumps(body).encode())

    def _call(self, method: str, path: str, store: str | None, body: bytes | None) -> Any:
        url = f"/agentstore/{path}"
        if store is not None:
            url += f"{'&' if urlsplit(url).query else '?'}storeId={store}"
        self._connection.request(method, url, body, self._headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status >= 300:
            raise Refused(answer.status, text)
        return json.loads(text)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
