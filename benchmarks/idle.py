"""A server with a thousand quiet connections: what each costs, and what the others notice."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .pairs import ROOT, Child, Kernels
from .report import Figure, Table, percentile
from .server import Server
from .setting import Setting, resident


def run(setting: Setting) -> Iterator[Table]:
    count = setting.scale(1_000, 50)
    seconds, times = setting.scale(30, 1), setting.scale(300, 20)
    home = setting.new_folder("idle")
    columns = ["none", f"{count:,} of another store", f"{count:,} of the same store"]
    table = Table(
        "Quiet websockets on one server, each with a live pull and a ping each 10 s",
        columns,
        f"memory and processor are the server's, over {seconds} s in which nothing is committed; then one kernel "
        "commits, and a row subscription of another shows it",
    )
    settings = {"AgentStoreApp.max_user_connections": 2 * count, "AgentStoreApp.max_connections": 4 * count}
    memory, load, opening = [], [], []
    latencies: list[list[float]] = []
    with Server(home / "server", settings) as server:
        at = f"127.0.0.1:{server.port}"
        command = [sys.executable, "-m", "benchmarks.crowd", f"ws://{at}/agentstore/websocket", server.token]
        crowd = Child(command, ROOT, home / "crowd.log")
        try:
            with Kernels(f"http://{at}/", server.token, "busy", home) as pair, server.client() as client:
                client.post("conversations", {"userId": "ann", "title": "Quiet"}, "quiet")
                pair.latencies("rows", setting.scale(50, 5))
                for store in (None, "quiet", "busy"):
                    began = time.perf_counter()
                    if store is not None:
                        crowd.ask(do="connect", count=count, store=store)
                    opening.append((time.perf_counter() - began) / count)
                    load.append(_processor(server.pid, seconds))
                    memory.append(resident(server.pid))
                    latencies.append(sorted(pair.latencies("rows", times)))
                    crowd.ask(do="leave")
        finally:
            crowd.close()
    table.add("memory", *(Figure(value, "MB") for value in memory))
    more = [None, *(Figure((value - memory[0]) / count * 1e3, "kB") for value in memory[1:])]
    table.add("memory, each connection", *more)
    table.add("processor, of one core", *(Figure(value * 100, "%") for value in load))
    table.add("opening, each connection", None, *(Figure(value * 1e3, "ms") for value in opening[1:]))
    for part, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        table.add(
            f"commit to row subscription, {part}",
            *(Figure(percentile(v, share) * 1e3, "ms") for v in latencies),
        )
    yield table


def _processor(pid: int, seconds: float) -> float:
    """The share of one core that a process takes."""
    before = _spent(pid)
    time.sleep(seconds)
    return (_spent(pid) - before) / seconds


def _spent(pid: int) -> float:
    """Processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
