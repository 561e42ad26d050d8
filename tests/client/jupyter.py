"""A real Jupyter server in a process and folder of its own, as the client's tests need it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from jupyter_client.blocking import BlockingKernelClient

TOKEN = "token-of-the-tests"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Jupyter:
    """A Jupyter server. Its kernels, its runtime folder and its stores are under ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        token: str = TOKEN,
        password: str = "",
        base_url: str = "/",
        sock: Path | None = None,
        extension: bool = True,
        delay: float = 0.3,
        settings: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.token = token
        self.base_url = base_url
        self.sock = sock
        self.port = 0
        self._password = password
        self._extension = extension
        self._delay = delay
        self._settings = settings
        self._environ = environ or {}
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("runtime", "data", "config", "root"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))},
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "PYTHONDONTWRITEBYTECODE": "",
            **self._environ,
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.base_url.rstrip('/')}"

    @property
    def file(self) -> Path:
        """The file that the extension writes for this server's kernels."""
        return self.folder / "runtime" / f"agentstore-{self.pid}.json"

    def start(self) -> Jupyter:
        self.port = free_port()
        where = (
            [f"--ServerApp.sock={self.sock}"]
            if self.sock
            else ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"]
        )
        command = [
            *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", *where),
            f"--ServerApp.base_url={self.base_url}",
            f"--ServerApp.root_dir={self.folder / 'root'}",
            f"--IdentityProvider.token={self.token}",
            f"--PasswordIdentityProvider.hashed_password={self._password}",
            f"--ServerApp.jpserver_extensions={{'jupyter_agentstore': {self._extension}}}",
            *[f"--AgentStoreApp.reply_delay={self._delay}"] * 2,
            *self._settings,
        ]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait()
        return self

    def http(self) -> httpx.Client:
        """For REST calls of the tests' own, as the bearer of the token."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"token {self.token}"} if self.token else {},
            transport=httpx.HTTPTransport(uds=str(self.sock)) if self.sock else None,
            trust_env=False,
            timeout=30,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        path = "/agentstore/health" if self._extension else "/api"
        with self.http() as http:
            while time.monotonic() < deadline:
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                with suppress(httpx.HTTPError, OSError):
                    if http.get(path).status_code in (200, 401) and (
                        self.file.exists() or not self._extension
                    ):
                        return
                time.sleep(0.05)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(30)
            self._process = None

    def restart(self, *, kill: bool = False) -> None:
        """Stop, and start again on another port."""
        self.stop(kill=kill)
        self.start()

    @contextmanager
    def kernel(self) -> Iterator[Kernel]:
        """A kernel that the server itself started."""
        with self.http() as http:
            answer = http.post("/api/kernels", json={"name": "python3"})
            answer.raise_for_status()
            id = answer.json()["id"]
            try:
                with Kernel(self.folder / "runtime" / f"kernel-{id}.json") as kernel:
                    yield kernel
            finally:
                http.delete(f"/api/kernels/{id}")


class Kernel:
    """A running kernel to execute code in."""

    def __init__(self, connection: Path) -> None:
        self.client = BlockingKernelClient(connection_file=str(connection))

    def __enter__(self) -> Kernel:
        self.client.load_connection_file()
        self.client.start_channels(hb=False)  # under load it would take a slow kernel for a dead one
        self.client.wait_for_ready(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()

    def run(self, code: str, timeout: float = 60) -> list[dict[str, Any]]:
        """Execute a cell; all that the kernel publishes meanwhile. An error in the cell fails the test."""
        request = self.client.execute(code, allow_stdin=False)
        outputs = []
        for message in self.messages(timeout):
            outputs.append({"type": message["msg_type"], **message["content"]})
            if (
                message["parent_header"].get("msg_id") == request
                and message["content"].get("execution_state") == "idle"
            ):
                break
        while (reply := self.client.get_shell_msg(timeout=timeout))["parent_header"].get("msg_id") != request:
            pass
        assert reply["content"]["status"] == "ok", "\n".join(reply["content"].get("traceback", []))
        return outputs

    def printed(self, code: str, timeout: float = 60) -> str:
        """What a cell prints."""
        return "".join(o["text"] for o in self.run(code, timeout) if o["type"] == "stream")

    def messages(self, timeout: float = 30) -> Iterator[dict[str, Any]]:
        """What the kernel publishes from now on; ``queue.Empty`` when the time is over."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            yield self.client.get_iopub_msg(timeout=left)


def until(condition: Any, timeout: float = 30) -> Any:
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "It did not come true."
        time.sleep(0.01)
    return value


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))
