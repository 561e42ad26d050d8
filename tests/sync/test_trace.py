"""A recorded session of two LiveStore clients, replayed: the same frames leave the server, in the same order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jupyter_agentstore.sync.server_session import ServerSession
from tests.sync.peer import Log, Peer

TRACE = [json.loads(line) for line in (Path(__file__).parent / "trace.jsonl").read_text().splitlines()]
STORE = "mini-tkkc4bk3zw"


def plain(frame: Any) -> Any:
    """A frame without what is each log's own, and without what LiveStore has no word for."""
    for page in frame.get("values", []):
        page["backendId"] = "backend"
        for item in page["batch"]:
            item["metadata"]["value"] |= {"createdAt": "then"}
            item["metadata"]["value"].pop("actor", None)
    return frame


def test_a_recorded_session_is_answered_as_it_was() -> None:
    log = Log()
    peers: dict[str, Peer] = {}
    expected: dict[str, list[Any]] = {}
    for line in TRACE:
        connection = line["id"]
        if line["dir"] == "open":
            peers[connection] = Peer(log)
            peers[connection].session = ServerSession(STORE)
            expected[connection] = []
        elif line["dir"] == "s>c":
            expected[connection].append(plain(line["d"]))
        elif line["dir"] == "c>s":
            frame = json.dumps(line["d"]).replace('"fWnU3oFg0UPR9HvzohyeC"', '"backend"')
            peers[connection].send(frame)
    for connection, peer in peers.items():
        assert [plain(frame) for frame in peer.new()] == expected[connection]
        assert peer.closed is None
    assert log.head == 5


def test_the_fields_of_a_frame_come_in_the_recorded_order() -> None:
    log = Log()
    peer = Peer(log)
    peer.session = ServerSession(STORE)
    sent = [line["d"] for line in TRACE if line["id"] == "8qz1" and line["dir"] == "c>s"]
    for frame in sent[:4]:
        peer.send(frame)
    recorded = [line["d"] for line in TRACE if line["id"] == "8qz1" and line["dir"] == "s>c"]
    for ours, theirs in zip(peer.new(), recorded[:4], strict=True):
        assert json.dumps(plain(ours)) == json.dumps(plain(theirs))
