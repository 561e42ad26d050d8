"""What is written in the measurements: the shipped dialogs, over and over, under new ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from jupyter_agentstore.data import dialogs


class Message(NamedTuple):
    """A message to be written."""

    id: str
    conversation: str
    role: str
    content: str


def utterances() -> list[tuple[str, str]]:
    """Role and text of each utterance of the dialogs, in order."""
    return [(u["speaker"], u["text"]) for dialog in dialogs() for u in dialog["utterances"]]


def messages(conversations: int, prefix: str = "m", busy: int = 0) -> Iterator[Message]:
    """Messages without end, spread over ``conversations`` of them.

    Args:
        conversations: how many; ``c0``, ``c1`` and so on.
        prefix: of the messages' ids.
        busy: if not 0, every other message goes to one of the first ``busy`` conversations.
    """
    said = itertools.cycle(utterances())
    for number, (role, text) in enumerate(said):
        place = (number // 2) % busy if busy and number % 2 else number % conversations
        yield Message(f"{prefix}-{number:09d}", f"c{place}", role, text)
