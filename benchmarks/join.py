"""A new kernel joins a store with many events: how long until its first query is answered, and where that goes."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from .corpus import corpus
from .pairs import ROOT
from .report import Figure, Table, Target, median
from .server import Server
from .setting import Setting
from .texts import messages

STORE = "big"
_BATCH = 5_000


def run(setting: Setting) -> Iterator[Table]:
    size = setting.scale(1_000_000, 20_000)
    behind = setting.scale(10_000, 1_000)
    home = setting.new_folder("join")
    # The agent has a reply in mind for every conversation, and keeps it to itself: the log stands still.
    server = Server(home, {"AgentStoreApp.reply_delay": [3600.0, 3600.0]})
    shutil.copytree(corpus(setting, "agentstore", size) / "bench", server.stores / STORE)
    cases: dict[str, list[dict[str, Any]]] = {}
    for _ in range(setting.scale(3, 1)):
        with server:  # just started, it has no copy of the tables, and the store is not open
            cases.setdefault("server just started", []).append(_join(server))
            cases.setdefault("copy there", []).append(_join(server))
            _more(server, behind, len(cases["copy there"]))
            cases.setdefault(f"copy {behind:,} behind", []).append(_join(server))
    table = Table(
        f"A new kernel joins a store of {size:,} messages",
        list(cases),
        "joined: connect() and the answer to a first query, with all events; the process and its imports come before",
    )
    totals = [Figure(median([said["joined"] for said in runs]), "s") for runs in cases.values()]
    table.add("joined", *totals, target=Target(3.0))
    worst = [Figure(max(said["joined"] for said in runs), "s") for runs in cases.values()]
    table.add("joined, longest", *worst, target=Target(3.0))
    parts = {
        "copy made, until its first byte": lambda said: said["tables written"] - said["received"],
        "copy received": lambda said: said["received"],
        "copy opened": lambda said: said["opened"],
        "tail pulled": lambda said: said["tail"],
        "the rest of connect()": lambda said: (
            said["connected"] - said["tables written"] - said["opened"] - said["tail"]
        ),
        "first query": lambda said: said["answered"],
        "imports before": lambda said: said["imports"],
    }
    for label, part in parts.items():
        table.add(label, *(Figure(median([part(said) for said in runs]), "s") for runs in cases.values()))
    yield table


def _join(server: Server) -> dict[str, Any]:
    """Let a new process join, and see that it has everything."""
    with server.client() as client:
        head = client.get("events?limit=1", STORE)["head"]
    command = [
        sys.executable,
        "-m",
        "benchmarks.newcomer",
        f"http://127.0.0.1:{server.port}/",
        server.token,
        STORE,
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["head"] == said["count"] == head, said
    assert said["status"] == "synced", said
    return said


def _more(server: Server, count: int, part: int) -> None:
    """Commit so many more messages."""
    said = itertools.islice(messages(1_000, prefix=f"late-{part}"), count)
    with server.client() as client:
        while batch := list(itertools.islice(said, _BATCH)):
            events = [
                {
                    "name": "v1.MessageAdded",
                    "args": {
                        "id": message.id,
                        "conversationId": message.conversation,
                        "role": message.role,
                        "content": message.content,
                        "metadata": '{"imported": true}',
                    },
                }
                for message in batch
            ]
            client.post("events", {"events": events}, STORE)
