"""``GET agent/status`` of a small and of a large store, over HTTP, from a real server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from .corpus import corpus
from .report import Figure, Table, add_latencies, median
from .server import Server
from .setting import Setting


def run(setting: Setting) -> Iterator[Table]:
    small, large = setting.scale(100, 100), setting.scale(1_000_000, 20_000)
    home = setting.new_folder("status")
    server = Server(home)
    for name, size in (("small", small), ("large", large)):
        shutil.copytree(corpus(setting, "agentstore", size) / "bench", server.stores / name)
    latencies: dict[str, list[float]] = {"small": [], "large": []}
    with server, server.client() as client:
        for name in latencies:
            assert client.get("agent/status", name)["messageCount"] >= small
        for number in range(setting.scale(4_000, 400)):
            name = "small" if number % 2 else "large"
            began = time.perf_counter()
            client.get("agent/status", name)
            latencies[name].append(time.perf_counter() - began)
    table = Table(
        "GET agent/status over HTTP, one client", [f"{small:,} messages", f"{large:,} messages"], "in turn"
    )
    add_latencies(table, "", list(latencies.values()), None)
    ratio = median(latencies["large"]) / median(latencies["small"])
    table.add("large by small", None, Figure(ratio))
    yield table
