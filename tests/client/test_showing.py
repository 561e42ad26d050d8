"""What objects show in a cell: a notebook trusts that, so nothing in a store may become a part of the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import Message, Store, frames

FORMS = ("_repr_markdown_", "_repr_svg_", "_repr_javascript_", "_repr_json_")
HOSTILE: list[str] = json.loads(
    (Path(__file__).parents[2] / "labextension" / "test" / "hostile.json").read_text()
)


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def message(content: str, actor: str = "ada", role: str = "user") -> Message:
    return Message("m", "c", role, content, datetime(2026, 1, 1, tzinfo=UTC), actor)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_message_is_shown_as_the_text_that_it_is(text: str) -> None:
    for shown in (message(text), message("x", actor=text, role=text), message(text, actor=f"agent:{text}")):
        page = Tags(shown._repr_html_())
        assert page.tags == {"b", "br", "span"}
        assert page.attributes == {"style"}
        assert shown.content in page.text
        assert shown.author in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_is_shown_as_the_text_that_it_holds(text: str) -> None:
    page = Tags(frames.to_html(pa.table({text: [text], "nested": [{"of": [text]}]})))
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert page.attributes == set()


def test_lines_of_a_message_stay_lines() -> None:
    assert "white-space: pre-wrap" in message("one\n  two")._repr_html_()


def test_no_object_of_a_store_has_a_form_that_a_page_would_run(store: Store) -> None:
    text = "<img src=x onerror=pwned()> [x](javascript:pwned()) <script>pwned()</script>"
    chat = store.conversation(title=text)
    chat.pause()
    sent = chat.send(text)
    store.commit(events.MemoryAdded(conversationId=chat.id, fact=text))
    query = store.sql("select content from messages")
    shown: list[Any] = [chat.last()[0], sent, store, store.conversations, query, chat.messages]
    for one in shown:
        assert not [form for form in FORMS if hasattr(one, form)], one
        forms = getattr(one, "_repr_mimebundle_", dict)()
        page = forms.get("text/html") or getattr(one, "_repr_html_", str)()
        assert set(forms) <= {"text/plain", "text/html"}
        assert not Tags(page).tags & {"img", "script", "a"}, one
