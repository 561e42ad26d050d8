"""A notebook's process with a store of its own folder, as a program: it writes messages until it is told to stop.

``python -m tests.neighbours FOLDER STORE CONVERSATIONS`` says ``ready``, then the id of each message once it is
acknowledged; a line on standard input ends it.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from pathlib import Path

from jupyter_agentstore import connect, events


def text_of(message: str) -> str:
    """What a message says."""
    return f"This is message {message}."


def write(folder: Path, name: str, conversations: int) -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    with connect(name, folder=folder) as store:
        print("ready", flush=True)
        for number in itertools.count():
            if stop.is_set():
                return
            id = f"k{os.getpid()}-{number}"
            conversation = f"c{number % conversations}"
            message = events.MessageAdded(
                id=id, conversationId=conversation, role="user", content=text_of(id)
            )
            store.commit(message)
            print(id, flush=True)
            time.sleep(0.005)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
