"""A kernel in the measurements of syncing: a process with a store, told what to do by lines of JSON.

``python -m benchmarks.kernel URL TOKEN STORE NAME`` connects and says so. Then each line on standard input,
``{"do", …}``, is answered by one on standard output, ``{"value"}`` or ``{"error"}``. Moments are nanoseconds of the
monotonic clock, which is one for all processes of a machine.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from typing import Any

from jupyter_agentstore import connect
from jupyter_agentstore.events import MessageAdded

from .texts import utterances

CONVERSATION = "c0"
PATIENCE = 120.0
COUNT = f"""select count(*) as n from messages where "conversationId" = '{CONVERSATION}'"""


class Kernel:
    """What the commands do; each method that begins with ``do_`` is one."""

    def __init__(self, url: str, token: str, store: str, prefix: str) -> None:
        self._id = store
        self._where: Any = {"url": url, "token": token}
        self._store: Any = connect(store, **self._where)
        self._said = utterances()
        self._prefix = prefix
        self._number = 0
        self._shown: dict[Any, int] = {}
        self._changed = threading.Condition()
        self._enough: Any = None  # what is waited for: who waits is not woken for every row
        self._subscription: Any = None

    def do_begin(self) -> None:
        """Begin the conversation that all messages go to."""
        self._store.conversation(CONVERSATION, title="Coffee")
        self._store.flush()

    def do_watch(self, kind: str) -> int:
        """Note what a subscription shows from now on, ids of messages or their number; their number now."""
        self.do_end()
        if kind == "rows":
            self._subscription = self._store.watch("messages", self._row, conversationId=CONVERSATION)
        elif kind == "sql":
            self._subscription = self._store.subscribe(COUNT, self._answer)
        return self._count()

    def do_end(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        self._shown = {}

    def do_shown(self, what: Any) -> int:
        """Wait until the subscription has shown that id or number; when that was."""
        with self._changed:
            self._wait(lambda: what in self._shown, f"{what} to be shown")
            return self._shown[what]

    def do_reached(self, count: int) -> int:
        """Wait until it has shown so many different ids; when the last of them came."""
        with self._changed:
            self._wait(lambda: len(self._shown) >= count, f"{count} rows")
            return max(self._shown.values())

    def do_commit(self) -> tuple[int, str]:
        """Commit one message; when that began, and its id."""
        message = self._message()
        began = time.monotonic_ns()
        self._store.commit(message)
        return began, message.id

    def do_batches(self, total: int, size: int) -> tuple[int, int]:
        """Commit many messages, so many at a time; when that began, and when the last call had returned."""
        messages = [self._message() for _ in range(total)]
        began = time.monotonic_ns()
        for first in range(0, total, size):
            self._store.commit(*messages[first : first + size])
        return began, time.monotonic_ns()

    def do_flush(self) -> int:
        """Wait until the server has everything; when that was."""
        self._store.flush()
        return time.monotonic_ns()

    def do_digest(self, server: bool) -> str:
        """Of everything that was said and of the log, as it is here or as the server has it."""
        digest = hashlib.sha256()
        with connect(self._id, **self._where, replica=False) if server else nullcontext(self._store) as store:
            for statement in ("select * from messages order by seq, id", "select * from events order by seq"):
                digest.update(store.sql(statement).df().to_csv().encode())
        return digest.hexdigest()

    def _count(self) -> int:
        return int(self._store.sql(COUNT).df()["n"][0])

    def _message(self) -> MessageAdded:
        role, content = self._said[self._number % len(self._said)]
        self._number += 1
        return MessageAdded(
            id=f"{self._prefix}-{self._number:09d}",
            conversationId=CONVERSATION,
            role=role,
            content=content,
            metadata='{"imported": true}',
        )

    def _row(self, change: Any) -> None:
        if change.after is not None:
            self._note(change.after["id"])

    def _answer(self, frame: Any) -> None:
        self._note(int(frame["n"][0]))

    def _note(self, what: Any) -> None:
        now = time.monotonic_ns()
        with self._changed:
            self._shown.setdefault(what, now)
            if self._enough is not None and self._enough():
                self._changed.notify_all()

    def _wait(self, enough: Any, what: str) -> None:
        self._enough = enough
        if not self._changed.wait_for(enough, PATIENCE):
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")


def main() -> None:
    kernel = Kernel(*sys.argv[1:])
    print(json.dumps({"value": None}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"value": getattr(kernel, f"do_{command.pop('do')}")(**command)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
