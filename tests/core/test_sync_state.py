"""The merge: its invariants, what is confirmed and what is renumbered, and that a chunk may be cut anywhere."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.events import Wire
from jupyter_agentstore.core.sync_state import (
    Advance,
    LocalPush,
    Rebase,
    Reject,
    SyncState,
    UpstreamAdvance,
    UpstreamRebase,
    merge,
    renumber,
    same,
)

Content = tuple[str, str]  # the session and what it says: few of each, so that events coincide


def chain(contents: Sequence[Content], head: int) -> tuple[Wire, ...]:
    return tuple(
        Wire("e", msgspec.Raw(said.encode()), seq, seq - 1, "c", session)
        for seq, (session, said) in enumerate(contents, head + 1)
    )


def state(contents: Sequence[Content], head: int = 0) -> SyncState:
    return SyncState(chain(contents, head), head, head + len(contents))


def content(events: Sequence[Wire]) -> list[Content]:
    return [(event.sessionId, bytes(event.args).decode()) for event in events]


A, B, C, X, Y = [("me", name) for name in ['"a"', '"b"', '"c"']] + [("other", '"x"'), ("other", '"y"')]

mine = st.tuples(st.just("me"), st.sampled_from(["1", "2"]))
anybodys = st.tuples(st.sampled_from(["me", "other"]), st.sampled_from(["1", "2"]))
states = st.builds(state, st.lists(mine, max_size=6), st.integers(0, 3))
news = st.lists(anybodys, max_size=8)


def advance(before: SyncState, contents: Sequence[Content]) -> Advance | Rebase:
    result = merge(before, UpstreamAdvance(chain(contents, before.upstream_head)))
    assert not isinstance(result, Reject)
    return result


# ---- upstream advances


def test_upstreams_event_that_is_the_first_pending_one_confirms_it() -> None:
    result = advance(state([A, B]), [A])
    assert result == Advance(SyncState(chain([B], 1), 1, 2), 1, ())


def test_upstreams_events_beyond_the_pending_ones_are_new() -> None:
    result = advance(state([A]), [A, X, Y])
    assert isinstance(result, Advance)
    assert (result.confirmed, content(result.new_events), result.state) == (1, [X, Y], state([], 3))


def test_with_nothing_pending_everything_is_new() -> None:
    result = advance(state([], 4), [X, Y])
    assert isinstance(result, Advance)
    assert (result.confirmed, content(result.new_events), result.state) == (0, [X, Y], state([], 6))


def test_what_diverges_is_rolled_back_and_renumbered_behind_upstreams() -> None:
    result = advance(state([A, B, C]), [A, X, Y])
    assert isinstance(result, Rebase)
    assert result.confirmed == 1
    assert list(result.rollback_events) == list(chain([A, B, C], 0)[1:])
    assert content(result.new_events) == [X, Y]
    assert result.state == state([B, C], 3)


def test_an_own_event_that_comes_at_another_number_is_confirmed_all_the_same() -> None:
    result = advance(state([A, B]), [X, A])
    assert isinstance(result, Rebase)
    assert result.confirmed == 1
    assert content(result.rollback_events) == [A, B]
    assert content(result.new_events) == [X, A]
    assert result.state == state([B], 2)


def test_no_events_change_nothing() -> None:
    assert advance(state([A], 2), []) == Advance(state([A], 2), 0, ())


@pytest.mark.parametrize(
    "field", [{"name": "f"}, {"args": msgspec.Raw(b'"b"')}, {"clientId": "d"}, {"sessionId": "t"}]
)
def test_an_event_that_differs_in_any_field_is_another(field: dict[str, object]) -> None:
    pending = state([A])
    (own,) = pending.pending
    other = msgspec.structs.replace(own, **field)
    assert not same(own, other)
    result = merge(pending, UpstreamAdvance([other]))
    assert isinstance(result, Rebase)
    assert result.confirmed == 0


def test_args_are_compared_as_they_are_spelled() -> None:
    a, b = chain([("me", "1.0"), ("me", "1")], 0)
    assert not same(a, msgspec.structs.replace(b, seqNum=1, parentSeqNum=0))
    assert same(a, copy.deepcopy(a))
    assert not same(a, msgspec.structs.replace(a, seqNum=2))


# ---- the algebra


def total(before: SyncState, pieces: Sequence[Sequence[Content]]) -> tuple[SyncState, int, bool]:
    confirmed, rebased = 0, False
    for piece in pieces:
        result = advance(before, piece)
        before = result.state
        confirmed += result.confirmed
        rebased = rebased or isinstance(result, Rebase)
    return before, confirmed, rebased


@given(states, news, st.data())
def test_a_chunk_in_pieces_merges_as_the_whole(
    before: SyncState, contents: list[Content], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(contents)), max_size=4)))
    edges = [0, *cuts, len(contents)]
    pieces = [contents[start:end] for start, end in pairwise(edges)]
    assert total(before, pieces) == total(before, [contents])


@given(states, news)
def test_whatever_upstream_brings_the_invariants_hold(before: SyncState, contents: list[Content]) -> None:
    result = advance(before, contents)
    result.state.check()
    assert result.state.upstream_head == before.upstream_head + len(contents)
    assert result.state.local_head >= before.local_head


@given(states, news)
def test_pending_events_are_confirmed_from_the_front_or_stay_in_order(
    before: SyncState, contents: list[Content]
) -> None:
    result = advance(before, contents)
    assert content(result.state.pending) == content(before.pending[result.confirmed :])
    came = iter(contents)
    assert all(event in came for event in content(before.pending[: result.confirmed]))


@given(states, news)
def test_rolling_back_and_applying_gives_the_log_and_then_what_is_pending(
    before: SyncState, contents: list[Content]
) -> None:
    shown = [*before.pending]
    result = advance(before, contents)
    if isinstance(result, Rebase):
        assert result.rollback_events
        assert shown[len(shown) - len(result.rollback_events) :] == list(result.rollback_events)
        del shown[len(shown) - len(result.rollback_events) :]
        shown += [*result.new_events, *result.state.pending]
    else:
        shown += result.new_events
    assert shown == [*chain(contents, before.upstream_head), *result.state.pending]


@given(states, news)
def test_a_rebase_rolls_back_no_more_than_it_must(before: SyncState, contents: list[Content]) -> None:
    result = advance(before, contents)
    pairs = zip(before.pending, chain(contents, before.upstream_head), strict=False)
    parted = next((place for place, (a, b) in enumerate(pairs) if not same(a, b)), None)
    assert isinstance(result, Rebase) == (parted is not None)
    if isinstance(result, Rebase):
        assert list(result.rollback_events) == list(before.pending[parted:])


@given(states, news)
def test_merging_changes_nothing_that_it_was_given(before: SyncState, contents: list[Content]) -> None:
    payload = UpstreamAdvance(chain(contents, before.upstream_head))
    kept = copy.deepcopy((before, payload))
    first = merge(before, payload)
    assert (before, payload) == kept
    assert merge(before, payload) == first


# ---- local pushes


@given(states, st.lists(mine, max_size=4))
def test_a_local_push_is_pending_on_top(before: SyncState, contents: list[Content]) -> None:
    added = chain(contents, before.local_head)
    result = merge(before, LocalPush(added))
    assert isinstance(result, Advance)
    assert result.state.pending == (*before.pending, *added)
    assert list(result.new_events) == list(added)
    result.state.check()


@given(states, st.lists(mine, min_size=1, max_size=4), st.data())
def test_a_local_push_at_or_below_the_local_head_is_rejected(
    before: SyncState, contents: list[Content], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, before.local_head))
    assert merge(before, LocalPush(chain(contents, first - 1))) == Reject(before.local_head + 1)


@given(states, st.lists(mine, min_size=1, max_size=3), st.lists(mine, max_size=3))
def test_pushes_one_after_the_other_are_as_one(
    before: SyncState, first: list[Content], second: list[Content]
) -> None:
    def push(state: SyncState, contents: list[Content]) -> SyncState:
        result = merge(state, LocalPush(chain(contents, state.local_head)))
        assert isinstance(result, Advance)
        return result.state

    assert push(push(before, first), second) == push(before, first + second)


@given(states, news, st.lists(mine, min_size=1, max_size=3))
def test_events_that_are_pushed_before_upstreams_come_lie_behind_those_that_stay(
    before: SyncState, contents: list[Content], own: list[Content]
) -> None:
    late = [("own", said) for _, said in own]
    pushed = merge(before, LocalPush(chain(late, before.local_head)))
    assert isinstance(pushed, Advance)
    result = advance(pushed.state, contents)
    assert content(result.state.pending) == content(advance(before, contents).state.pending) + late


# ---- upstream rebases


@given(states, st.integers(0, 3), news)
def test_an_upstream_rebase_rolls_back_its_events_and_all_that_is_pending(
    before: SyncState, count: int, contents: list[Content]
) -> None:
    count = min(count, before.upstream_head, len(contents))
    base = before.upstream_head - count
    taken_back, new = chain([X] * count, base), chain(contents, base)
    kept = copy.deepcopy(before)
    result = merge(before, UpstreamRebase(taken_back, new))
    assert isinstance(result, Rebase)
    assert before == kept
    assert result.confirmed == 0
    assert list(result.rollback_events) == [*taken_back, *before.pending]
    assert list(result.new_events) == list(new)
    assert result.state == state(content(before.pending), base + len(contents))


def test_an_upstream_rebase_that_takes_nothing_back_is_a_roll_back_of_what_is_pending() -> None:
    assert merge(state([A], 2), UpstreamRebase([], chain([X], 2))) == Rebase(
        state([A], 3), 0, state([A], 2).pending, chain([X], 2)
    )


# ---- broken payloads


@pytest.mark.parametrize(
    "payload",
    [
        UpstreamAdvance(chain([X], 3)),
        UpstreamAdvance(chain([X], 1)),
        UpstreamAdvance((*chain([X], 2), *chain([Y], 4))),
        UpstreamAdvance([Wire("e", msgspec.Raw(b"1"), 3, 1, "c", "s")]),
        LocalPush(chain([A], 4)),
        LocalPush((*chain([A], 3), *chain([B], 3))),
        UpstreamRebase(chain([X], 2), chain([X], 1)),
        UpstreamRebase(chain([X], 1), chain([Y], 2)),
        UpstreamRebase(chain([X, Y], 0), chain([X], 0)),
        UpstreamRebase(chain([X, Y, X], -1), chain([X, X, X, X], -1)),
    ],
)
def test_a_payload_that_breaks_the_chain_or_takes_a_head_back_is_an_error(
    payload: UpstreamAdvance | LocalPush | UpstreamRebase,
) -> None:
    with pytest.raises(ValueError):
        merge(state([A], 2), payload)


@pytest.mark.parametrize(
    "broken",
    [
        SyncState(chain([A], 1), 2, 3),
        SyncState(chain([A], 2), 2, 4),
        SyncState((*chain([A], 0), *chain([B], 0)), 0, 2),
        SyncState((), -1, -1),
    ],
)
def test_a_state_says_when_it_is_none(broken: SyncState) -> None:
    with pytest.raises(ValueError):
        broken.check()


def test_renumbering_changes_numbers_and_nothing_else() -> None:
    before = chain([A, B], 0)
    after = renumber(before, 7)
    assert [(event.seqNum, event.parentSeqNum) for event in after] == [(8, 7), (9, 8)]
    assert content(after) == content(before)
    assert [event.seqNum for event in before] == [1, 2]
