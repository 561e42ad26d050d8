"""What tests of faults look at, and do."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from jupyter_agentstore import events
from jupyter_agentstore.client import Store
from tests.client.jupyter import Jupyter

HANDSHAKE = 600
"""Bytes, about, of either side's part of a websocket's handshake."""


def log(server: Jupyter, store_id: str) -> list[dict[str, Any]]:
    """All events of a store, as the server has them."""
    found: list[dict[str, Any]] = []
    with server.http() as http:
        while True:
            asked = {"storeId": store_id, "after": len(found), "limit": 1_000}
            answer = http.get("agentstore/events", params=asked).raise_for_status().json()
            found += answer["events"]
            if len(found) == answer["head"]:
                return found


def facts(server: Jupyter, store_id: str) -> list[str]:
    """The facts in a store's log, in order."""
    return [event["args"]["fact"] for event in log(server, store_id) if "fact" in event["args"]]


def known(store: Store) -> list[str]:
    """The facts in a client's tables, in order; each is there as an event and as a row."""
    query = """select (select list(args order by seq) from events) as args,
                      (select list(fact) from "conversationMemory") as facts"""
    (row,) = store.sql(query).rows()
    said = [json.loads(args) for args in row["args"] or ()]
    found = [args["fact"] for args in said if "fact" in args]
    assert sorted(found) == sorted(row["facts"] or ())
    return found


def says(store: Store) -> str:
    return "\n".join(entry.what for entry in store.sync.history)


def reset(jupyter: Jupyter, name: str) -> None:
    command = [sys.executable, "-m", "jupyter_agentstore.server.cli", "reset", "--yes", name]
    subprocess.run(command, env=jupyter.env, check=True, capture_output=True)


def remember(store: Store, chat: str, *said: str) -> None:
    store.commit(*[events.MemoryAdded(conversationId=chat, fact=fact) for fact in said])


def said(start: int, stop: int, chat: str) -> str:
    """Code that makes events."""
    return f"[events.MemoryAdded(conversationId={chat!r}, fact=str(n)) for n in range({start}, {stop})]"


def numbers(start: int, stop: int) -> list[str]:
    return [str(number) for number in range(start, stop)]
