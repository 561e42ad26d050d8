"""Durable commits: one at a time, from many clients at once, and in batches."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

from .report import Figure, Table, Target, add_latencies, median
from .setting import Setting, Stopwatch, progress, quiet
from .systems import System, all_systems
from .texts import messages

CONVERSATIONS = 1_000
ROUNDS = 5


def opened(setting: Setting, name: str) -> list[System]:
    """All systems on empty folders, with their conversations."""
    systems = all_systems()
    for system in systems:
        system.open(setting.new_folder(f"{name}-{system.name}"))
        system.begin(CONVERSATIONS)
        system.catch_up()
    return systems


def turns(systems: Sequence[System], label: str, rounds: int = ROUNDS) -> Iterator[tuple[int, System]]:
    """Each system in each round, beginning with another one each time."""
    order = [
        (number, systems[(number + place) % len(systems)])
        for number in range(rounds)
        for place in range(len(systems))
    ]
    yield from progress(order, label)


def single(setting: Setting) -> Iterator[Table]:
    """One client that waits for each commit."""
    systems = opened(setting, "single")
    said = messages(CONVERSATIONS)
    count = setting.scale(30_000, 500) // ROUNDS
    latencies: dict[str, list[float]] = {system.name: [] for system in systems}
    for _, system in turns(systems, "one at a time"):
        batch = list(itertools.islice(said, count))
        mine = latencies[system.name]
        with quiet():
            for message in batch:
                began = time.perf_counter()
                system.commit([message])
                mine.append(time.perf_counter() - began)
    table = Table(
        "Durable commits, one at a time",
        [system.name for system in systems],
        f"{count * ROUNDS:,} commits of one message each; checkpoints included",
    )
    add_latencies(table, "", [latencies[system.name] for system in systems], Target(1.0))
    for system in systems:
        system.close()
    yield table


def clients(setting: Setting) -> Iterator[Table]:
    """Many clients, each of which waits for its own commits."""
    table = Table(
        "Durable commits from many clients at once",
        [system.name for system in all_systems()],
        "each client commits one message at a time; ours are driven by one thread as by a server's event loop, "
        "the others are threads that take turns with one connection; checkpoints included",
    )
    for number in (16, 64, 256):
        systems = opened(setting, f"clients-{number}")
        said = messages(CONVERSATIONS)
        rates: dict[str, list[float]] = {system.name: [] for system in systems}
        latencies: dict[str, list[float]] = {system.name: [] for system in systems}
        for _, system in turns(systems, f"{number} clients"):
            scale = 5 if system.name == "agentstore" else 1
            each = setting.scale(4_000, 1_000) * scale // number
            work = [list(itertools.islice(said, each)) for _ in range(number)]
            with quiet():
                seconds, mine = system.clients(work)
            rates[system.name].append(each * number / seconds)
            latencies[system.name] += mine
            system.catch_up()
        table.add(
            f"{number} clients, events",
            *(Figure(median(rates[system.name]), "/s") for system in systems),
            target=Target(20_000, most=False) if number == 64 else None,
        )
        add_latencies(table, f"{number} clients,", [latencies[system.name] for system in systems], None)
        for system in systems:
            system.close()
    yield table


def batches(setting: Setting) -> Iterator[Table]:
    """One client that commits many messages together, and waits for each commit."""
    table = Table(
        "Batches",
        [system.name for system in all_systems()],
        "acknowledged: durable; caught up: and in the tables. eventsourcing has no tables of its own",
    )
    for size in (100, 1_000):
        systems = opened(setting, f"batches-{size}")
        said = messages(CONVERSATIONS)
        acknowledged: dict[str, list[float]] = {system.name: [] for system in systems}
        caught_up: dict[str, list[float]] = {system.name: [] for system in systems}
        latencies: dict[str, list[float]] = {system.name: [] for system in systems}
        for _, system in turns(systems, f"batches of {size}"):
            count = setting.scale(60_000, 10_000) // size
            work = [list(itertools.islice(said, size)) for _ in range(count)]
            with quiet(), Stopwatch() as whole:
                began = time.perf_counter()
                for batch in work:
                    before = time.perf_counter()
                    system.commit(batch)
                    latencies[system.name].append(time.perf_counter() - before)
                seconds = time.perf_counter() - began
                system.catch_up()
            acknowledged[system.name].append(size * count / seconds)
            caught_up[system.name].append(size * count / whole.seconds)
        big = size == 1_000
        table.add(
            f"{size:,} a batch, acknowledged",
            *(Figure(median(acknowledged[system.name]), "/s") for system in systems),
            target=Target(150_000, most=False) if big else None,
        )
        table.add(
            f"{size:,} a batch, caught up",
            *(
                None if system.name == "eventsourcing" else Figure(median(caught_up[system.name]), "/s")
                for system in systems
            ),
            target=Target(80_000, most=False) if big else None,
        )
        add_latencies(table, f"{size:,} a batch,", [latencies[system.name] for system in systems], None)
        for system in systems:
            system.close()
    yield table
