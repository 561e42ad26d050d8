"""Two clients of one store, behind the same few calls: two kernels of ours, or two LiveStore clients.

The kernels are two processes; the LiveStore clients share one, as they are measured in their own project.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from .node import FOLDER
from .texts import utterances

ROOT = Path(__file__).parents[1]
_SECOND = 1e9


class Failed(Exception):
    """A client could not do what it was told; the message is its own."""


class Pair(Protocol):
    """Two clients, connected, with one conversation."""

    def latencies(self, kind: str, times: int) -> list[float]:
        """Commit on one, again and again; seconds until a subscription of the other has shown each.

        Args:
            kind: ``rows`` or ``sql``, of the subscription.
            times: how often.
        """

    def batches(self, total: int, size: int) -> float:
        """Commit ``total`` events on one, ``size`` at a time; seconds until the other shows the last."""

    def both(self, each: int) -> tuple[bool, float]:
        """Commit on both at once, one event at a time.

        Returns:
            Whether both, and the server, have the same, and seconds until both have everything.
        """

    def __enter__(self) -> Pair: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None: ...


class Child:
    """A process that answers lines of JSON with lines of JSON; what it says beside goes to ``log``."""

    def __init__(self, command: Sequence[str | Path], folder: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
            )

    def tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next answer.

        Raises:
            Failed: it is an error, or the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"it ended: {self._log.read_text(errors='replace')[-500:].strip()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["value"]

    def ask(self, **command: Any) -> Any:
        self.tell(**command)
        return self.hear()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Kernels:
    """Two kernels of a Jupyter server.

    Args:
        url: the server's.
        token: the server's.
        store: its id.
        home: for their logs.
    """

    def __init__(self, url: str, token: str, store: str, home: Path) -> None:
        self._where = (url, token, store)
        self._home = home

    def __enter__(self) -> Kernels:
        command = [sys.executable, "-m", "benchmarks.kernel", *self._where]
        self._kernels = [
            Child([*command, name], ROOT, self._home / f"{name}.log") for name in ("one", "other")
        ]
        for kernel in self._kernels:
            kernel.hear()
        self._kernels[0].ask(do="begin")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for kernel in self._kernels:
            kernel.close()

    def latencies(self, kind: str, times: int) -> list[float]:
        one, other = self._kernels
        count = other.ask(do="watch", kind=kind)
        taken = []
        for number, _ in enumerate(pauses(times), 1):
            began, key = one.ask(do="commit")
            shown = other.ask(do="shown", what=key if kind == "rows" else count + number)
            taken.append((shown - began) / _SECOND)
        other.ask(do="end")
        return taken

    def batches(self, total: int, size: int) -> float:
        one, other = self._kernels
        other.ask(do="watch", kind="rows")
        began, _ = one.ask(do="batches", total=total, size=size)
        seconds: float = (other.ask(do="reached", count=total) - began) / _SECOND
        other.ask(do="end")
        return seconds

    def both(self, each: int) -> tuple[bool, float]:
        self._all(do="watch", kind="rows")
        began = min(start for start, _ in self._all(do="batches", total=each, size=1))
        ended = max(*self._all(do="reached", count=2 * each), *self._all(do="flush"))
        digests = {*self._all(do="digest", server=False), self._kernels[0].ask(do="digest", server=True)}
        self._all(do="end")
        return len(digests) == 1, (ended - began) / _SECOND

    def _all(self, **command: Any) -> list[Any]:
        for kernel in self._kernels:
            kernel.tell(**command)
        return [kernel.hear() for kernel in self._kernels]


class Apps:
    """Two LiveStore clients.

    Args:
        url: of a sync backend, theirs or ours.
        token: what they send as ``authToken``.
        store: its id.
        home: for their log.
    """

    def __init__(self, url: str, token: str, store: str, home: Path) -> None:
        self._opening = {"url": url, "authToken": token, "storeId": store}
        self._home = home

    def __enter__(self) -> Apps:
        self._node = Child(["node", "src/clients.js"], FOLDER, self._home / "clients.log")
        self._node.ask(do="open", said=utterances()[:2_000], **self._opening)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._node.close()

    def latencies(self, kind: str, times: int) -> list[float]:
        return [ms / 1e3 for ms in self._node.ask(do="latencies", kind=kind, times=times)]

    def batches(self, total: int, size: int) -> float:
        seconds: float = self._node.ask(do="batches", total=total, size=size)
        return seconds

    def both(self, each: int) -> tuple[bool, float]:
        said = self._node.ask(do="both", each=each)
        return said["converged"], said["seconds"]


def pauses(times: int) -> Iterator[None]:
    """So many moments with 1 to 16 ms between them, so that nothing falls into step with a timer."""
    for _ in range(times):
        time.sleep(0.001 + 0.015 * random.random())
        yield
