"""The client's end of a connection: what is pending, what is pushed when, and what a server's words mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jupyter_agentstore.core.errors import (
    HeadMoved,
    InvalidEvent,
    TooLarge,
)
from jupyter_agentstore.core.events import wire
from jupyter_agentstore.core.limits import MAX_EVENT_BYTES, MAX_PAGE_BYTES
from jupyter_agentstore.core.sync_state import renumber
from jupyter_agentstore.sync.client_session import (
    CaughtUp,
    Changed,
    ClientSession,
    Committed,
    Hangup,
    Send,
    Told,
)
from tests.sync.client import TIME, Client, contents, done, event, failed, online, page, pushed
from tests.sync.peer import Log, Peer

ACK = {"_tag": "Ack", "requestId": "1"}


def kinds(client: Client) -> list[type]:
    return [type(action) for action in client.new()]


def chain(*said: str, head: int = 0) -> tuple[Any, ...]:
    """Pending events of client a."""
    session = ClientSession("s", "client-a", "session-a")
    session.commit([("e", args) for args in said])
    return renumber(session.state.pending, head)


# ---- opening


def test_a_session_of_which_nothing_is_known_pulls_from_the_beginning() -> None:
    ping, pull = Client().opened().out()
    assert ping == {"_tag": "Ping"}
    assert (pull["tag"], pull["id"]) == ("SyncWsRpc.Pull", "1")
    assert pull["payload"] == {"storeId": "s", "live": True, "cursor": {"_tag": "None"}, "pageEvents": 1_000}


def test_a_session_goes_on_from_where_it_was() -> None:
    pull = Client(backend_id="b", head=7).opened().out()[1]
    assert pull["payload"]["cursor"] == {
        "_tag": "Some",
        "value": {"backendId": "b", "eventSequenceNumber": 7},
    }


def test_a_log_without_events_is_caught_up_with_at_its_first_page() -> None:
    client = Client().opened()
    client.out()
    assert kinds(client.receive(page())) == [CaughtUp]
    assert client.out() == [ACK]
    assert client.session.caught_up
    assert client.session.backend_id == "backend"


def test_a_page_is_acknowledged_after_it_was_taken() -> None:
    client = Client().opened().receive(page(event(1), event(2)))
    changed, ack, caught_up = client.did[2:]
    assert changed == Changed([event(1), event(2)], 0, (), False, 2)
    assert isinstance(ack, Send)
    assert json.loads(ack.text) == ACK
    assert caught_up == CaughtUp()


def test_a_session_has_caught_up_with_the_last_page() -> None:
    client = Client().opened().receive(page(event(1), more=2))
    assert kinds(client) == [Changed]
    assert not client.session.caught_up
    assert client.session.server_head == 3
    assert kinds(client.receive(page(event(2), event(3)))) == [Changed, CaughtUp]


def test_a_log_that_never_rests_is_caught_up_with_where_it_ended_at_first() -> None:
    client = Client().opened().receive(page(event(1), more=2), page(event(2), more=5))
    assert not client.session.caught_up
    client.receive(page(event(3), more=9))
    assert client.session.caught_up
    assert client.session.server_head == 12


def test_a_session_catches_up_anew_with_each_connection() -> None:
    client = online()
    client.do(client.session.closed())
    assert not client.session.caught_up
    client.opened()
    assert client.out()[1]["payload"]["cursor"]["value"]["eventSequenceNumber"] == 0
    client.receive(page(event(1), id="2"))
    assert client.session.caught_up


def test_what_comes_for_an_earlier_connection_is_ignored() -> None:
    client = online().opened()
    client.new()
    assert kinds(client.receive(page(event(1)), done("1"), done("9"))) == []


def test_nothing_is_received_without_a_connection() -> None:
    assert ClientSession("s", "c", "t").receive(page(event(1))) == []
    assert ClientSession("s", "c", "t").tick(5.0) == []


# ---- events


def test_an_event_comes_as_it_is_in_the_log() -> None:
    body = '{"args": {"b":1.0, "a":[ 1 ],"ü":"\\ud83d"},"parentSeqNum":0,"seqNum":1,"name":"e","x":1,'
    body += '"clientId":"c","sessionId":"t"}'
    frame = page(event(1, actor='An"n')).replace(event(1).body, body)
    client = Client().opened().receive(frame)
    (applied,) = client.applied
    assert (applied.body, applied.actor, applied.recorded_at) == (body, 'An"n', TIME)


def test_a_backend_that_says_nothing_of_its_events_is_understood() -> None:
    frame = page(event(1))
    about = frame[frame.index('"metadata"') : frame.index("}],")]
    client = Client().opened().receive(frame.replace(about, '"metadata":{"_tag":"None"}'))
    assert (client.applied[0].recorded_at, client.applied[0].actor) == (0, "")


def test_events_that_came_already_are_skipped() -> None:
    client = Client().opened().receive(page(event(1), event(2)), page(event(1), event(2)))
    client.receive(page(event(2), event(3)))
    assert [len(action.events) for action in client.did if isinstance(action, Changed)] == [2, 1]
    assert [one.seq for one in client.applied] == [1, 2, 3]
    assert client.out()[2:] == [ACK] * 3


@pytest.mark.parametrize("events", [[event(2)], [event(1), event(3)]])
def test_a_gap_ends_the_connection(events: list[Any]) -> None:
    client = Client().opened().receive(page(*events))
    (hangup,) = client.new()
    assert isinstance(hangup, Hangup)
    assert "should come" in hangup.reason
    assert client.applied == []
    assert client.receive(page(event(1))).applied == []


# ---- commits and pushes


def test_a_commit_is_pending_at_once_and_pushed_at_once() -> None:
    client = online().commit('{"n":1}', '{"n":2}')
    (committed,) = client.new()
    assert isinstance(committed, Committed)
    assert contents(committed.events) == ['{"n":1}', '{"n":2}']
    assert client.session.state.pending == tuple(committed.events)
    assert isinstance(client.did[-2], Committed)  # durable before it is sent
    (frame,) = client.out()
    assert frame["payload"]["batch"] == [
        {
            "name": "e",
            "args": {"n": n},
            "seqNum": n,
            "parentSeqNum": n - 1,
            "clientId": "client-a",
            "sessionId": "session-a",
        }
        for n in (1, 2)
    ]
    assert frame["payload"]["backendId"] == {"_tag": "Some", "value": "backend"}


def test_what_is_committed_without_a_connection_is_pushed_when_the_log_was_caught_up_with() -> None:
    client = Client().commit("1").opened().commit("2")
    assert client.pushes() == []
    client.receive(page(more=0))
    assert client.pushes() == [[1, 2]]


def test_one_push_is_under_way_at_a_time_and_the_next_has_all_that_gathered() -> None:
    client = online().commit("1").commit("2").commit("3")
    assert client.pushes() == [[1]]
    client.receive(page(event(1, "1", by="a")), done("2"))
    assert client.pushes() == [[2, 3]]


def test_a_confirmed_event_is_no_longer_pending() -> None:
    client = online().commit("1", "2")
    client.new()
    client.receive(page(event(1, "1", by="a")))
    assert client.new() == [
        Changed([event(1, "1", by="a")], 1, client.session.state.pending, rebased=False, head=1)
    ]
    assert contents(client.session.state.pending) == ["2"]
    client.receive(page(event(2, "2", by="a")), done("2"))
    assert client.session.state.pending == ()
    assert client.pushes() == [[1, 2]]


def test_after_an_accepted_push_the_next_batch_goes_out_before_its_events_have_come() -> None:
    client = online().commit("1").commit("2").receive(done("2"))
    assert client.pushes() == [[1], [2]]
    client.receive(done("3"))
    assert client.pushes() == []
    assert contents(client.session.state.pending) == ["1", "2"]
    client.receive(page(event(1, "1", by="a"), event(2, "2", by="a")))
    assert client.session.state.pending == ()


def test_a_push_has_at_most_1_000_events() -> None:
    client = online().commit(*["1"] * 2_500)
    client.receive(done("2"), done("3"), done("4"))
    assert [len(batch) for batch in client.pushes()] == [1_000, 1_000, 500]


def test_a_push_has_at_most_900_000_bytes() -> None:
    client = online().commit(*[json.dumps({"text": "ü" * 50_000}, ensure_ascii=False)] * 20)
    for id in "23456":
        client.receive(done(id))
    frames = pushed(client.out())
    assert [len(frame["payload"]["batch"]) for frame in frames] == [8, 8, 4]
    texts = [text for text in client.sent if "SyncWsRpc.Push" in text]
    assert all(len(text.encode()) < MAX_PAGE_BYTES + 1_000 for text in texts)


def test_a_push_that_was_cut_off_is_tried_in_smaller_parts() -> None:
    client = online().commit(*[json.dumps("x" * 1_000)] * 800)
    assert len(client.pushes()[0]) > 780
    client.do(client.session.closed()).opened().receive(page(id="3"))
    assert 380 < len(client.pushes()[0]) < 420
    client.do(client.session.closed()).opened().receive(page(id="5"))
    assert 180 < len(client.pushes()[0]) < 210
    client.receive(done("6"))
    assert 380 < len(client.pushes()[0]) < 420


def test_args_are_pushed_and_confirmed_as_they_were_spelled() -> None:
    said = ' {"b": 1.0,"a":"\\u00fc", "half":"\\ud83d", "n":1e2} '
    client = online().commit(said)
    assert said.strip() in client.sent[-1]
    client.receive(page(event(1, said.strip(), by="a")))
    assert client.session.state.pending == ()


def test_half_an_emoji_that_is_no_escape_becomes_one() -> None:
    client = online().commit('{"half":"\ud83d", "ü":1}')
    assert contents(client.session.state.pending) == ['{"half":"\\ud83d", "ü":1}']


@pytest.mark.parametrize("args", ["", "{", "nan", '{"a":1} {}', "{'a':1}"])
def test_args_that_are_not_json_are_refused_and_change_nothing(args: str) -> None:
    client = online()
    with pytest.raises(InvalidEvent):
        client.commit("1", args)
    assert client.session.state.pending == ()
    assert client.out() == []


def test_an_event_over_its_limit_is_refused_whatever_number_it_will_have() -> None:
    client = online()
    fits = MAX_EVENT_BYTES - len(wire("e", '""', 2**53 - 1, "client-a", "session-a"))
    client.commit(json.dumps("x" * fits))
    with pytest.raises(TooLarge):
        client.commit("1", json.dumps("x" * (fits + 1)))
    assert len(client.session.state.pending) == 1


def test_no_events_are_no_commit() -> None:
    assert online().session.commit([]) == []


# ---- the log moves


def test_events_of_others_renumber_what_is_pending() -> None:
    client = Client().commit("1", "2").opened()
    client.new()
    client.receive(page(event(1), event(2)))
    changed = client.new()[0]
    assert isinstance(changed, Changed)
    assert (changed.confirmed, changed.rebased, changed.head) == (0, True, 2)
    assert changed.pending == client.session.state.pending
    assert [one.seqNum for one in changed.pending] == [3, 4]
    assert client.pushes() == [[3, 4]]


def test_a_push_that_came_too_late_is_repeated_when_the_missing_events_have_come() -> None:
    client = online().commit("1").receive(failed("2", HeadMoved(2, 0)))
    assert client.pushes() == [[1]]
    client.receive(page(event(1)))
    assert client.pushes() == []
    client.receive(page(event(2)))
    assert client.pushes() == [[3]]


def test_a_push_that_came_too_late_is_repeated_at_once_if_they_have_come() -> None:
    client = online().commit("1").receive(page(event(1)))
    assert client.pushes() == [[1]]
    client.receive(failed("2", HeadMoved(1, 0)))
    assert client.pushes() == [[2]]


def test_a_push_that_fits_and_is_said_to_be_late_is_not_repeated_in_haste() -> None:
    client = online().commit("1")
    for id in range(2, 6):
        client.receive(failed(str(id), HeadMoved(0, 0)))
    assert len(client.pushes()) == 1


def test_missing_events_that_never_come_end_the_connection() -> None:
    client = online().commit("1").receive(failed("2", HeadMoved(9, 0)))
    client.new()
    for second in range(80):
        client.receive('{"_tag":"Pong"}').tick(float(second))
    assert kinds(client) == [Hangup]


def test_a_push_that_is_never_answered_ends_the_connection() -> None:
    client = online().commit("1")
    client.new()
    for second in range(80):
        client.receive('{"_tag":"Pong"}').tick(float(second))
    assert kinds(client) == [Hangup]


def test_an_answer_to_a_push_whose_events_were_renumbered_meanwhile_says_nothing() -> None:
    client = online().commit("1", "2").receive(page(event(1)))
    client.receive(done("2"))  # no honest server says so
    assert client.pushes() == [[1, 2], [2, 3]]


def test_events_that_were_accepted_and_then_are_not_in_the_log_are_pushed_again() -> None:
    client = online().commit("1", "2").receive(done("2"))  # and no honest server goes on like this
    client.receive(page(event(1)))
    assert client.pushes() == [[1, 2], [2, 3]]


def test_own_events_that_come_at_other_numbers_are_confirmed_there() -> None:
    client = Client(pending=chain("1", "2")).opened()
    client.receive(page(event(1), event(2, "1", by="a"), event(3)))
    assert [(one.seqNum, bytes(one.args)) for one in client.session.state.pending] == [(4, b"2")]
    changed = client.new()[0]
    assert isinstance(changed, Changed)
    assert (changed.confirmed, changed.rebased) == (1, True)
    assert client.pushes() == [[4]]


def test_only_what_is_pending_is_renumbered_and_batches_that_follow_are_whole() -> None:
    client = online().commit("1").commit("2").receive(done("2"))  # 1 is accepted, 2 is under way
    client.receive(page(event(1, "1", by="a"), event(2)), failed("3", HeadMoved(2, 1)))
    assert client.pushes() == [[1], [2], [3]]


# ---- ephemeral


def test_news_are_passed_on_and_acknowledged() -> None:
    client = Client(watch=True).opened()
    watch = client.out()[2]
    assert (watch["tag"], watch["payload"]) == ("AgentStore.Watch", {"storeId": "s"})
    client.receive('{"_tag":"Chunk","requestId":"2","values":[{"kind":"agent","x":"\\ud83d"},7]}')
    assert client.new() == [Told([{"kind": "agent", "x": "\ufffd"}])]
    assert client.out() == [{"_tag": "Ack", "requestId": "2"}]


def test_a_server_that_has_no_news_to_tell_is_good_enough() -> None:
    client = Client(watch=True).opened()
    client.receive(failed("2", InvalidEvent("This server has no such request.")), page(event(1)))
    assert kinds(client) == [Changed, CaughtUp]


def test_presence_is_told_renewed_repeated_and_taken_back() -> None:
    client = online().tick(0.0)
    client.do(client.session.presence({"typing": True}))
    (frame,) = client.out()
    assert frame["tag"] == "AgentStore.Presence"
    assert frame["payload"] == {
        "storeId": "s",
        "clientId": "client-a",
        "sessionId": "session-a",
        "state": {"typing": True},
    }
    client.receive(done("2")).tick(10.0)
    assert [one.get("tag") for one in client.out()] == [None, "AgentStore.Presence"]
    client.opened()
    assert [one.get("tag") for one in client.out()] == [None, "SyncWsRpc.Pull", "AgentStore.Presence"]
    client.do(client.session.presence(None))
    assert [one["payload"]["state"] for one in client.out()] == [None]
    client.do(client.session.presence(None)).opened()
    assert [one.get("tag") for one in client.out()] == [None, "SyncWsRpc.Pull"]


def test_presence_is_remembered_without_a_connection() -> None:
    client = Client()
    assert client.session.presence({"typing": True}) == []
    assert client.opened().out()[2]["payload"]["state"] == {"typing": True}


# ---- against the server's session


def test_two_sessions_that_commit_200_events_each_at_once_converge() -> None:
    log = Log(3)
    clients = [Client(name).connect(Peer(log)) for name in "ab"]
    for number in range(200):
        for client in clients:
            client.commit(json.dumps([client.session.client_id, number]))
            if number % 7 == 0:
                client.pump()
    while any(client.session.state.pending for client in clients):
        for client in clients:
            client.pump()
    for client in clients:
        client.pump()
        assert [one.body for one in client.applied] == [one.body for one in log.events]
        own = [json.loads(one.body)["args"] for one in log.events if client.session.client_id in one.body]
        assert own == [[client.session.client_id, number] for number in range(200)]
    assert log.head == 403
