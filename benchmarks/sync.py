"""From one client of a store to another: beside LiveStore, with its own sync backend and with this server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .node import Backend, Missing, install
from .pairs import Apps, Failed, Kernels, Pair
from .report import Figure, Table, Target, median, percentile
from .server import Server
from .setting import Setting, fsyncs, progress

OURS, APPS, LIVESTORE = "agentstore", "LiveStore, this server", "LiveStore"
TURNS = 4
"""The systems are measured in turn, so often."""
ROUNDS = 20
"""Of committing on both at once. LiveStore has a fifth: where a client dies or waits for ever, a round takes long."""

KINDS = {"rows": ("row subscription", 5.0, 20.0), "sql": ("SQL subscription", 15.0, None)}

Open = Callable[[str], Pair]
"""Two clients of the store with that id."""

Died = dict[str, Counter[str]]
"""What clients of a system died of, and how often."""


def run(setting: Setting) -> Iterator[Table]:
    home = setting.new_folder("sync")
    with ExitStack() as stack:
        server = stack.enter_context(Server(home / "server"))
        opened, missing = _systems(setting, stack, server, home)
        note = "two kernels in two processes; both LiveStore clients are in one. " + missing
        table = Table("From one client to another", list(opened), note)
        died: Died = {}
        with ExitStack() as pairs:
            alive = {name: pairs.enter_context(make("steady")) for name, make in opened.items()}
            _latencies(setting, table, alive, died, home)
            _batches(setting, table, alive, died)
        for each in (200, 50):
            _both(setting, table, opened, each, died)
        if died:
            told = (
                f"{name}: {why[:100]}, {n} times" for name, all_ in died.items() for why, n in all_.items()
            )
            table.note += " Failures: " + "; ".join(told) + "."
        yield table


def _systems(setting: Setting, stack: ExitStack, server: Server, home: Path) -> tuple[dict[str, Open], str]:
    """Ours and, if it can be had, LiveStore's; and why not."""
    at = f"127.0.0.1:{server.port}"
    opened: dict[str, Open] = {
        OURS: lambda store: Kernels(f"http://{at}/", server.token, store, _folder(home, "kernels"))
    }
    if setting.quick:
        return opened, "A quick run is without LiveStore."
    try:
        install()
        backend = stack.enter_context(Backend(_folder(home, "backend")))
    except Missing as missing:
        return opened, f"Without LiveStore: {missing}."
    ours = f"ws://{at}/agentstore/websocket"
    opened[APPS] = lambda store: Apps(ours, server.token, f"app-{store}", _folder(home, "apps"))
    opened[LIVESTORE] = lambda store: Apps(backend.url, "none", store, _folder(home, "livestore"))
    return opened, "LiveStore's own backend is wrangler dev."


def _folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir(exist_ok=True)
    return folder


def _latencies(setting: Setting, table: Table, alive: dict[str, Pair], died: Died, home: Path) -> None:
    times = {name: setting.scale(400 if name == OURS else 240, 20) for name in alive}
    syncs: list[float] = []
    for kind, (label, half, most) in KINDS.items():
        seconds: dict[str, list[float]] = {name: [] for name in alive}
        for name in progress([name for _ in range(TURNS) for name in alive], label):
            syncs += fsyncs(home / "synced", 20)
            with _surviving(name, died):
                seconds[name] += alive[name].latencies(kind, times[name] // TURNS)
        ordered = [sorted(seconds[name]) for name in alive]
        for part, share, bound in (("p50", 0.5, half), ("p99", 0.99, most), ("longest", 1.0, None)):
            figures = [Figure(percentile(v, share) * 1e3, "ms") if v else None for v in ordered]
            table.add(f"commit to {label}, {part}", *figures, target=Target(bound) if bound else None)
    table.add("an fsync on this disk meanwhile, p50", Figure(median(syncs) * 1e3, "ms"))
    table.add("commits measured, each kind", *(Figure(len(values)) for values in ordered))


def _batches(setting: Setting, table: Table, alive: dict[str, Pair], died: Died) -> None:
    total = setting.scale(2_000, 500)
    rates: dict[str, list[float]] = {name: [] for name in alive}
    turns = [name for turn in range(TURNS) for name in alive if name == OURS or turn % 2]
    for name in progress(turns, "batches"):
        with _surviving(name, died):
            rates[name].append(total / alive[name].batches(total, 100))
    figures = [Figure(median(values), "/s") if values else None for values in rates.values()]
    table.add(f"{total:,} events in batches of 100", *figures, target=Target(10_000, most=False))


def _both(setting: Setting, table: Table, opened: dict[str, Open], each: int, died: Died) -> None:
    rounds = {name: setting.scale(ROUNDS if name == OURS else ROUNDS // 5, 2) for name in opened}
    converged = dict.fromkeys(opened, 0)
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for name, make in opened.items():
        for number in progress(range(rounds[name]), f"both commit {each}"):
            with _surviving(name, died), make(f"both-{each}-{number}") as pair:
                same, taken = pair.both(each)
                converged[name] += same
                seconds[name].append(taken)
    label = f"both commit {each} at once,"
    table.add(f"{label} rounds", *(Figure(rounds[name]) for name in opened))
    table.add(
        f"{label} converged",
        *(Figure(converged[name]) for name in opened),
        target=Target(rounds[OURS], most=False),
    )
    typical = [median(seconds[name]) if seconds[name] else None for name in opened]
    table.add(f"{label} median", *(Figure(value, "s") if value else None for value in typical))
    table.add(f"{label} events", *(Figure(2 * each / value, "/s") if value else None for value in typical))


@contextmanager
def _surviving(name: str, died: Died) -> Iterator[None]:
    """Let a LiveStore client die, and note what of; ours must not."""
    try:
        yield
    except Failed as failed:
        if name == OURS:
            raise
        died.setdefault(name, Counter())[str(failed)] += 1
