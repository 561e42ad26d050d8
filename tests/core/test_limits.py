"""Which ids a store may have."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agentstore.core.errors import InvalidStoreId
from jupyter_agentstore.core.limits import store_id


@pytest.mark.parametrize(
    "text", ["default-agent", "a", "0", "A.b_c-d", "x" * 128, "s1", "a..b", "temp", "a."]
)
def test_an_id_that_keeps_the_rule_is_given_back(text: str) -> None:
    assert store_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 129,
        ".a",
        "-a",
        "_a",
        "..",
        "../a",
        "a/b",
        "a\\b",
        "a b",
        "ä",
        "a\n",
        "a\0",
        "٣",
        None,
        7,
        b"a",
        ["a"],
    ],
)
def test_an_id_that_breaks_the_rule_is_refused_and_shown(text: object) -> None:
    with pytest.raises(InvalidStoreId) as refused:
        store_id(text)
    assert refused.value.field == "storeId"
    assert refused.value.message.startswith(repr(text)[:80])


@given(st.text(max_size=140))
def test_no_other_text_is_an_id(text: str) -> None:
    if re.match(r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}\Z", text):
        assert store_id(text) == text
    else:
        with pytest.raises(InvalidStoreId) as refused:
            store_id(text)
        assert len(refused.value.message) < 300
