"""Another process with a registry on the same folder, which does what a test says.

``python -m tests.store.neighbour FOLDER [IDLE_SECONDS]`` evaluates expressions, one a line on standard input, and
answers each with a line of JSON: its value, or the name of the exception. The test's side is :class:`Neighbour`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Failed(Exception):
    """The expression raised; the name of the exception."""


class Neighbour:
    """A process beside the test's own.

    Args:
        folder: of the stores.
        store: opened at once; "" opens none.
        idle: seconds until a store sleeps.
    """

    def __init__(self, folder: Path, store: str = "coffee", idle: float = 300.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.neighbour", str(folder), store, str(idle)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, expression: str) -> None:
        """Have an expression evaluated, without waiting; :meth:`answer` waits."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()

    def do(self, expression: str) -> Any:
        """The value of an expression in that process."""
        self.start(expression)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError("The neighbour has ended.")
        said = json.loads(line)
        if "failed" in said:
            raise Failed(said["failed"])
        return said["value"]

    answer = _answer

    def stop(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """Let it close its registry and end."""
        self.process.communicate(timeout=PATIENCE)


def until(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What ``look`` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "It did not come about."
        time.sleep(0.005)
    return found


def serve(folder: Path, store_id: str, idle: float) -> None:
    """The other process's side."""
    from jupyter_agentstore.store import Registry
    from tests.drafts import conversation, message

    registry = Registry(folder, idle_seconds=idle)
    heard: list[int] = []
    told: list[str] = []
    woken: list[str] = []
    registry.on_wake(lambda store: woken.append(store.id))
    names: dict[str, Any] = {
        "os": os,
        "registry": registry,
        "heard": heard,
        "told": told,
        "woken": woken,
        "conversation": conversation,
        "message": message,
        "hear": lambda events: heard.extend(event.seq for event in events),
    }
    if store_id:
        names["store"] = registry.get(store_id, create=True)
    print(json.dumps({"value": "ready"}), flush=True)
    for line in sys.stdin:
        try:
            value = eval(line, names)
            answer = msgspec.json.encode({"value": value}, enc_hook=repr).decode()
        except Exception as error:
            answer = json.dumps({"failed": type(error).__name__})
        print(answer, flush=True)
    registry.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
