"""A query that tells when its answer changes.

What belongs here: the thread that asks again after every change and calls back when the answer is another. Changes
that come while it asks or calls are taken together, so a slow callback sees fewer answers, never an old one last.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.errors import AgentStoreError, Rebuilding, StoreClosed, Unreachable
from ..core.operations import RowChange

if TYPE_CHECKING:
    import pandas

    from .link import Link

Callback = Callable[["pandas.DataFrame"], object]

_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)
_OF_EVENTS = frozenset({"events", "anomalies"})  # tables that change with every event, or may

CLOSE_SECONDS = 5.0
"""For which closing waits for a call that is under way: it may itself wait for whoever closes."""

RETRY = 5.0
"""Seconds after which a query that failed is asked again."""


class Subscription:
    """Calls back with the present answer at once, and then whenever it is another; :meth:`close` ends it.

    The first call is made by whoever subscribes, later ones in a thread of the subscription's own. An exception in a
    callback is printed and ends nothing.

    Args:
        what: the query or the table's name.
        ask: gets the present answer.
        callback: gets the answer as a DataFrame.
        listen: takes a listener for changes of the store.
        forget: called once at the end.
    """

    def __init__(
        self,
        what: str,
        ask: Callable[[], pandas.DataFrame],
        callback: Callback,
        listen: Callable[[Callable[[], None]], Callable[[], None]],
        forget: Callable[[Subscription], None],
    ) -> None:
        self.what = what
        self._get = ask
        self._callback = callback
        self._forget = forget
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._calling = threading.RLock()
        self._last: pandas.DataFrame | None = None
        self._failing = False
        self._unlisten = listen(self._changed.set)
        try:
            self._ask()
        except BaseException:
            self._unlisten()
            raise
        self._thread = threading.Thread(target=self._run, name="agentstore-subscription", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "active"
        return f"<Subscription to {self.what!r}, {state}; .close() ends it>"

    @property
    def active(self) -> bool:
        """Whether it still calls back."""
        return not self._closed.is_set()

    def close(self) -> None:
        """End it: the callback is not called again. Again is harmless.

        A call that is under way ends first, unless it is the one that closes or takes long.
        """
        if not self._closed.is_set():
            self._closed.set()
            self._unlisten()
            self._changed.set()
            self._forget(self)
        if self._calling.acquire(timeout=CLOSE_SECONDS):
            self._calling.release()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            if self._closed.is_set():
                return
            self._changed.clear()
            try:
                self._ask()
            except StoreClosed:
                return
            except AgentStoreError as error:
                if not self._failing and not isinstance(error, (Unreachable, Rebuilding)):
                    print(f"{self!r} could not ask again, and keeps trying: {error}", file=sys.stderr)  # noqa: T201
                self._failing = True
                if self._closed.wait(RETRY):
                    return
                self._changed.set()
            except Exception:
                self._report()

    def _ask(self) -> None:
        answer = self._get()
        self._failing = False
        if self._last is not None and _same(self._last, answer, bool(_ORDERED.search(self.what))):
            return
        self._last = answer
        with self._calling:
            if self._closed.is_set():
                return
            try:
                self._callback(answer.copy(deep=False))
            except Exception:
                self._report()

    def _report(self) -> None:
        print(f"The callback of {self!r} failed:", file=sys.stderr)  # noqa: T201
        traceback.print_exc()


def listen_for(link: Link, tables: frozenset[str] | None, told: Callable[[], None]) -> Callable[[], None]:
    """Hear of changes that may matter to a query.

    Args:
        link: the way to the store.
        tables: those that the query reads; None if that is not known.
        told: called after each change.

    Returns:
        What ends that.
    """
    if tables is None or tables & _OF_EVENTS:
        return link.listen(lambda _: told())

    def listener(changes: Sequence[RowChange] | None) -> None:
        if changes is None or any(change.table in tables for change in changes):
            told()

    return link.watch(listener)


def _same(one: pandas.DataFrame, other: pandas.DataFrame, ordered: bool) -> bool:
    """Whether two answers are the same; the order of rows counts where the query asks for one."""
    if one.equals(other):
        return True
    if ordered or one.shape != other.shape or list(one.columns) != list(other.columns) or len(one) < 2:
        return False
    try:
        return bool(_sorted(one).equals(_sorted(other)))
    except (TypeError, ValueError):  # values without an order
        return False


def _sorted(frame: pandas.DataFrame) -> pandas.DataFrame:
    plain = frame.set_axis(range(frame.shape[1]), axis=1)  # names may come twice
    return plain.sort_values(list(plain.columns), ignore_index=True)
