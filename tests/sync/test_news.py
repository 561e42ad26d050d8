"""Watches and presences in the session: the picture first, then what changes, the latest only for who is slow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.errors import Forbidden, RateLimited
from jupyter_agentstore.sync.news import Backlog, News
from jupyter_agentstore.sync.server_session import (
    MAX_PRESENCES,
    Action,
    Close,
    Follow,
    Open,
    Present,
    Send,
    ServerSession,
)

STORE = "s"


def news(key: str, value: Any = "x") -> News:
    return News((key,), json.dumps({key: value}), gone=value is None)


def request(id: str, tag: str, **payload: Any) -> str:
    frame = {
        "_tag": "Request",
        "id": id,
        "tag": f"AgentStore.{tag}",
        "payload": {"storeId": STORE, **payload},
    }
    return json.dumps(frame)


def watch(id: str = "w") -> str:
    return request(id, "Watch")


def present(id: str = "p", client: str = "c", **state: Any) -> str:
    return request(id, "Presence", clientId=client, sessionId="s", state=state or None)


def ack(id: str = "w") -> str:
    return json.dumps({"_tag": "Ack", "requestId": id})


def frames(actions: Sequence[Action]) -> list[Any]:
    assert all(isinstance(action, Send) for action in actions), actions
    return [json.loads(action.text) for action in actions if isinstance(action, Send)]


def values(actions: Sequence[Action]) -> list[Any]:
    """The news of the one Chunk that is sent."""
    [frame] = frames(actions)
    assert (frame["_tag"], frame["requestId"]) == ("Chunk", "w")
    return list(frame["values"])


def opened() -> ServerSession:
    session = ServerSession(STORE)
    session.opened("backend", 0)
    return session


def watched(*picture: News) -> ServerSession:
    """A session with a watch whose picture the client has."""
    session = opened()
    [follow] = session.receive(watch())
    assert isinstance(follow, Follow)
    session.watching(follow.watch, picture or [news("agent")])
    session.receive(ack())
    return session


def test_a_watch_waits_for_the_store_and_begins_with_the_picture() -> None:
    session = ServerSession(STORE)
    assert session.receive(watch()) == [Open()]
    [follow] = session.opened("backend", 0)
    assert isinstance(follow, Follow)
    assert session.told([news("a", 0)]) == []
    assert values(session.watching(follow.watch, [news("agent", 1), news("a", 2)])) == [
        {"agent": 1},
        {"a": 2},
    ]


def test_what_changes_while_a_chunk_is_out_comes_in_one_the_latest_of_each() -> None:
    session = watched()
    assert values(session.told([news("a", 1)])) == [{"a": 1}]
    assert session.told([news("a", 2), news("b", 1)]) == []
    assert session.told([news("a", 3)]) == []
    assert values(session.receive(ack())) == [{"a": 3}, {"b": 1}]
    assert session.receive(ack()) == []
    assert session.receive(ack()) == []


def test_what_came_and_went_meanwhile_is_never_heard_of() -> None:
    session = watched()
    session.told([news("a", 1)])
    session.told([news("b", 1)])
    session.told([news("b", None), news("a", None)])
    assert values(session.receive(ack())) == [{"a": None}]
    session.receive(ack())
    assert session.told([news("b", None)]) == []


def test_a_watch_ends_when_it_is_interrupted_or_refused() -> None:
    session = watched()
    session.receive('{"_tag":"Interrupt","requestId":"w"}')
    assert session.told([news("a")]) == []
    [follow] = session.receive(watch())
    assert isinstance(follow, Follow)
    [exit] = frames(session.watch_failed(follow.watch, Forbidden("No.")))
    assert exit["exit"]["cause"]["error"]["cause"] == {"name": "forbidden", "message": "No."}
    assert session.told([news("a")]) == []


def test_an_id_that_is_under_way_is_taken() -> None:
    session = watched()
    [close] = session.receive(present("w", typing=True))
    assert isinstance(close, Close)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 3))),
            st.just("ack"),
        ),
        max_size=60,
    )
)
def test_a_watcher_of_any_speed_ends_with_the_picture(steps: list[Any]) -> None:
    session = watched(news("0", 0))
    real: dict[str, Any] = {"0": 0}
    seen: dict[str, Any] = {"0": 0}
    waiting: list[Action] = []

    def take() -> None:
        sent = list(waiting)
        waiting.clear()
        for item in values(sent):
            for key, value in item.items():
                if value is None:
                    del seen[key]  # nothing goes that was not there
                else:
                    seen[key] = value
        waiting.extend(session.receive(ack()))

    for step in steps:
        if step == "ack":
            if waiting:
                take()
            continue
        key, value = str(step[0]), step[1]
        if value is None and key not in real:
            continue
        real.pop(key, None)
        if value is not None:
            real[key] = value
        waiting.extend(session.told([news(key, value)]))
        assert len(waiting) <= 1
        (begun,) = session._watches.values()
        assert len(begun.backlog) <= 20
    while waiting:
        take()
    assert seen == real


def test_a_picture_too_long_for_a_chunk_comes_in_several() -> None:
    backlog = Backlog()
    backlog.put([news(str(number), "ü" * 1_000) for number in range(1_000)])
    sizes = []
    while taken := backlog.take(100_000):
        sizes.append(sum(len(text.encode()) for text in taken))
    assert len(sizes) > 10
    assert max(sizes) <= 100_000
    backlog.put([news("long", "x" * 200_000)])
    assert len(backlog.take(100_000)) == 1


# ---- presences


def test_a_presence_is_handed_on_and_answered() -> None:
    session = opened()
    [action] = session.receive(present(typing=True, conversationId="k"))
    assert isinstance(action, Present)
    assert (action.client_id, action.session_id) == ("c", "s")
    assert json.loads(action.state or "") == {"typing": True, "conversationId": "k"}
    [exit] = frames(session.presented(action.present))
    assert exit["exit"] == {"_tag": "Success", "value": {}}
    [gone] = session.receive(present("q"))
    assert isinstance(gone, Present)
    assert gone.state is None


def test_a_presence_waits_for_the_store_and_fails_where_there_is_none() -> None:
    session = ServerSession(STORE)
    assert session.receive(present(typing=True)) == [Open()]
    [exit] = frames(session.absent())
    assert exit["exit"]["cause"]["error"]["cause"]["name"] == "not_found"
    [exit] = frames(session.receive(present(typing=True)))
    assert exit["exit"]["_tag"] == "Failure"
    [action] = ServerSession(STORE).receive(present(typing=True))
    assert action == Open()


def test_a_presence_that_comes_too_often_says_when_to_try_again() -> None:
    session = opened()
    [action] = session.receive(present(typing=True))
    assert isinstance(action, Present)
    [exit] = frames(session.present_failed(action.present, RateLimited("Too many.", 0.5)))
    error = exit["exit"]["cause"]["error"]
    assert error["_tag"] == "UnknownError"
    assert error["cause"] == {"name": "rate_limited", "message": "Too many.", "retryAfter": 0.5}


def test_a_connection_tells_of_so_many_and_no_more() -> None:
    session = opened()
    for number in range(MAX_PRESENCES):
        assert isinstance(session.receive(present(f"p{number}", f"c{number}", here=1))[0], Present)
    [exit] = frames(session.receive(present("more", "one more", here=1)))
    assert exit["exit"]["cause"]["error"]["cause"]["name"] == "too_large"
    assert isinstance(session.receive(present("again", "c0", here=2))[0], Present)
    session.receive(present("less", "c0"))
    assert isinstance(session.receive(present("then", "one more", here=1))[0], Present)


def test_a_presence_counts_from_when_it_is_told_until_its_end_is_told() -> None:
    session = opened()
    for number in range(MAX_PRESENCES):
        [action] = session.receive(present(f"refused{number}", f"c{number}", here=1))
        assert isinstance(action, Present)
        session.present_failed(action.present, RateLimited("Too many.", 0.5))
    for number in range(MAX_PRESENCES):
        [action] = session.receive(present(f"told{number}", f"d{number}", here=1))
        assert isinstance(action, Present)
        session.presented(action.present)
    [end] = session.receive(present("end", "d0"))
    assert isinstance(end, Present)
    session.present_failed(end.present, RateLimited("Too many.", 0.5))
    [exit] = frames(session.receive(present("more", "one more", here=1)))
    assert exit["exit"]["cause"]["error"]["cause"]["name"] == "too_large"


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ({"clientId": "c", "sessionId": "s"}, "invalid_event"),
        ({"clientId": "", "sessionId": "s", "state": {}}, "invalid_event"),
        ({"clientId": "c" * 300, "sessionId": "s", "state": {}}, "invalid_event"),
        ({"clientId": "c", "sessionId": 1, "state": {}}, "invalid_event"),
        ({"clientId": "\ud83d", "sessionId": "s", "state": {}}, "invalid_event"),
        ({"clientId": "c", "sessionId": "s", "state": [1]}, "invalid_event"),
        ({"clientId": "c", "sessionId": "s", "state": "here"}, "invalid_event"),
        ({"clientId": "c", "sessionId": "s", "state": {"x": "y" * 2_000}}, "too_large"),
    ],
)
def test_a_presence_of_another_shape_fails_by_itself(payload: Any, name: str) -> None:
    session = opened()
    [exit] = frames(session.receive(request("p", "Presence", **payload)))
    assert exit["exit"]["cause"]["error"]["cause"]["name"] == name


def test_a_state_too_deep_for_others_is_refused() -> None:
    session = opened()
    frame = present(x=1).replace('{"x": 1}', '{"x":' + "[" * 500 + "]" * 500 + "}")
    [exit] = frames(session.receive(frame))
    assert exit["exit"]["_tag"] == "Failure"


def test_half_emojis_in_a_state_are_made_whole_for_others() -> None:
    session = opened()
    [action] = session.receive(present(typing="half \ud83d"))
    assert isinstance(action, Present)
    assert json.loads(action.state or "") == {"typing": "half \ufffd"}
    (action.state or "").encode()


def test_a_watch_of_another_store_is_refused() -> None:
    session = ServerSession("another")
    for frame in (watch(), present(typing=True)):
        [exit] = frames(session.receive(frame))
        assert exit["exit"]["cause"]["error"]["cause"]["name"] == "forbidden"
