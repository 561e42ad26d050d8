"""LiveStore as it comes: its clients and its sync backend, from ``benchmarks/livestore/``, in processes of Node.

What belongs here: installing them when they are first wanted, and starting the backend. What is measured with the
clients is in ``pairs``.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

FOLDER = Path(__file__).parent / "livestore"
PATIENCE = 90.0
_INSTALLED = FOLDER / "node_modules" / ".stamp"


class Missing(Exception):
    """LiveStore cannot be had here; the message says why."""


def install() -> None:
    """Have npm install what the lock file names, unless that was done.

    Raises:
        Missing: there is no Node 20 with npm, or npm could not get the packages.
    """
    lock = FOLDER / "package-lock.json"
    if _INSTALLED.exists() and _INSTALLED.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Missing("there is no Node.js with npm")
    # LiveStore asks for peers that contradict each other; --force takes what the lock file says.
    command = [npm, "ci", "--force", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=FOLDER, check=False, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise Missing(f"npm could not install it: {done.stderr.strip()[-300:]}")
    _INSTALLED.touch()


class Backend:
    """LiveStore's own sync backend in ``wrangler dev``, on the loopback interface.

    Args:
        home: an empty folder for all that it writes.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> Backend:
        """Start it, and wait until it answers.

        Raises:
            Missing: it does not come up.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}"
        log = self._home / "wrangler.log"
        where = ["--ip", "127.0.0.1", "--port", str(port), "--inspector-port", "0"]
        environment = {
            "CI": "true",
            "WRANGLER_SEND_METRICS": "false",
            "WRANGLER_LOG_PATH": str(self._home / "logs"),
            "XDG_CONFIG_HOME": str(self._home / "config"),
        }
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [FOLDER / "node_modules/.bin/wrangler", "dev", *where, "--persist-to", self._home / "state"],
                cwd=FOLDER,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                process_group=0,
            )
        deadline = time.monotonic() + PATIENCE
        while not _answers(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise Missing(f"its backend did not start: {log.read_text(errors='replace')[-300:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        """End it and the processes that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
