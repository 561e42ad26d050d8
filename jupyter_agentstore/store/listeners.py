"""Listeners of one kind.

What belongs here: adding, removing and calling them from any thread. What they are told is a store's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")


class Listeners(Generic[_Item]):
    """Those who want to be told of something. One that fails does not keep it from the others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._all: tuple[Callable[[_Item], None], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, listener: Callable[[_Item], None]) -> Callable[[], None]:
        """One more, told once for each time it was added; the result ends it, and does nothing a second time."""
        ended = False
        with self._guard:
            self._all = (*self._all, listener)

        def end() -> None:
            nonlocal ended
            with self._guard:
                if ended:
                    return
                ended = True
                kept = list(self._all)
                kept.remove(listener)
                self._all = tuple(kept)

        return end

    def tell(self, item: _Item) -> None:
        """Call each of them."""
        for listener in self._all:
            try:
                listener(item)
            except Exception:
                _log.exception("A listener failed.")
