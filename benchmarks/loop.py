"""Whether the server's event loop stays free while one client asks heavy questions and another imports much."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .report import Figure, Table, Target, percentile
from .server import Client, Server
from .setting import Setting, progress
from .texts import messages

HEAVY = """
select a."conversationId", count(*) as pairs, sum(length(a.content) * length(b.content)) as weight
from messages a join messages b on a."conversationId" = b."conversationId" and a.seq < b.seq
group by all order by weight desc limit 50
"""
CONVERSATIONS = 100
BATCH = 5_000


def run(setting: Setting) -> Iterator[Table]:
    home = setting.new_folder("loop")
    file = home / "probe.jsonl"
    total = setting.scale(100_000, 10_000)
    server = Server(
        home,
        {"AgentStoreApp.query_seconds": 60.0},
        extensions=["benchmarks.probe"],
        environment={"AGENTSTORE_PROBE": str(file)},
    )
    with server:
        with server.client() as client:
            _import(client, 0, min(20_000, total))  # something to ask about
        file.write_text("")  # what came before does not count
        idle = _during(server, lambda client: time.sleep(2.0))
        quiet, still, _ = _read(file)
        file.write_text("")
        with server.client() as asking, server.client() as importing:
            done = threading.Event()
            queries: list[float] = []
            failed: list[BaseException] = []

            def ask() -> None:
                try:
                    while not done.is_set():
                        began = time.perf_counter()
                        asking.post("query", {"sql": HEAVY}, "big")
                        queries.append(time.perf_counter() - began)
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            imported = 0.0

            def work(_: Client) -> None:
                nonlocal imported
                began = time.perf_counter()
                _import(importing, 1, total)
                imported = time.perf_counter() - began

            busy = _during(server, work)
            done.set()
            thread.join()
        if failed:
            raise failed[0]
        time.sleep(0.5)
    lags, pauses, stacks = _read(file)
    table = Table(
        f"The server's event loop while {total:,} messages are imported and a heavy query runs again and again",
        ["under load", "idle"],
        "late: by how much a timer that was due each 5 ms was late; GET: agent/status by a third client meanwhile",
    )
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)):
        figures = [Figure(percentile(sorted(values), share), "ms") for values in (lags, quiet)]
        table.add(f"late, {name}", *figures, target=Target(50.0) if name == "longest" else None)
    table.add(
        "late by more than 50 ms, times", *(Figure(sum(v > 50 for v in values)) for values in (lags, quiet))
    )
    longest = [Figure(max(values, default=0.0), "ms") for values in (pauses, still)]
    table.add("garbage collection, longest", *longest)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        table.add(f"GET, {name}", *(Figure(percentile(sorted(v), share) * 1e3, "ms") for v in (busy, idle)))
    table.add("imported, events", Figure(total / imported, "/s"))
    table.add("heavy queries answered", Figure(len(queries)))
    if queries:
        table.add("heavy query, median", Figure(percentile(sorted(queries), 0.5), "s"))
    for stack, times in Counter(stacks).most_common(3):
        print(f"\nBlocked {times} times here:\n{stack}")
    yield table


def _during(server: Server, work: Callable[[Client], None]) -> list[float]:
    """Latencies of a small request, again and again while the work is done, in seconds."""
    done = threading.Event()
    latencies: list[float] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            with server.client() as client:
                while not done.is_set():
                    began = time.perf_counter()
                    client.get("agent/status", "big")
                    latencies.append(time.perf_counter() - began)
                    done.wait(0.01)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        with server.client() as client:
            work(client)
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]
    return latencies


def _import(client: Client, part: int, total: int) -> None:
    said = itertools.islice(messages(CONVERSATIONS, prefix=f"p{part}"), total)
    names = [f"c{number}" for number in range(CONVERSATIONS)]
    if part == 0:
        _post(
            client,
            [("v1.ConversationCreated", {"id": name, "userId": "ann", "title": name}) for name in names],
        )
    imported = json.dumps({"imported": True})
    batches = iter(lambda: list(itertools.islice(said, BATCH)), [])
    for batch in progress(batches, "import", -(-total // BATCH)):
        events = [
            (
                "v1.MessageAdded",
                {
                    "id": message.id,
                    "conversationId": message.conversation,
                    "role": message.role,
                    "content": message.content,
                    "metadata": imported,
                },
            )
            for message in batch
        ]
        _post(client, events)


def _post(client: Client, events: list[tuple[str, dict[str, Any]]]) -> None:
    client.post("events", {"events": [{"name": name, "args": args} for name, args in events]}, "big")


def _read(file: Path) -> tuple[list[float], list[float], list[str]]:
    """What the probe has written: lags and pauses in milliseconds, stacks."""
    lags: list[float] = []
    pauses: list[float] = []
    stacks: list[str] = []
    for line in file.read_text().splitlines():
        said = json.loads(line.lstrip("\0"))
        lags += said["lags"]
        pauses += said["pauses"]
        stacks += said["stacks"]
    return lags, pauses, stacks
