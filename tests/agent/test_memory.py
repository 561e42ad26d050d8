from __future__ import annotations

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.agent.memory import STOP_WORDS, relevant, words

FACTS = [
    "Ann takes oat milk in her mocha",
    "The office is on the third floor",
    "Ann's favourite coffee is a mocha",
    "She is allergic to nuts",
]


def test_the_fact_with_most_in_common_comes_first() -> None:
    assert relevant(FACTS, "One mocha with oat milk!") == [FACTS[0], FACTS[2]]


def test_a_text_that_has_nothing_to_do_with_them_brings_up_no_fact() -> None:
    assert relevant(FACTS, "What is the weather like?") == []
    assert relevant(FACTS, "") == []


def test_stop_words_in_common_are_nothing_in_common() -> None:
    assert relevant(["She is on the phone"], "Is she the one on it?") == []
    assert words(" ".join(STOP_WORDS)) == frozenset()


def test_case_plural_and_possessive_make_no_difference() -> None:
    assert words("Ann's NUTS") == words("ann nut")
    assert relevant(FACTS, "Any NUT in it?") == [FACTS[3]]


def test_of_equals_the_newer_fact_comes_first() -> None:
    assert relevant(["Size: small", "Size: large"], "Which size?") == ["Size: large", "Size: small"]


def test_a_fact_that_is_there_twice_is_brought_up_once() -> None:
    assert relevant(["Likes tea", "Likes tea"], "tea") == ["Likes tea"]


def test_there_are_at_most_a_few() -> None:
    facts = [f"coffee number {n}" for n in range(1000)]
    assert len(relevant(facts, "coffee")) == 3


@given(st.lists(st.text()), st.text())
def test_only_facts_with_a_word_in_common_are_brought_up(facts: list[str], text: str) -> None:
    found = relevant(facts, text)
    assert len(found) == len(set(found)) <= 3
    assert all(fact in facts and words(fact) & words(text) for fact in found)


def test_a_thousand_real_sentences_are_searched_in_little_time(dialogs: list[dict[str, Any]]) -> None:
    facts = [u["text"] for dialog in dialogs for u in dialog["utterances"]][:1000]
    began = time.process_time()
    assert relevant(facts, "A large iced latte with oat milk, please")
    assert time.process_time() - began < 1
