"""Frames that are not what they should be, and an independent reading of what they say all the same."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECORDED: list[dict[str, Any]] = [
    line["d"]
    for line in map(json.loads, (Path(__file__).parent / "trace.jsonl").read_text().splitlines())
    if line["dir"] == "c>s"
]
"""What two real LiveStore clients have sent."""

OWN: list[dict[str, Any]] = [
    {"_tag": "Request", "id": "90", "tag": "AgentStore.Watch", "payload": {"storeId": ""}},
    {
        "_tag": "Request",
        "id": "91",
        "tag": "AgentStore.Presence",
        "payload": {
            "storeId": "",
            "clientId": "aa",
            "sessionId": "static",
            "state": {"typing": True, "half": "\ud83d"},
        },
    },
    {"_tag": "Eof"},
]

ODD: list[Any] = [
    None, True, -1, 0, 1.5, 2**53, 2**64, 10**400, "", "\0", "\ud83d", "Some", "None", [], {}, [[]], {"_tag": "None"},
    "x" * 5_000, "assistant", "agent:me",
]  # fmt: skip

FRAGMENTS = [
    b"", b"\0", b"\xff", b"\xed\xa0\xbd", b"\\ud83d", b"\\u", b"{", b"}", b"[" * 600, b'"', b",", b":", b"NaN", b"-",
    b"e9999", b"null", b'"_tag":"Some"', b'"seqNum":1', b'"batch":[]', b"\xf0\x9f\x98\x80", b" \n\t", b"Infinity",
    b"1E400",
]  # fmt: skip


def addressed(frame: dict[str, Any], store_id: str, head: int, number: int) -> dict[str, Any]:
    """A recorded frame as a client of this store would send it now: in its words, a push on its head."""
    frame = json.loads(json.dumps(frame))
    if frame["_tag"] != "Request":
        return frame
    frame["id"] = f"{frame['id']}-{number}"
    payload = frame["payload"]
    payload["storeId"] = store_id
    if "batch" in payload:
        payload["backendId"] = {"_tag": "None"}
        for place, event in enumerate(payload["batch"], head):
            event |= {"seqNum": place + 1, "parentSeqNum": place}
    elif "cursor" in payload:
        payload["cursor"] = {"_tag": "None"}
    return frame


def changed(frame: dict[str, Any], chance: random.Random) -> bytes:
    """The frame's bytes with something changed, or not quite the frame."""
    if chance.random() < 0.4:
        _replace(frame, chance)
    data = bytearray(
        json.dumps(frame, separators=(",", ":"), ensure_ascii=chance.random() < 0.5).encode(errors="replace")
    )
    for _ in range(chance.choice((0, 1, 1, 1, 2, 5))):
        if not data:
            break
        at, length = chance.randrange(len(data)), chance.randrange(1, 12)
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = chance.choice(FRAGMENTS)
            case 3:
                data[at : at + length] = chance.choice(FRAGMENTS)
            case 4:
                data[at:at] = data[at : at + length]
            case _:
                del data[at:]
    return bytes(data)


def _replace(frame: dict[str, Any], chance: random.Random) -> None:
    """Put an odd value somewhere into the frame."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            places.append((value, key))
            walk(item)

    walk(frame)
    inside, key = chance.choice(places)
    if chance.random() < 0.2:
        del inside[key]
    else:
        inside[key] = chance.choice(ODD)


Said = tuple[str, Any, int, str, str]
"""An event as it can be read from a body or a push: name, args, number, client, session."""


def said(event: dict[str, Any]) -> Said:
    return event["name"], event.get("args"), event["seqNum"], event["clientId"], event["sessionId"]


def meant(frame: bytes, store_id: str) -> list[Said]:
    """The events that a frame asks to append, read by Python's own JSON; none if it is no push to this store."""
    try:
        read = json.loads(frame.decode())
        payload = read["payload"]
        batch = payload["batch"]
        if (read["_tag"], read["tag"], payload["storeId"]) != ("Request", "SyncWsRpc.Push", store_id):
            return []
        for place, event in enumerate(batch):
            numbers = event["seqNum"], event["parentSeqNum"]
            if any(type(number) is not int for number in numbers) or numbers[0] != numbers[1] + 1:
                return []
            if place and numbers[1] != batch[place - 1]["seqNum"]:
                return []
        return [said(event) for event in batch]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def accounted(log: Sequence[dict[str, Any]], asked: Sequence[Said]) -> bool:
    """Whether every event of a log was asked for in just these words."""
    return all(said(event) in asked for event in log)
