"""``python -m benchmarks [names] [--quick] [--json FILE] [--folder DIR]``."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import commits, crash, hibernation, idle, join, loop, opening, reading, status, sync
from .report import Table, machine
from .setting import Setting

BENCHES: dict[str, Callable[[Setting], Iterator[Table]]] = {
    "single": commits.single,
    "clients": commits.clients,
    "batches": commits.batches,
    "opening": opening.run,
    "last": reading.last_messages,
    "dataframe": reading.dataframe,
    "memory": reading.memory,
    "status": status.run,
    "hibernation": hibernation.run,
    "loop": loop.run,
    "sync": sync.run,
    "join": join.run,
    "idle": idle.run,
    "crash": crash.run,
}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measurements; see benchmarks/."
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(BENCHES)}; all if none is given"
    )
    parser.add_argument("--quick", action="store_true", help="scale down: seconds each, figures are rough")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--folder", type=Path, help="where to make the temporary folder (its disk is measured)"
    )
    parser.add_argument("--rounds", type=int, help="of the crash test")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHES]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(BENCHES)}")
    command = "python -m benchmarks " + shlex.join(sys.argv[1:])
    print(f"{command.strip()}\n{machine()}")
    tables: list[Table] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="agentstore-bench-", dir=given.folder) as folder:
        setting = Setting(Path(folder), given.quick, given.rounds)
        for name in given.names or BENCHES:
            for table in BENCHES[name](setting):
                table.print()
                sys.stdout.flush()
                tables.append(table)
    print(f"\n{time.perf_counter() - began:.0f} s")
    if given.json:
        result = {"command": command, "machine": machine(), "tables": [table.plain() for table in tables]}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
