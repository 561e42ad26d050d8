"""LiveStore apps in processes of their own, told what to do line by line; see ``src/client.ts``."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PATIENCE = 60.0

Row = dict[str, Any]


def built() -> Path:
    """The app as one file; it is built again when its sources have changed.

    Raises:
        AssertionError: its packages are not installed, or it cannot be built.
    """
    node = shutil.which("node")
    assert node, "Node.js is not on the PATH."
    modules = FOLDER / "node_modules"
    for name in ("@livestore/livestore", "esbuild"):
        assert (modules / name).is_dir(), f"{name} is not in tests/livestore; `make setup` installs it."
    sources = [*sorted((FOLDER / "src").iterdir()), FOLDER / "build.js", FOLDER / "package-lock.json"]
    version = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    file = modules / ".cache" / "app" / f"client-{version}.js"
    if not file.exists():
        mine = file.with_suffix(f".{os.getpid()}.js")  # another process may be building, too
        done = subprocess.run(
            [node, "build.js", str(mine.relative_to(FOLDER))], cwd=FOLDER, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        mine.replace(file)
    return file


class AppError(Exception):
    """A command failed in the app."""


class App:
    """A process that has one LiveStore store open at a time.

    Args:
        file: from :func:`built`.
    """

    def __init__(self, file: Path) -> None:
        self.said: list[dict[str, Any]] = []
        self._ids = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors = bytearray()
        self._process = subprocess.Popen(
            ["node", str(file)],
            env={**os.environ, "NODE_OPTIONS": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for work in (self._listen, self._listen_to_errors):
            threading.Thread(target=work, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def open(self, url: str, store_id: str, token: str, client_id: str, **options: Any) -> None:
        """Open a store.

        Args:
            url: of the websocket.
            store_id: the store's.
            token: Jupyter's, or a wrong one.
            client_id: names the app in its events.
            options: ``directory``, ``onBackendIdMismatch``.
        """
        self.said.clear()
        self.ask(
            "open",
            url=url,
            storeId=store_id,
            authToken=token,
            clientId=client_id,
            sessionId=f"{client_id}-session",
            **options,
        )

    def commit(self, *events: tuple[str, Mapping[str, Any] | None]) -> None:
        """Commit events at once; they are there for the app's own queries, whatever the server says."""
        encoded = [{"name": name, **({} if args is None else {"args": args})} for name, args in events]
        self.ask("commit", events=encoded)

    def rows(self, table: str, **where: Any) -> list[Row]:
        """A table, by id."""
        found: list[Row] = self.ask("rows", table=table, where=where)
        return found

    def wait(self, table: str, count: int = 1, **where: Any) -> list[Row]:
        """A table's rows, once there are as many."""
        found: list[Row] = self.ask("wait", table=table, where=where, count=count)
        return found

    def log(self, count: int) -> list[Row]:
        """The first events of its log, once that many are confirmed."""
        found: list[Row] = self.ask("log", count=count)
        return found

    def close(self) -> None:
        """Close the store."""
        self.ask("close")
        self.hear(lambda line: line["event"] == "shutdown")

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What the app says by itself, from its opening on, once it is what is wanted; it is then forgotten."""
        seen = 0
        deadline = time.monotonic() + PATIENCE
        while True:
            for line in self.said[seen:]:
                if wanted(line):
                    self.said.remove(line)
                    return line
            seen = len(self.said)
            self.said.append(self._next(deadline))

    def connected(self, is_: bool = True) -> None:
        """Wait until the app knows that it has reached the server, or lost it."""
        self.hear(lambda line: line["event"] == "network" and line["connected"] is is_)

    def ask(self, do: str, **command: Any) -> Any:
        """Give a command and wait for what comes of it.

        Raises:
            AppError: it failed.
        """
        self._ids += 1
        line = json.dumps({"id": self._ids, "do": do, **command})
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while "id" not in (answer := self._next(deadline)):
            self.said.append(answer)
        assert answer["id"] == self._ids, answer
        if "error" in answer:
            raise AppError(answer["error"])
        return answer["value"]

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def _next(self, deadline: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            raise AssertionError(f"It did not come about; the app said:\n{self._told()}") from None
        assert line is not None, f"The app has ended:\n{self._told()}"
        said: dict[str, Any] = json.loads(line)
        return said

    def _told(self) -> str:
        while not self._lines.empty():
            self.said.append(json.loads(self._lines.get() or '{"event":"ended"}'))
        return "\n".join([*map(str, self.said), self._errors.decode(errors="replace")])

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode())
        self._lines.put(None)

    def _listen_to_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors += line


def message(id: str, content: str, *, conversation: str = "c1", role: str = "user") -> tuple[str, Row]:
    """An event that adds a message."""
    fields = {"id": id, "conversationId": conversation, "role": role, "content": content, "metadata": None}
    return "v1.MessageAdded", fields


def conversation(id: str = "c1", title: str = "Coffee") -> tuple[str, Row]:
    """An event that creates a conversation."""
    fields = {"id": id, "userId": "ada", "title": title, "personality": "terse", "instructions": "Help"}
    return "v1.ConversationCreated", fields


def ids(rows: Sequence[Row]) -> list[str]:
    """The ids of rows."""
    return [row["id"] for row in rows]
