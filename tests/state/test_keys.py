"""A key index says no only of keys that are not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.state import keys
from jupyter_agentstore.state.keys import KeyIndex

KEYS = st.sets(st.integers(0, 60).map(str), max_size=40)


STEPS = st.lists(st.tuples(KEYS, KEYS), max_size=8)


@given(first=st.lists(KEYS, max_size=3), steps=STEPS, merge_at=st.integers(0, 20))
def test_it_follows_what_comes_and_goes(
    first: list[set[str]], steps: list[tuple[set[str], set[str]]], merge_at: int
) -> None:
    index = KeyIndex(map(list, first))
    index._merge_at = merge_at
    there = set().union(*first)
    for come, gone in steps:
        index.update(come, gone)
        there = (there | come) - gone
    everything = [str(number) for number in range(70)]
    assert {key for key in everything if key in index} == there
    assert set(index.among(everything)) == there
    assert set(index.among(everything[:5])) == there & set(everything[:5])


def test_many_changes_are_merged_and_cost_eight_bytes_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MERGE_AT", 100)
    index = KeyIndex()
    names = [str(number) for number in range(20_500)]
    for start in range(0, 20_000, 500):
        index.update(names[start : start + 500], ())
        index.update(names[start : start + 500], ())  # known already
        for name in names[:20]:
            index.update([name], ())
    index.update((), names[:19_000])
    assert index._base is not None
    assert index._base.nbytes <= 8 * 20_000
    assert len(index._added) + len(index._removed) <= index._merge_at
    assert index.among(names) == names[19_000:20_000]
