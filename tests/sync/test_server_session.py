"""One connection: pages, live pulls, flow control, pushes and their order, and what ends a connection."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.errors import DamagedLog, Forbidden, StoreClosed
from jupyter_agentstore.sync.server_session import (
    CONNECTION_BYTES,
    MAX_REQUESTS,
    WINDOW_BYTES,
    WINDOW_CHUNKS,
    Open,
    PushBatch,
    ReadPage,
)
from tests.sync.peer import Log, Peer, ack, error, interrupt, pull, push, seqs


def pages(frames: list[dict[str, object]]) -> list[dict[str, object]]:
    return [frame["values"][0]["pageInfo"] for frame in frames if frame["_tag"] == "Chunk"]  # type: ignore[index]


# ---- pulls


def test_a_pull_of_an_empty_store_is_one_empty_page() -> None:
    frames = Peer(Log()).send(pull()).new()
    assert [frame["values"][0]["batch"] for frame in frames] == [[]]
    assert pages(frames) == [{"_tag": "NoMore"}]


def test_a_pull_that_is_not_live_ends_after_its_last_page() -> None:
    frames = Peer(Log(3)).send(pull(live=False)).new()
    assert seqs(frames) == [1, 2, 3]
    assert frames[-1] == {"_tag": "Exit", "requestId": "p", "exit": {"_tag": "Success"}}


def test_pages_have_at_most_100_events_and_say_how_many_come() -> None:
    peer = Peer(Log(250)).send(pull(live=False))
    frames = peer.new()
    assert seqs(frames) == list(range(1, 251))
    assert pages(frames) == [
        {"_tag": "MoreKnown", "remaining": 150},
        {"_tag": "MoreKnown", "remaining": 50},
        {"_tag": "NoMore"},
    ]


def test_a_pull_that_asks_for_longer_pages_gets_them() -> None:
    asked = pull(live=False)
    asked["payload"]["pageEvents"] = 1_000
    frames = Peer(Log(1_250)).send(asked).new()
    assert seqs(frames) == list(range(1, 1_251))
    assert pages(frames) == [{"_tag": "MoreKnown", "remaining": 250}, {"_tag": "NoMore"}]


@pytest.mark.parametrize("size", [0, -1, 1_001, "many"])
def test_a_page_of_another_size_is_refused(size: object) -> None:
    asked = pull()
    asked["payload"]["pageEvents"] = size
    assert error(Peer(Log(3)).send(asked).new(), "p")["_tag"] == "UnknownError"


def test_pages_have_at_most_900_000_bytes() -> None:
    log = Log()
    for _ in range(5):
        log.append("e", json.dumps({"text": "ü" * 200_000}, ensure_ascii=False))
    peer = Peer(log).send(pull()).send(ack()).send(ack())
    assert seqs(peer.new()) == [1, 2, 3, 4, 5]
    assert all(len(text.encode()) < 901_000 for text in peer.sent)


def test_a_pull_goes_on_after_its_cursor() -> None:
    assert seqs(Peer(Log(5)).send(pull(cursor=3)).new()) == [4, 5]


def test_a_cursor_at_the_head_is_answered_by_an_empty_page() -> None:
    frames = Peer(Log(5)).send(pull(cursor=5)).new()
    assert pages(frames) == [{"_tag": "NoMore"}]
    assert seqs(frames) == []


@pytest.mark.parametrize(("cursor", "backend"), [(6, "backend"), (2, "another")])
def test_a_cursor_in_another_log_or_above_the_head_is_a_mismatch(cursor: int, backend: str) -> None:
    peer = Peer(Log(5)).send(pull(cursor=cursor, backend=backend))
    assert error(peer.new(), "p") == {
        "_tag": "BackendIdMismatchError",
        "expected": "backend",
        "received": backend,
    }
    assert peer.closed is None


def test_a_cursor_that_the_session_has_not_heard_of_yet_is_no_mismatch() -> None:
    log = Log(5)
    peer = Peer(log, eager=False).send(pull("a"))
    while peer.todo:
        peer.carry_out(peer.todo.pop(0))
    log.append("e", "{}", tell=False)
    peer.send(pull("b", cursor=6))
    peer.carry_out(peer.todo.pop(0))
    assert pages(peer.new()[1:]) == [{"_tag": "NoMore"}]


def test_a_log_that_grows_while_it_is_read_is_read_again() -> None:
    log = Log()
    peer = Peer(log, eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    reading = peer.todo.pop(0)
    assert isinstance(reading, ReadPage)
    log.append("e", "{}", tell=False)
    peer.do(peer.session.page(reading.pull, [], log.head))
    assert peer.new() == []
    peer.carry_out(peer.todo.pop(0))
    assert seqs(peer.new()) == [1]


def test_a_log_that_has_lost_events_fails_a_pull() -> None:
    peer = Peer(Log(3), eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    reading = peer.todo.pop(0)
    assert isinstance(reading, ReadPage)
    peer.do(peer.session.page(reading.pull, [], 3))
    assert error(peer.new(), "p")["cause"]["name"] == "damaged_log"
    assert peer.todo == []


def test_a_live_pull_gets_what_is_appended() -> None:
    log = Log(1)
    peer = Peer(log).send(pull())
    assert seqs(peer.new()) == [1]
    log.append("e", "{}")
    assert seqs(peer.new()) == [2]


def test_news_that_are_more_than_a_page_come_in_pages() -> None:
    log = Log()
    peer = Peer(log).send(pull()).send(ack())
    for _ in range(250):
        log.append("e", "{}", tell=False)
    log.tell(log.events)
    frames = peer.new()
    assert seqs(frames) == list(range(1, 251))
    assert [len(seqs([frame])) for frame in frames] == [0, 100, 100, 50]


def test_news_that_are_larger_than_a_page_come_in_pages() -> None:
    log = Log()
    peer = Peer(log).send(pull()).send(ack())
    for _ in range(12):
        log.append("e", json.dumps({"text": "x" * 400_000}), tell=False)
    log.tell(log.events)
    for _ in range(12):
        peer.send(ack())
    assert seqs(peer.new()) == list(range(1, 13))
    assert all(len(text) < 901_000 for text in peer.sent)


def test_a_page_holds_its_bytes_with_what_the_log_knows_of_each_event() -> None:
    log = Log()
    for _ in range(100):
        log.append("e", json.dumps({"text": "x" * 8_900}))
    peer = Peer(log).send(pull())
    assert 90 < len(seqs(peer.new())) < 100
    assert all(len(text) < 901_000 for text in peer.sent)


def test_news_that_a_pull_has_read_already_are_not_sent_again() -> None:
    log = Log(3)
    peer = Peer(log).send(pull())
    peer.new()
    log.tell(log.events)
    assert peer.new() == []


def test_news_during_the_reading_of_a_page_are_not_sent_twice() -> None:
    log = Log(3)
    peer = Peer(log, eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    peer.carry_out(peer.todo.pop(0))
    log.append("e", "{}", tell=False)
    log.append("e", "{}", tell=False)
    peer.do(peer.session.appended(5))
    log.tell(log.events)
    peer.carry_out(peer.todo.pop(0))
    assert seqs(peer.new()) == [1, 2, 3, 4, 5]
    assert peer.todo == []


def test_several_pulls_run_side_by_side() -> None:
    log = Log(2)
    peer = Peer(log).send(pull("a")).send(pull("b", cursor=1)).send(pull("c", live=False))
    log.append("e", "{}")
    frames = peer.new()
    assert [seqs(frames, id) for id in "abc"] == [[1, 2, 3], [2, 3], [1, 2]]


def test_many_pulls_that_nobody_acknowledges_share_what_a_connection_may_have() -> None:
    log = Log()
    for _ in range(3):
        log.append("e", json.dumps({"text": "x" * 700_000}), tell=False)
    peer = Peer(log, eager=False)
    ids = [f"p{number}" for number in range(MAX_REQUESTS)]
    for id in ids:
        peer.send(pull(id, live=False))
    while peer.todo:
        peer.carry_out(peer.todo.pop(0))
    assert sum(map(len, peer.sent)) < CONNECTION_BYTES + 4 * WINDOW_BYTES
    frames: list[dict[str, object]] = []
    while new := peer.new():
        frames += new
        for frame in new:
            if frame["_tag"] == "Chunk":
                peer.send(ack(frame["requestId"]))
        while peer.todo:
            peer.carry_out(peer.todo.pop(0))
    assert [seqs(frames, id) for id in ids] == [[1, 2, 3]] * len(ids)


def test_a_pull_that_ends_does_not_chase_a_growing_log() -> None:
    log = Log(150)
    peer = Peer(log, eager=False).send(pull(live=False))
    while peer.todo:
        peer.carry_out(peer.todo.pop(0))
        for _ in range(100):
            log.append("e", "{}")
    frames = peer.new()
    assert frames[-1]["_tag"] == "Exit"
    assert len(seqs(frames)) == 300


def test_an_interrupted_pull_is_silent_even_if_its_page_is_being_read() -> None:
    log = Log(2)
    peer = Peer(log, eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    peer.send(interrupt())
    peer.carry_out(peer.todo.pop(0))
    log.append("e", "{}")
    assert peer.new() == []
    assert peer.send(interrupt()).closed is None


def test_the_id_of_an_interrupted_request_may_be_used_again() -> None:
    peer = Peer(Log(2), eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    peer.send(interrupt()).send(pull())
    for action in peer.todo:
        peer.carry_out(action)
    assert seqs(peer.new()) == [1, 2]


# ---- flow control


def test_a_client_that_does_not_acknowledge_costs_a_window_however_much_is_appended() -> None:
    log = Log()
    peer = Peer(log).send(pull())
    for _ in range(1000):
        log.append("e", "{}")
    assert len(peer.sent) == WINDOW_CHUNKS
    while len(seqs([json.loads(text) for text in peer.sent])) < 1000:
        before = len(peer.sent)
        peer.send(ack())
        assert len(peer.sent) <= before + 1
    assert seqs(peer.new()) == list(range(1, 1001))


def test_a_window_is_bounded_in_bytes() -> None:
    log = Log()
    for _ in range(10):
        log.append("e", json.dumps({"text": "x" * 700_000}))
    peer = Peer(log).send(pull())
    assert len(peer.sent) == 2
    peer.send(ack())
    assert len(peer.sent) == 3


def test_acknowledgements_of_nothing_are_ignored() -> None:
    log = Log()
    peer = Peer(log).send(ack()).send(pull())
    for _ in range(50):
        peer.send(ack()).send(ack("other"))
    for _ in range(100):
        log.append("e", "{}")
    assert len(peer.sent) == 1 + WINDOW_CHUNKS


def test_a_slow_client_does_not_hold_up_another() -> None:
    log = Log()
    slow, quick = Peer(log).send(pull()), Peer(log).send(pull())
    for _ in range(100):
        log.append("e", "{}")
        quick.send(ack())
    assert seqs(quick.new()) == list(range(1, 101))
    assert len(slow.sent) == WINDOW_CHUNKS


# ---- pushes


def test_a_push_reaches_all_live_pulls_and_then_ends() -> None:
    log = Log()
    pusher, other = Peer(log).send(pull()), Peer(log).send(pull())
    pusher.new()
    pusher.send(push("1", 0, 2))
    frames = pusher.new()
    assert seqs(frames) == [1, 2]
    assert frames[-1] == {"_tag": "Exit", "requestId": "1", "exit": {"_tag": "Success", "value": {}}}
    assert seqs(other.new()) == [1, 2]


def test_the_end_of_a_push_waits_for_a_page_that_is_being_read() -> None:
    log = Log()
    peer = Peer(log, eager=False).send(pull()).send(push("1", 0))
    opening, batch = peer.todo
    assert isinstance(opening, Open)
    assert isinstance(batch, PushBatch)
    peer.carry_out(opening)
    reading = peer.todo[-1]
    assert isinstance(reading, ReadPage)
    peer.carry_out(batch)
    assert peer.new() == []
    peer.carry_out(reading)
    assert [frame["_tag"] for frame in peer.new()] == ["Chunk", "Exit"]


def test_the_end_of_a_push_does_not_wait_for_an_acknowledgement() -> None:
    log = Log()
    peer = Peer(log).send(pull())
    for _ in range(10):
        log.append("e", "{}")
    peer.new()
    assert [frame["_tag"] for frame in peer.send(push("1", 10)).new()] == ["Exit"]


def test_the_end_of_a_push_does_not_wait_for_an_interrupted_pull() -> None:
    log = Log()
    peer = Peer(log, eager=False).send(pull()).send(push("1", 0))
    peer.carry_out(peer.todo[0])
    peer.carry_out(peer.todo[1])
    peer.send(interrupt())
    assert [frame["_tag"] for frame in peer.new()] == ["Exit"]


def test_a_push_that_does_not_follow_the_head_is_told_the_head() -> None:
    peer = Peer(Log(4)).send(push("1", 3))
    assert error(peer.new(), "1") == {
        "_tag": "ServerAheadError",
        "minimumExpectedNum": 4,
        "providedNum": 3,
    }


@pytest.mark.parametrize(("parent", "backend"), [(9, "backend"), (9, None), (4, "another")])
def test_a_push_to_another_log_or_above_the_head_is_a_mismatch(parent: int, backend: str | None) -> None:
    peer = Peer(Log(4)).send(pull()).send(push("1", parent, backend=backend))
    assert error(peer.new(), "1")["_tag"] == "BackendIdMismatchError"


def test_a_push_behind_a_refused_one_does_not_hear_that_the_log_is_another() -> None:
    peer = Peer(Log(4), eager=False).send(push("1", 3, 2)).send(push("2", 5)).send(push("3", 6))
    for action in peer.todo:
        peer.carry_out(action)
    frames = peer.new()
    assert [error(frames, id)["_tag"] for id in "123"] == ["ServerAheadError"] * 3


def test_nor_does_a_push_that_comes_when_the_one_that_it_follows_was_refused() -> None:
    peer = Peer(Log(4)).send(push("1", 3, 2)).send(push("2", 5)).send(push("3", 6))
    frames = peer.new()
    assert [error(frames, id)["_tag"] for id in "123"] == ["ServerAheadError"] * 3
    peer.send(push("4", 9))
    assert error(peer.new(), "4")["_tag"] == "BackendIdMismatchError"


def test_pushes_may_follow_each_other_without_waiting() -> None:
    log = Log()
    peer = Peer(log, eager=False).send(push("1", 0, 2)).send(push("2", 2, 2))
    for action in peer.todo:
        peer.carry_out(action)
    assert [frame["exit"]["_tag"] for frame in peer.new()] == ["Success", "Success"]
    assert log.head == 4


def test_an_interrupted_push_is_not_answered() -> None:
    peer = Peer(Log(), eager=False).send(push("1", 0)).send(interrupt("1"))
    peer.carry_out(peer.todo[0])
    assert peer.new() == []


def test_the_interrupt_after_an_exit_is_ignored() -> None:
    peer = Peer(Log()).send(push("1", 0)).send(interrupt("1")).send({"_tag": "Ping"})
    assert [frame["_tag"] for frame in peer.new()] == ["Exit", "Pong"]


# ---- refusals and ends


def test_a_frame_for_another_store_is_refused() -> None:
    foreign = json.loads(json.dumps(push("1", 0)).replace('"storeId": "s"', '"storeId": "other"'))
    peer = Peer(Log()).send(foreign)
    assert error(peer.new(), "1")["_tag"] == "UnknownError"
    assert peer.log.head == 0


def test_an_unknown_request_fails_and_the_connection_goes_on() -> None:
    peer = Peer(Log()).send({"_tag": "Request", "id": "9", "tag": "Other", "payload": {}})
    assert error(peer.new(), "9")["_tag"] == "UnknownError"
    assert [frame["_tag"] for frame in peer.send({"_tag": "Ping"}).new()] == ["Pong"]


def test_a_connection_has_a_limited_number_of_requests() -> None:
    peer = Peer(Log())
    for number in range(MAX_REQUESTS):
        peer.send(pull(str(number)))
    peer.new()
    assert error(peer.send(pull("more")).new(), "more")["cause"]["name"] == "too_large"
    assert seqs(peer.send(interrupt("0")).send(pull("more")).new(), "more") == []
    assert peer.closed is None


@pytest.mark.parametrize("frame", [pull(), push("p", 0), {"_tag": "Request", "id": "p", "tag": "?"}])
def test_an_id_that_is_in_use_ends_the_connection(frame: dict[str, object]) -> None:
    peer = Peer(Log()).send(pull()).send(frame)
    assert peer.closed is not None
    assert peer.closed.code == 1008


def test_after_the_end_nothing_happens() -> None:
    log = Log(3)
    peer = Peer(log, eager=False).send(pull()).send(push("1", 3)).send("no frame")
    assert peer.closed is not None
    assert peer.closed.code == 1007
    for action in peer.todo:
        peer.carry_out(action)
    peer.send(pull()).do(peer.session.revoked())
    assert peer.new() == []


def test_the_reason_of_an_end_fits_a_close_frame() -> None:
    peer = Peer(Log())
    peer.do(peer.session.unavailable(StoreClosed("ü" * 200)))
    assert peer.closed is not None
    assert len(peer.closed.reason.encode()) <= 123


def test_a_client_whose_store_closes_is_sent_away_to_come_back() -> None:
    peer = Peer(Log(3), eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    reading = peer.todo.pop(0)
    assert isinstance(reading, ReadPage)
    peer.do(peer.session.page_failed(reading.pull, StoreClosed("The store is closed.")))
    assert peer.closed is not None
    assert peer.closed.code == 1013


def test_a_pull_of_a_damaged_log_fails() -> None:
    peer = Peer(Log(3), eager=False).send(pull())
    peer.carry_out(peer.todo.pop(0))
    reading = peer.todo.pop(0)
    assert isinstance(reading, ReadPage)
    peer.do(peer.session.page_failed(reading.pull, DamagedLog("Event 2 is unreadable.")))
    assert error(peer.new(), "p")["cause"] == {"name": "damaged_log", "message": "Event 2 is unreadable."}


def test_a_refused_push_says_why() -> None:
    peer = Peer(Log(), eager=False).send(push("1", 0))
    batch = peer.todo[0]
    assert isinstance(batch, PushBatch)
    peer.do(peer.session.push_failed(batch.push, Forbidden("You may not write.")))
    assert error(peer.new(), "1")["cause"] == {"name": "forbidden", "message": "You may not write."}


# ---- a store that is not there


def test_a_live_pull_waits_for_a_store_that_the_reader_may_not_make() -> None:
    log = Log()
    peer = Peer(log, open_store=False).send(pull())
    assert peer.new() == []
    log.append("e", "{}")
    peer.do(peer.session.opened(log.backend_id, log.head))
    assert seqs(peer.new()) == [1]


def test_other_pulls_of_such_a_store_fail() -> None:
    peer = Peer(Log(), open_store=False).send(pull("a", live=False)).send(pull("b", live=False))
    frames = peer.new()
    assert [error(frames, id)["cause"]["name"] for id in "ab"] == ["not_found", "not_found"]


# ---- whatever happens


class Run:
    """A log, a connection with several pulls, and a script of what happens when."""

    def __init__(self) -> None:
        self.log = Log(7)
        self.peer = Peer(self.log, eager=False)
        self.cursors: dict[str, int] = {}
        self.interrupted: set[str] = set()
        self.untold = 0
        self.ids = 0

    def step(self, kind: int, number: int) -> None:
        peer, log = self.peer, self.log
        live = [id for id in self.cursors if id not in self.interrupted]
        if kind == 0 and len(self.cursors) < 12:
            self.ids += 1
            cursor = number % (log.head + 1)
            self.cursors[f"p{self.ids}"] = cursor
            peer.send(pull(f"p{self.ids}", cursor, live=number % 3 > 0))
        elif kind == 1:
            self.ids += 1
            peer.send(push(f"x{self.ids}", max(0, log.head - number % 3 // 2), number % 140 % 100 + 1))
        elif kind == 2:
            for _ in range(number % 130):
                log.append("e", "{}", tell=False)
                self.untold += 1
        elif kind == 3 and self.untold:
            kept = min(number, self.untold) if number % 2 else self.untold
            peer.do(peer.session.appended(log.head, log.events[log.head - kept :]))
            self.untold = 0
        elif kind == 4 and live:
            peer.send(ack(live[number % len(live)]))
        elif kind == 5 and live and number % 4 == 0:
            peer.send(interrupt(live[number % len(live)]))
            self.interrupted.add(live[number % len(live)])
        elif peer.todo:
            reads = [a for a in peer.todo if not isinstance(a, PushBatch)]
            batches = [a for a in peer.todo if isinstance(a, PushBatch)]
            ready = [*reads, *batches[:1]]  # pushes keep their order, page reads need not
            action = ready[number % len(ready)]
            peer.todo.remove(action)
            page = log.read(action) if isinstance(action, ReadPage) else []
            if (
                isinstance(action, ReadPage) and number % 3
            ):  # the log grows between the reading and the look at its head
                for _ in range(number % 5):
                    log.append("e", "{}", tell=False)
                    self.untold += 1
                peer.do(peer.session.page(action.pull, page, log.head))
            else:
                peer.carry_out(action)

    def finish(self) -> None:
        """Let everything that is owed arrive."""
        self.peer.do(self.peer.session.appended(self.log.head))
        for _ in range(400):
            while self.peer.todo:
                self.peer.carry_out(self.peer.todo.pop(0))
            before = len(self.peer.sent)
            for id in self.cursors:
                self.peer.send(ack(id))
            if len(self.peer.sent) == before and not self.peer.todo:
                return


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400)), min_size=10, max_size=80)


@given(STEPS)
def test_no_pull_ever_skips_or_repeats_an_event(steps: list[tuple[int, int]]) -> None:
    run = Run()
    for kind, number in steps:
        run.step(kind, number)
    run.finish()
    assert run.peer.closed is None
    frames = run.peer.new()
    ended = {frame["requestId"] for frame in frames if frame["_tag"] == "Exit"}
    for id, cursor in run.cursors.items():
        got = seqs(frames, id)
        assert got == list(range(cursor + 1, cursor + 1 + len(got)))
        if id not in run.interrupted and id not in ended:
            assert cursor + len(got) == run.log.head
        last = [frame for frame in frames if frame["_tag"] == "Chunk" and frame["requestId"] == id][-1:]
        if id not in run.interrupted:
            assert pages(last) == [{"_tag": "NoMore"}]


@given(STEPS)
def test_what_is_not_acknowledged_is_bounded(steps: list[tuple[int, int]]) -> None:
    run = Run()
    acked: dict[str, int] = {}
    for kind, number in steps:
        if kind == 4:
            live = [id for id in run.cursors if id not in run.interrupted]
            if live:
                id = live[number % len(live)]
                sent = sum(f'"Chunk","requestId":"{id}"' in text for text in run.peer.sent)
                acked[id] = min(acked.get(id, 0) + 1, sent)
        run.step(kind, number)
        for id in run.cursors:
            sent = sum(f'"Chunk","requestId":"{id}"' in text for text in run.peer.sent)
            assert sent - acked.get(id, 0) <= WINDOW_CHUNKS


@given(STEPS)
def test_the_chunk_of_a_push_comes_before_its_end_unless_an_acknowledgement_is_due(
    steps: list[tuple[int, int]],
) -> None:
    log = Log()
    peer = Peer(log).send(pull())
    for kind, number in steps:
        if kind < 5:
            peer.send(push(f"x{log.head}", log.head, number % 100 + 1))
        else:
            peer.send(ack())
    unacked = 1
    seen = 0
    sizes = iter([number % 100 + 1 for kind, number in steps if kind < 5])
    pushed = 0
    for frame in peer.new():
        if frame["_tag"] == "Chunk":
            seen = max([seen, *seqs([frame])])
            unacked += 1
        else:
            pushed += next(sizes)
            assert seen >= pushed or unacked >= WINDOW_CHUNKS
