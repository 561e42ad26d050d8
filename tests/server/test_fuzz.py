"""Whatever comes on a websocket: the server goes on, others notice nothing, and the log has what was asked for."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.server.phone import AUTHORIZED, Client, opened
from tests.server.servers import Serve, Server, ok
from tests.sync.fuzz import OWN, RECORDED, Said, accounted, addressed, changed, meant, said

PONG = {"_tag": "Pong"}


class Healthy:
    """A client that pushes now and then, and keeps the log as it comes."""

    def __init__(self, server: Server, store_id: str) -> None:
        self.client = opened(server, store_id, **AUTHORIZED)
        self.log: list[dict[str, Any]] = []
        self.pushed: list[Said] = []
        self.replies: list[Said] = []
        self.client.pull()
        self.client.receive()

    def push(self) -> None:
        """Push one event, however often it takes."""
        while True:
            seen = len(self.client.frames)
            args = {"healthy": len(self.pushed)}
            end = self.client.exit(self.client.push(len(self.log), args))
            self._read(self.client.frames[seen:])
            if end["_tag"] == "Success":
                self.pushed.append(("v1.Noted", args, len(self.log), "c", "s"))
                return
            behind = end["cause"]["error"]["minimumExpectedNum"]
            while len(self.log) < behind:
                self._read([self.client.receive()])

    def _read(self, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            if frame["_tag"] == "Chunk":
                for item in frame["values"][0]["batch"]:
                    self.log.append(item["eventEncoded"])
                    if item["metadata"]["value"]["actor"].startswith("agent:"):
                        self.replies.append(said(item["eventEncoded"]))


def survive(client: Client, frame: bytes) -> bool:
    """Send a frame and wait until it has been read; whether the connection is still there."""
    try:
        client.socket.send(frame, text=True)
        client.socket.send('{"_tag":"Ping"}')
        while json.loads(client.socket.recv(30)) != PONG:
            pass
    except ConnectionClosed as closed:
        ended = closed.rcvd
    else:
        return True
    if is_utf8(frame):  # tornado cuts off who sends text that is none
        assert ended is not None, frame
        assert ended.code in (1007, 1008, 1009, 1013), ended
        assert ended.reason
    return False


def is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_changed_frames_close_at_most_their_own_connection(server: Server, store_id: str, seed: int) -> None:
    chance = random.Random(1_000 + seed)
    healthy = Healthy(server, store_id)
    client, asked, ended = opened(server, store_id, **AUTHORIZED), [], 0
    for number in range(120):
        if number % 10 == 0:
            healthy.push()
        base = addressed(chance.choice(RECORDED + OWN), store_id, len(healthy.log), number)
        frame = changed(base, chance)
        asked += meant(frame, store_id)
        if not survive(client, frame):
            ended += 1
            client = opened(server, store_id, **AUTHORIZED)
    assert ended
    healthy.push()
    with server.client(params={"storeId": store_id}) as http:
        page = ok(http.get("events", params={"limit": 10_000}))
    assert page["head"] == len(healthy.log)
    assert [event["seqNum"] for event in healthy.log] == list(range(1, page["head"] + 1))
    assert set(map(str, healthy.pushed)) <= {str(said(event)) for event in healthy.log}
    assert accounted(healthy.log, asked + healthy.pushed + healthy.replies)
    assert len(healthy.log) > len(healthy.pushed)  # some of what was changed was still as good as new


WIRE = {
    "an unmasked frame": b"\x81\x0f" + b'{"_tag":"Ping"}',
    "reserved bits": b"\xf1\x80" + bytes(4),
    "an unknown opcode": b"\x83\x80" + bytes(4),
    "a fragmented ping": b"\x09\x80" + bytes(4),
    "a long ping": b"\x89\xfe\x00\x80" + bytes(4) + bytes(128),
    "a continuation of nothing": b"\x80\x80" + bytes(4),
    "a text in a text": b"\x01\x81" + bytes(4) + b"{" + b"\x81\x81" + bytes(4) + b"}",
    "a length beyond all bounds": b"\x81\xff" + b"\xff" * 8 + bytes(4),
    "half a frame": b"\x81\xfe\x40\x00" + bytes(4) + b"{" * 100,
    "a text that is none": b"\x81\x82" + bytes(4) + b"\xff\xfe",
    "a close with half a code": b"\x88\x81" + bytes(4) + b"\x03",
    "no websocket at all": b"GET / HTTP/1.1\r\n\r\n" * 20,
}


@pytest.mark.parametrize("what", WIRE)
def test_what_is_no_websocket_frame_hurts_nobody_else(
    serve: Serve, server: Server, store_id: str, what: str
) -> None:
    healthy = Healthy(server, store_id)
    client = opened(server, store_id, **AUTHORIZED)
    client.pull()
    client.receive()
    raw = client.socket.socket
    with suppress(OSError):
        raw.sendall(WIRE[what])
    healthy.push()
    client.socket.close()
    healthy.push()
    assert [said(event) for event in healthy.log] == healthy.pushed


def test_none_of_it_is_an_error_to_the_server(serve: Serve) -> None:
    server = serve("c.ServerApp.log_level = 'WARN'")
    chance = random.Random(7)
    client = opened(server, "s", **AUTHORIZED)
    for number in range(100):
        if not survive(client, changed(addressed(chance.choice(RECORDED + OWN), "s", 0, number), chance)):
            client = opened(server, "s", **AUTHORIZED)
    assert server.process.poll() is None
    said_by_us = [
        line for line in server.log.splitlines() if line.startswith(("[E", "[C")) or "Traceback" in line
    ]
    assert said_by_us == []
