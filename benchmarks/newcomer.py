"""A kernel that joins a store: ``python -m benchmarks.newcomer URL TOKEN STORE`` says how long each part took."""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any

BEGAN = time.perf_counter()

PARTS = {
    "tables written": ("joining", "download"),
    "received": ("joining", "_receive"),
    "opened": ("replica.Replica", "install"),
    "tail": ("session.Session", "start"),
}
"""Seconds within these functions of ``client``; ``tables written`` holds ``received``."""


def main() -> None:
    from jupyter_agentstore import connect
    from jupyter_agentstore.client import joining, replica, session

    taken = dict.fromkeys(PARTS, 0.0)
    places: dict[str, Any] = {
        "joining": joining,
        "replica.Replica": replica.Replica,
        "session.Session": session.Session,
    }
    for part, (place, name) in PARTS.items():
        setattr(places[place], name, _timed(getattr(places[place], name), taken, part))
    url, token, store_id = sys.argv[1:]
    imported = time.perf_counter()
    store = connect(store_id, url=url, token=token)
    connected = time.perf_counter()
    [row] = store.sql("select count(*) as n, max(seq) as head from events").rows()
    answered = time.perf_counter()
    status = store.sync.status
    store.close()
    result = taken | {
        "imports": imported - BEGAN,
        "connected": connected - imported,
        "answered": answered - connected,
        "joined": answered - imported,
        "head": row["head"],
        "count": row["n"],
        "status": status,
    }
    print(json.dumps(result))


def _timed(function: Any, taken: dict[str, float], part: str) -> Any:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            taken[part] += time.perf_counter() - began

    return timed


if __name__ == "__main__":
    main()
