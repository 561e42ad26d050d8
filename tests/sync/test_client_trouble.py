"""The client's end when something goes wrong: refusals, another log, a dead connection, a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jupyter_agentstore.core.errors import (
    AgentStoreError,
    BackendIdMismatch,
    Forbidden,
    InvalidEvent,
    StoreClosed,
    TooLarge,
    Unauthorized,
)
from jupyter_agentstore.core.sync_state import renumber
from jupyter_agentstore.sync.client_session import (
    Changed,
    ClientSession,
    Hangup,
    OtherLog,
    Refused,
)
from tests.sync.client import Client, contents, done, event, failed, online, page
from tests.sync.peer import Log, Peer


def kinds(client: Client) -> list[type]:
    return [type(action) for action in client.new()]


def chain(*said: str, head: int = 0) -> tuple[Any, ...]:
    """Pending events of client a."""
    session = ClientSession("s", "client-a", "session-a")
    session.commit([("e", args) for args in said])
    return renumber(session.state.pending, head)


# ---- refusals


@pytest.mark.parametrize(
    "error", [Forbidden("No."), Unauthorized("No."), TooLarge("No."), InvalidEvent("No.")]
)
def test_what_is_refused_for_good_stays_pending_and_pushing_stops(error: AgentStoreError) -> None:
    client = online().commit("1").receive(failed("2", error))
    refused = client.new()[-1]
    assert isinstance(refused, Refused)
    assert type(refused.error) is type(error)
    assert (refused.error.code, refused.error.message) == (error.code, "No.")
    assert client.session.refused is refused.error
    client.commit("2").do(client.session.closed()).opened().receive(page(event(1), id="3"))
    for second in range(100):
        client.receive('{"_tag":"Pong"}').tick(float(second))
    assert client.pushes() == [[1]]
    assert contents(client.session.state.pending) == ["1", "2"]


def test_refused_events_are_pushed_again_when_asked_for() -> None:
    client = online().commit("1").receive(failed("2", Forbidden("No.")))
    client.do(client.session.resume())
    assert client.session.refused is None
    assert client.pushes() == [[1], [1]]


def test_a_pause_can_be_cut_short() -> None:
    client = online().commit("1").receive(failed("2", StoreClosed("Closed.")))
    client.do(client.session.resume())
    assert client.pushes() == [[1], [1]]


def test_refused_events_can_be_discarded() -> None:
    client = online().commit("1").receive(failed("2", Forbidden("No.")))
    client.new()
    client.do(client.session.discard())
    assert client.new() == [Changed((), 0, (), rebased=True, head=0)]
    assert client.session.refused is None
    client.out()
    assert client.commit("2").pushes() == [[1]]


def test_what_is_under_way_cannot_be_discarded() -> None:
    client = online().commit("1")
    with pytest.raises(ValueError):
        client.session.discard()
    client.do(client.session.closed())
    with pytest.raises(ValueError):
        client.session.discard()
    client.opened()
    with pytest.raises(ValueError):
        client.session.discard()
    client.do(client.session.closed()).opened()
    client.receive(page(event(1, "1", by="a"), id="4"))
    client.do(client.session.discard())
    assert client.journal == []


def test_what_an_earlier_run_may_have_pushed_cannot_be_discarded_before_the_log_was_seen() -> None:
    client = Client(pending=chain("1"))
    with pytest.raises(ValueError):
        client.session.discard()
    client.opened().receive(page(event(1)), failed("2", Forbidden("No.")))
    client.do(client.session.discard())
    assert client.session.state.pending == ()


def test_what_the_server_has_taken_is_not_discarded() -> None:
    client = online().commit("1").commit("2").receive(done("2"), failed("3", Forbidden("No.")))
    client.do(client.session.discard())
    assert contents(client.session.state.pending) == ["1"]
    client.receive(page(event(1, "1", by="a")))
    assert client.session.state.pending == ()
    assert client.commit("3").pushes()[-1] == [2]


@pytest.mark.parametrize(
    "frame",
    [
        failed("2", StoreClosed("Closed.")),
        failed("2", AgentStoreError("?")),
        '{"_tag":"Exit","requestId":"2","exit":{"_tag":"Failure","cause":{"_tag":"Die","defect":"x"}}}',
        '{"_tag":"Exit","requestId":"2","exit":7}',
    ],
)
def test_what_fails_for_a_moment_is_pushed_again_after_a_pause(frame: str) -> None:
    client = online().tick(100.0).commit("1")
    assert client.pushes() == [[1]]
    client.receive(frame).commit("2").tick(101.0).tick(101.9)
    assert client.pushes() == []
    client.tick(102.0)
    assert client.pushes() == [[1, 2]]


def test_pauses_grow_to_half_a_minute_and_begin_anew_after_success() -> None:
    client = online().commit("1")
    pauses, now, id = [], 0.0, 2
    for _ in range(7):
        client.receive(failed(str(id), StoreClosed("Closed.")), '{"_tag":"Pong"}')
        client.out()
        began = now
        while not client.pushes():
            now += 1.0
            client.receive('{"_tag":"Pong"}').tick(now)
        pauses.append(now - began - 1.0)
        id += 1
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    client.commit("2").receive(done(str(id)), failed(str(id + 1), StoreClosed("Closed.")))
    client.out()
    assert client.tick(now + 1).tick(now + 2).pushes() == [[2]]


def test_a_server_that_says_how_long_to_wait_is_obeyed() -> None:
    client = online().commit("1")
    client.out()
    said = failed("2", StoreClosed("Slow.")).replace('"message"', '"retryAfter":5,"message"')
    client.receive(said.replace("store_closed", "rate_limited"))
    assert client.session.refused is None
    assert client.tick(0.0).tick(4.9).pushes() == []
    assert client.tick(5.0).pushes() == [[1]]


# ---- another log


@pytest.mark.parametrize(
    "frame",
    [
        page(backend="new"),
        page(event(1), backend="new"),
        failed("1", BackendIdMismatch("new", "backend")),
        failed("2", BackendIdMismatch("new", "backend")),
    ],
)
def test_another_log_stops_the_session(frame: str) -> None:
    client = online().commit("1")
    client.new()
    client.receive(frame)
    assert client.new() == [OtherLog("new")]
    assert client.session.stopped
    assert client.applied == []
    assert client.session.opened() == []
    client.commit("2")  # it gathers what the host takes along
    assert contents(client.session.state.pending) == ["1", "2"]


def test_a_log_that_has_lost_events_is_another_one() -> None:
    client = Client(backend_id="backend", head=5, applied=3).opened().receive(page(event(4)))
    assert client.new() == [OtherLog("backend")]


# ---- the connection's end


def test_a_pull_that_ends_ends_the_connection() -> None:
    client = online().receive(failed("1", Forbidden("You may no longer read this store.")))
    assert client.new() == [Hangup("You may no longer read this store.")]
    assert client.out() == []


def test_a_server_is_pinged_and_one_that_does_not_answer_is_left() -> None:
    client = online()
    client.tick(0.0).receive('{"_tag":"Pong"}').tick(9.0)
    assert client.out() == []
    client.tick(10.0)
    assert client.out() == [{"_tag": "Ping"}]
    client.receive('{"_tag":"Pong"}').tick(20.0)
    assert client.out() == [{"_tag": "Ping"}]
    client.new()
    assert kinds(client.tick(29.0)) == []
    assert kinds(client.tick(30.0)) == [Hangup]


def test_a_connection_on_which_nothing_comes_is_left() -> None:
    client = Client().opened().tick(5.0)
    assert kinds(client.tick(14.0)) == []
    assert kinds(client.tick(15.0)) == [Hangup]


def test_a_page_that_takes_its_time_on_a_slow_line_is_waited_for() -> None:
    client = Client().opened().receive(page(event(1), more=1)).tick(0.0).tick(10.0)
    client.new()
    assert kinds(client.tick(20.0).tick(30.0)) == []
    assert kinds(client.tick(40.0)) == [Hangup]


def test_a_process_that_was_suspended_asks_before_it_gives_up_an_answered_connection() -> None:
    client = online().tick(0.0)
    client.new()
    assert kinds(client.tick(3_600.0)) == []
    assert client.out() == [{"_tag": "Ping"}]


# ---- after a crash of the client


@pytest.mark.parametrize("given", [{"head": 1}, {"applied": 1}, {"applied": -1}])
def test_numbers_without_a_log_make_no_session(given: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Client(**given)


def test_pending_events_that_do_not_follow_the_head_make_no_session() -> None:
    with pytest.raises(ValueError):
        Client(backend_id="backend", head=3, pending=chain("1", head=2))


def test_what_was_journaled_and_not_pushed_is_pushed_after_a_restart() -> None:
    client = Client(pending=chain("1", "2")).opened().receive(page())
    assert client.pushes() == [[1, 2]]


def test_what_was_pushed_before_a_crash_is_confirmed_and_not_pushed_again() -> None:
    client = Client(backend_id="backend", head=2, pending=chain("1", "2", head=2)).opened()
    client.receive(page(event(3, "1", by="a"), event(4, "2", by="a")))
    assert client.session.state.pending == ()
    assert client.pushes() == []


def test_tables_that_lag_behind_the_journal_get_what_is_missing_and_it_is_not_merged() -> None:
    # The log was: 1 of ours, 2 of another; ours was confirmed, and the same once more is pending.
    client = Client(backend_id="backend", head=2, applied=0, pending=chain("1", head=2)).opened()
    assert client.out()[1]["payload"]["cursor"]["value"]["eventSequenceNumber"] == 0
    client.receive(page(event(1, "1", by="a"), more=2))
    assert client.new() == [Changed([event(1, "1", by="a")], 0, client.session.state.pending, False, 2)]
    client.receive(page(event(2), event(3)))
    changed = client.new()[0]
    assert isinstance(changed, Changed)
    assert [one.seq for one in changed.events] == [2, 3]
    assert (changed.confirmed, changed.rebased, changed.head) == (0, True, 3)
    assert client.pushes() == [[4]]


def test_a_journal_that_lags_behind_the_tables_is_compared_with_the_log_and_nothing_is_applied_twice() -> (
    None
):
    client = Client(backend_id="backend", head=1, applied=3, pending=chain("1", "2", head=1)).opened()
    assert client.out()[1]["payload"]["cursor"]["value"]["eventSequenceNumber"] == 1
    client.receive(page(event(2, "1", by="a"), event(3), event(4)))
    assert [one.seq for one in client.applied] == [4]
    assert [(one.seqNum, bytes(one.args)) for one in client.journal] == [(5, b"2")]
    assert client.pushes() == [[5]]


@pytest.mark.parametrize("steps", range(12))
def test_a_crash_of_the_host_at_any_step_doubles_and_loses_nothing(steps: int) -> None:
    log = Log(1)
    other = Client("b").connect(Peer(log))
    client = Client("a").connect(Peer(log, eager=True))
    other.commit("1").pump()
    frames = 0
    client.commit("2", "3")
    while (
        client.peer
        and frames < steps
        and (client.taken < len(client.sent) or client.peer.taken < len(client.peer.sent))
    ):
        frames += 1
        if client.taken < len(client.sent):
            client.taken += 1
            client.peer.send(client.sent[client.taken - 1])
        else:
            client.peer.taken += 1
            client.receive(client.peer.sent[client.peer.taken - 1])
    for lag in (0, 1):
        applied = max(len(client.applied) - lag, 0)
        again = Client("a", backend_id="backend", head=client.head, applied=applied, pending=client.journal)
        again.applied = client.applied[:applied]
        again.connect(Peer(log))
        assert again.journal == []
        assert [one.body for one in again.applied] == [one.body for one in log.events]
        said = [json.loads(one.body)["args"] for one in log.events]
        assert sorted(said[1:]) == [1, 2, 3]
        assert said.index(2) + 1 == said.index(3)
        client = again
