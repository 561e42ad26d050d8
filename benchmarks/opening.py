"""Opening a store that has many events, and making its tables anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from .corpus import CONVERSATIONS, KINDS, corpus, size_of
from .report import Figure, Table, Target, median
from .setting import Setting, Stopwatch, drop_from_page_cache
from .systems import Ours, SQLite
from .texts import Message

REPEATS = 5


def run(setting: Setting) -> Iterator[Table]:
    names = list(KINDS)
    table = Table(
        "Opening and rebuilding",
        names,
        "opened: the last messages of a conversation can be read; cold: with the system's page cache dropped for its "
        "files; first commit: the one after opening, durable",
    )
    large = setting.scale(1_000_000, 20_000)
    for size in (setting.scale(100_000, 5_000), large):
        events = f"{size:,} messages,"
        most = size == large
        opened: dict[str, list[float]] = {name: [] for name in names}
        first: dict[str, list[float]] = {name: [] for name in names}
        cold: dict[str, float] = {}
        for repeat in range(REPEATS + 1):
            for name in names:
                folder = corpus(setting, name, size)
                if repeat == 0:
                    drop_from_page_cache(folder)
                system = KINDS[name]()
                with Stopwatch() as opening:
                    system.open(folder)
                    assert system.last("c1", 10)
                with Stopwatch() as committing:
                    system.commit([Message(f"first-{repeat}-{size}", "c1", "user", "Hello")])
                system.close()
                if repeat == 0:
                    cold[name] = opening.seconds
                else:
                    opened[name].append(opening.seconds)
                    first[name].append(committing.seconds)
        table.add(
            f"{events} opened",
            *(Figure(median(opened[name]), "s") for name in names),
            target=Target(1.0) if most else None,
        )
        table.add(f"{events} opened, cold", *(Figure(cold[name], "s") for name in names))
        table.add(f"{events} first commit", *(Figure(median(first[name]) * 1e3, "ms") for name in names))
        rates = [
            Figure(rate, "/s") for rate in (_rebuild_ours(setting, size), _rebuild_sqlite(setting, size))
        ]
        table.add(f"{events} rebuilt, events", *rates, target=Target(100_000, most=False) if most else None)
        table.add(f"{events} on disk", *(size_of(corpus(setting, name, size)) for name in names))
    yield table


def _rebuild_ours(setting: Setting, size: int) -> float:
    """Events a second when the tables' file is gone: from opening the store to having all in the file."""
    folder = setting.new_folder("rebuild")
    shutil.copytree(corpus(setting, "agentstore", size), folder, dirs_exist_ok=True)
    for path in folder.rglob("state.duckdb*"):
        path.unlink()
    system = Ours()
    with Stopwatch() as stopwatch:
        system.open(folder)
        system.catch_up()
    events = system.store.head
    assert system.store.count("conversations") == CONVERSATIONS
    system.close()
    shutil.rmtree(folder)
    return events / stopwatch.seconds


def _rebuild_sqlite(setting: Setting, size: int) -> float:
    system = SQLite()
    system.open(corpus(setting, "sqlite3", size))
    with Stopwatch() as stopwatch:
        events = system.rebuild()
    system.close()
    return events / stopwatch.seconds
