"""Many stores touched once: what they cost a process once they sleep, and how fast one is back."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_agentstore.agent import Runtime, Simulated
from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.store import Registry, draft

from .report import Figure, Table, Target, percentile
from .setting import Setting, progress, resident
from .texts import utterances

ROOT = Path(__file__).parents[1]


def run(setting: Setting) -> Iterator[Table]:
    count = setting.scale(1_000, 50)
    code = f"from benchmarks.hibernation import child; child({str(setting.new_folder('sleep'))!r}, {count})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    table = Table(
        f"Hibernation: {count:,} stores, each with one conversation, a message and the agent's reply",
        ["agentstore"],
        "began: one store was used and sleeps; waking: until the last messages of a store chosen at random are read; "
        "a commit: until it is durable, with waking",
    )
    table.add("memory, began", Figure(said["began"], "MB"))
    table.add("memory, most", Figure(said["most"], "MB"))
    table.add("memory, all asleep", Figure(said["asleep"], "MB"))
    table.add("more than it began with", Figure(said["asleep"] - said["began"], "MB"), target=Target(100.0))
    table.add("threads, all asleep", Figure(said["threads"]))
    for label, key in (("waking and reading", "waking"), ("waking and a commit", "committing")):
        ordered = sorted(said[key])
        for name, share, target in (("p50", 0.5, None), ("p99", 0.99, None), ("longest", 1.0, Target(50.0))):
            table.add(f"{label}, {name}", Figure(percentile(ordered, share) * 1e3, "ms"), target=target)
    table.add("putting one to sleep, median", Figure(said["sleeping"] * 1e3, "ms"))
    table.add("answered", Figure(said["answered"]))
    yield table


def child(folder: str, count: int) -> None:
    """Do it in this process and print what it took, as JSON."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    registry = Registry(Path(folder), agent_schema)
    runtime = Runtime(registry, Simulated((0, 0)))
    asyncio.run_coroutine_threadsafe(runtime.start(), loop).result()
    said = utterances()

    def use(number: int) -> float:
        answered = threading.Event()
        store = registry.get(f"store-{number}", create=True)

        def look(changes: Any) -> None:
            if any(c.table == "messages" and c.after and c.after["role"] == "assistant" for c in changes):
                answered.set()

        end = store.on_rows(look)
        store.commit(
            [_begin("c"), _say(f"m{number}", "c", said[number % len(said)][1])], actor="ann"
        ).result()
        assert answered.wait(60), f"store-{number} got no reply"
        end()
        return _sleep(registry)

    use(count)
    gc.collect()
    began = most = resident()
    sleeping = []
    for number in progress(range(count), "stores"):
        sleeping.append(use(number))
        most = max(most, resident())
    gc.collect()
    asleep, threads = resident(), threading.active_count()
    chosen = random.Random(1).sample(range(count), min(200, count))
    waking, committing, answered = [], [], 0
    for number in chosen:
        start = time.perf_counter()
        answered += len(registry.get(f"store-{number}", create=False).tail("messages", "c")) == 2
        waking.append(time.perf_counter() - start)
        _sleep(registry)
        start = time.perf_counter()
        store = registry.get(f"store-{number}", create=False)
        store.commit([_say(f"late-{number}", "c", "Hello", role="system")], actor="ann").result()
        committing.append(time.perf_counter() - start)
        _sleep(registry)
    asyncio.run_coroutine_threadsafe(runtime.stop(), loop).result()
    registry.close()
    loop.call_soon_threadsafe(loop.stop)
    assert answered == len(chosen)
    result = {
        "began": began,
        "most": most,
        "asleep": asleep,
        "threads": threads,
        "waking": waking,
        "committing": committing,
        "sleeping": sorted(sleeping)[len(sleeping) // 2],
        "answered": answered,
    }
    print(json.dumps(result))


def _sleep(registry: Registry) -> float:
    """Put everything to sleep, as soon as the agent lets go; how long the last attempt took, in seconds."""
    while True:
        before = time.perf_counter()
        asleep = registry.sleep()
        seconds = time.perf_counter() - before
        if asleep == len(registry._stores):
            return seconds
        time.sleep(0.001)


def _begin(conversation: str) -> Any:
    args = {"id": conversation, "userId": "ann", "title": "Coffee"}
    return draft(agent_schema, "v1.ConversationCreated", args, door="python")


def _say(message: str, conversation: str, content: str, role: str = "user") -> Any:
    args = {"id": message, "conversationId": conversation, "role": role, "content": content, "metadata": None}
    return draft(agent_schema, "v1.MessageAdded", args, door="python")
