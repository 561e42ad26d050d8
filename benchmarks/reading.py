"""Reading a large store: the end of a conversation, all messages as a DataFrame, and what that takes in memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .corpus import BUSY, CONVERSATIONS, KINDS, corpus
from .report import Figure, Table, Target, add_latencies, median
from .setting import Setting, Stopwatch, drop_from_page_cache, quiet, resident

ROOT = Path(__file__).parents[1]
COUNT = 200
REPEATS = 5


def last_messages(setting: Setting) -> Iterator[Table]:
    """The last 200 messages of one of 10,000 conversations."""
    size = setting.scale(1_000_000, 20_000)
    names = list(KINDS)
    table = Table(
        f"The last {COUNT} messages of one of {CONVERSATIONS:,} conversations, {size:,} messages in all",
        names,
        "first read: of a conversation not read before; again: of one of the ten read last; first of all: right "
        "after opening with the system's page cache dropped",
    )
    chosen = random.Random(1).sample(range(BUSY), setting.scale(200, 50))
    firsts, again, cold = [], [], []
    for name in names:
        folder = corpus(setting, name, size)
        drop_from_page_cache(folder)
        system = KINDS[name]()
        with Stopwatch() as opening:
            system.open(folder)
            system.last(f"c{BUSY - 1}", COUNT)
        cold.append(opening.seconds)
        with quiet():
            once = [_read(system, f"c{number}") for number in chosen]
            twice = [_read(system, f"c{number}") for number in chosen[-10:] * 20]
        system.close()
        firsts.append(once)
        again.append(twice)
    add_latencies(table, "first read,", firsts, Target(5.0))
    add_latencies(table, "again,", again, Target(5.0))
    table.add("first of all, with opening", *(Figure(seconds * 1e3, "ms") for seconds in cold))
    yield table


def _read(system: object, conversation: str) -> float:
    began = time.perf_counter()
    found = system.last(conversation, COUNT)  # type: ignore[attr-defined]
    seconds = time.perf_counter() - began
    assert found
    return seconds


def dataframe(setting: Setting) -> Iterator[Table]:
    """All messages as a DataFrame."""
    size = setting.scale(1_000_000, 20_000)
    names = list(KINDS)
    table = Table('df("messages")', names, "median of five; eventsourcing once")
    figures = []
    for name in names:
        system = KINDS[name]()
        system.open(corpus(setting, name, size))
        seconds = []
        for _ in range(1 if name == "eventsourcing" else REPEATS):
            with quiet(), Stopwatch() as stopwatch:
                frame = system.frame()
            assert len(frame) >= size
            seconds.append(stopwatch.seconds)
            del frame
        system.close()
        figures.append(Figure(median(seconds), "s"))
    table.add(f"{size:,} rows", *figures, target=Target(0.5))
    yield table


def memory(setting: Setting) -> Iterator[Table]:
    """Resident memory of a process of its own, step by step."""
    size = setting.scale(1_000_000, 20_000)
    names = list(KINDS)
    table = Table(f"Resident memory of a process, {size:,} messages", names)
    steps: dict[str, list[Figure | None]] = {}
    for place, name in enumerate(names):
        code = f"from benchmarks.reading import child; child({name!r}, {str(corpus(setting, name, size))!r}, {size})"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for label, value in json.loads(done.stdout.splitlines()[-1]).items():
            steps.setdefault(label, [None] * len(names))[place] = Figure(value, "MB")
    for label, figures in steps.items():
        table.add(label, *figures)
    yield table


def child(name: str, folder: str, size: int) -> None:
    """Print the memory of this process after each step, as JSON."""
    said = {"imported": resident()}
    system = KINDS[name]()
    system.open(Path(folder))
    said["opened"] = resident()
    for number in range(100):
        system.last(f"c{number}", COUNT)
    said["100 conversations read"] = resident()
    from .texts import Message

    for number in range(1_000):
        system.commit([Message(f"memory-{number}-{time.time_ns()}", f"c{number}", "user", "Hello there")])
    system.catch_up()
    said["1,000 commits"] = resident()
    if name != "eventsourcing" or size <= 100_000:
        frame = system.frame()
        said["with the DataFrame"] = resident()
        del frame
        said["without it again"] = resident()
    system.close()
    print(json.dumps(said))
