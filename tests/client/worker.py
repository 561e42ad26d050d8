"""A client in a process of its own, which can be stopped and killed.

What belongs here: ``Worker``; run as a script, this is that process: it executes what comes line by line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


class Worker:
    """A process with a store.

    Args:
        folder: Jupyter's folder of data, where named sessions are.
        url: the server's.
        options: more arguments of ``connect``.
    """

    def __init__(self, folder: Path, url: str, store_id: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "JUPYTER_DATA_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])},
            text=True,
        )
        self.tell("import os, random, resource, signal, sys, threading")
        self.tell("from jupyter_agentstore import connect, events")
        self.tell(f"store = connect({store_id!r}, url={url!r}, **{options!r})")

    def tell(self, line: str) -> None:
        """Have it execute a line, without waiting for that."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def ask(self, expression: str) -> Any:
        """The value of an expression; of JSON."""
        self.tell(f"print(json.dumps({expression}), file=sys.__stdout__, flush=True)")
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._said()
        return json.loads(line)

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def close(self) -> tuple[int, str]:
        """Let it end by itself; its exit code, and what it said of errors."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        said = self._said()
        return self.process.wait(60), said

    def _said(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()


if __name__ == "__main__":
    names: dict[str, Any] = {"json": json}
    sys.stdout = sys.stderr
    for said in sys.stdin:
        exec(json.loads(said), names)
