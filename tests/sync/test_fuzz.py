"""Whatever comes on a connection: the session neither raises nor lets into the log what nobody asked for."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.sync.server_session import MAX_PRESENCES, MAX_REQUESTS
from tests.sync.fuzz import OWN, RECORDED, accounted, addressed, changed, meant
from tests.sync.peer import STORE, Log, Peer, pull, push, seqs

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=12), inside, max_size=4),
    max_leaves=12,
)
NOISE = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200),
    JSON.map(json.dumps),
    st.fixed_dictionaries(
        {"_tag": st.sampled_from(["Request", "Ack", "Interrupt", "Ping", "Eof", "Exit", "Chunk"]) | JSON},
        optional={
            "id": st.text(max_size=5) | JSON,
            "requestId": st.text(max_size=5) | JSON,
            "tag": st.sampled_from(
                ["SyncWsRpc.Pull", "SyncWsRpc.Push", "AgentStore.Watch", "AgentStore.Presence"]
            )
            | JSON,
            "payload": st.fixed_dictionaries(
                {"storeId": st.just(STORE)}, optional={"batch": JSON, "cursor": JSON}
            )
            | JSON,
        },
    ).map(json.dumps),
)


@given(st.lists(NOISE, max_size=8))
def test_noise_neither_raises_nor_reaches_the_log(frames: list[str | bytes]) -> None:
    log = Log(3)
    peer = Peer(log).send(pull())
    for frame in frames:
        peer.send(frame)
    assert log.head == 3
    still_well(log)


@pytest.mark.parametrize("seed", range(12))
def test_changed_frames_of_real_clients_reach_the_log_only_as_what_they_say(seed: int) -> None:
    chance = random.Random(seed)
    log, asked = Log(), []
    healthy = Peer(log).send(pull())
    peer, accepted, ended = Peer(log), 0, 0
    for number in range(150):
        frame = addressed(chance.choice(RECORDED + OWN), STORE, log.head, number)
        data = changed(frame, chance)
        asked += meant(data, STORE)
        before = log.head
        peer.send(data if chance.random() < 0.5 or not data.isascii() else data.decode())
        accepted += log.head > before
        assert accounted([json.loads(event.body) for event in log.events[before:]], asked)
        if peer.closed is not None:
            ended += 1
            log.peers.remove(peer)
            peer = Peer(log)
        assert len(peer.session._pulls) + len(peer.session._watches) <= MAX_REQUESTS
        assert len(peer.session._present) <= MAX_PRESENCES
        healthy.send({"_tag": "Ack", "requestId": "p"})
    assert accepted  # some are as good as new
    assert ended  # and many are not
    assert seqs(healthy.new()) == list(range(1, log.head + 1))
    still_well(log)


def still_well(log: Log) -> None:
    """Another connection does what it always did."""
    other = Peer(log).send(pull())
    before = log.head
    while len(seqs([json.loads(text) for text in other.sent])) < before:
        other.send({"_tag": "Ack", "requestId": "p"})
    other.send({"_tag": "Ack", "requestId": "p"}).send(push("fine", before, backend=None))
    assert log.head == before + 1
    assert [frame["_tag"] for frame in other.new()][-2:] == ["Chunk", "Exit"]
