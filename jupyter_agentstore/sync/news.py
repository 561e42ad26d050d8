"""What is told of a store and kept nowhere: who is present, what the agent does.

What belongs here: such news as values, and how a watcher that does not keep up is told of the latest only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..core.limits import MAX_PAGE_BYTES


class News(msgspec.Struct, frozen=True, gc=False):
    """One thing as it is now.

    Attributes:
        key: which thing; later news of it takes the place of earlier.
        text: it, as JSON.
        gone: it is no more.
    """

    key: tuple[str, ...]
    text: str
    gone: bool = False


class Backlog:
    """What one watcher has yet to be told: at most each thing once, however slow it is."""

    def __init__(self) -> None:
        self._known: set[tuple[str, ...]] = set()
        self._waiting: dict[tuple[str, ...], News] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, news: Sequence[News]) -> None:
        """Add what has changed."""
        for item in news:
            if item.gone and item.key not in self._known:
                self._waiting.pop(item.key, None)  # it came and went meanwhile
            else:
                self._waiting[item.key] = item

    def take(self, max_bytes: int = MAX_PAGE_BYTES) -> list[str]:
        """As much as goes into a Chunk, at least one if there is any; it then counts as told."""
        taken: list[str] = []
        size = 0
        for key, item in list(self._waiting.items()):
            size += len(item.text) if item.text.isascii() else len(item.text.encode())
            if taken and size > max_bytes:
                break
            taken.append(item.text)
            del self._waiting[key]
            if item.gone:
                self._known.discard(key)
            else:
                self._known.add(key)
        return taken
