"""Real Jupyter servers in processes of their own, with this extension and no other; and looking at their answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

SHIPPED = Path(__file__).parents[2] / "jupyter-config"
"""The files that an installation puts into Jupyter's configuration; they enable the extension."""

HELPERS = Path(__file__).parent / "helpers"
TOKEN = "open-sesame-7f3a"
_PATIENCE = 60.0


class Server:
    """A Jupyter server that is up.

    Args:
        folder: for its configuration, data, runtime files and log; starting again in it finds the same stores.
        config: lines of its configuration file.
        token: to log in with; "" leaves only what the configuration says.
        environ: for its environment.
        module: what starts it.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        *,
        token: str = TOKEN,
        environ: Mapping[str, str] | None = None,
        module: str = "jupyter_server",
    ) -> None:
        self.folder = folder
        self.token = token
        self.stores = folder / "data" / "agentstore"
        for name in ("config", "data", "runtime", "home", "root"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(SHIPPED, folder / "config", dirs_exist_ok=True)
        settings = [
            "c = get_config()",
            f"c.ServerApp.jpserver_extensions = {dict.fromkeys(_others(), False)!r}",
            "c.ServerApp.allow_root = True",
            "c.ServerApp.open_browser = False",
            f"c.ServerApp.root_dir = {str(folder / 'root')!r}",
            "c.ServerApp.log_level = 'DEBUG'",
            "c.AgentStoreApp.reply_delay = [0.0, 0.0]",
            f"c.IdentityProvider.token = {token!r}",
            config,
        ]
        (folder / "config" / "jupyter_server_config.py").write_text("\n".join(settings))
        self.environ = self._environ(environ or {})
        self.log_path = folder / "log.txt"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    module,
                    *([] if ".sock" in config else [f"--port={_free_port()}"]),
                ],
                cwd=folder / "root",
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.announced = self._wait_for_announcement()
            self.http = self.client()
        except BaseException:
            self.kill()
            raise

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY", "COV"))}
        path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {
            **kept,
            "PYTHONPATH": path,
            "HOME": str(self.folder / "home"),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTER_PLATFORM_DIRS": "0",
            **more,
        }

    def _wait_for_announcement(self) -> dict[str, Any]:
        path = self.folder / "runtime" / f"agentstore-{self.process.pid}.json"
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"The server ended with {self.process.returncode}:\n{self.log}")
            with suppress(OSError, ValueError):
                said: dict[str, Any] = json.loads(path.read_text())
                return said
            time.sleep(0.02)
        raise RuntimeError(f"The server did not come up:\n{self.log}")

    @property
    def log(self) -> str:
        """Everything that the server has said."""
        return self.log_path.read_text(errors="replace")

    def client(self, authorization: str | None = None, **options: Any) -> httpx.Client:
        """A client at the extension's paths; by default it sends the token."""
        if authorization is None and self.token:
            authorization = f"token {self.token}"
        headers = {"Authorization": authorization} if authorization else {}
        sock = self.announced["sock"]
        base = self.announced["base_url"]
        url = f"http://localhost{base}" if sock else self.announced["url"]
        return httpx.Client(
            base_url=f"{url.rstrip('/')}/agentstore/",
            headers={**headers, **options.pop("headers", {})},
            transport=httpx.HTTPTransport(uds=sock) if sock else None,
            timeout=60,
            trust_env=False,
            **options,
        )

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)

    def end(self) -> None:
        """Wait for the end, and make it come if it does not."""
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(_PATIENCE)


Serve = Callable[..., Server]


def _others() -> set[str]:
    """Extensions that are installed, too; they only make servers slow to come up."""
    found = set()
    for path in Path(sys.prefix, "etc", "jupyter", "jupyter_server_config.d").glob("*.json"):
        found |= json.loads(path.read_text()).get("ServerApp", {}).get("jpserver_extensions", {}).keys()
    return found - {"jupyter_agentstore"}


def ok(answer: httpx.Response) -> Any:
    """The JSON of an answer that is one."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    """The message of an answer that is a certain error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert error.get("field") == field, error
    assert answer.json().keys() == {"error"}
    return str(error["message"])


def head(http: httpx.Client) -> int:
    """How many events the store has."""
    return int(ok(http.get("events", params={"limit": 1}))["head"])


def until(look: Callable[[], Any]) -> Any:
    """What ``look`` gives once it gives something."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("It did not come about.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
