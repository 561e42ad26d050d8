"""A server extension that measures how long the event loop is blocked, for the measurement ``loop``.

It writes to the file that ``AGENTSTORE_PROBE`` names: five times a second a line of JSON with the lags seen since
the last one (milliseconds by which a timer came late), the pauses for garbage collection (milliseconds; they stop
every thread), and, for each lag over the limit, what the loop's thread was doing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

STEP = 0.005
LIMIT = 0.05


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "benchmarks.probe"}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    file = os.environ["AGENTSTORE_PROBE"]
    serverapp.io_loop.add_callback(lambda: _start(file))


def _start(file: str) -> None:
    loop = asyncio.get_running_loop()
    loop_thread = threading.get_ident()
    seen: list[float] = []
    stacks: list[str] = []
    pauses: list[float] = []
    collecting = beat = loop.time()

    def collect(phase: str, _: object) -> None:
        nonlocal collecting
        if phase == "start":
            collecting = time.perf_counter()
        else:
            pauses.append((time.perf_counter() - collecting) * 1e3)

    def tick(due: float) -> None:
        nonlocal beat
        now = beat = loop.time()
        seen.append((now - due) * 1e3)
        loop.call_later(STEP, tick, now + STEP)

    def watch() -> None:
        """What the loop is doing while it is late, as far as this thread gets to run."""
        told = 0.0
        with open(file, "a", buffering=1) as out:  # noqa: PTH123
            written = time.monotonic()
            while True:
                time.sleep(STEP)
                if loop.time() - beat > LIMIT and beat != told:
                    told = beat
                    frame = sys._current_frames().get(loop_thread)
                    stacks.append("".join(traceback.format_stack(frame, limit=12)))
                if time.monotonic() - written > 0.2:
                    written = time.monotonic()
                    lags, stops, late = seen.copy(), pauses.copy(), stacks.copy()
                    del seen[: len(lags)], pauses[: len(stops)], stacks[: len(late)]
                    said = {"lags": lags, "pauses": stops, "stacks": late}
                    out.write(json.dumps(said) + "\n")

    gc.callbacks.append(collect)
    loop.call_later(STEP, tick, loop.time() + STEP)
    threading.Thread(target=watch, name="probe", daemon=True).start()
