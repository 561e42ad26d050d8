"""A connection to the process that has stores: calls go out, answers and news come in.

What belongs here: the matching of answers to calls. What they mean is ``guest``'s business.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from .backing import Lost
from .frames import CALL, DONE, FAILED, GONE, NEWS, PART, BadFrame, Frames, frame, pack, unpack, unpack_error

_TICK = 1.0  # seconds
_SILENCE = 5  # ticks without a word, however small, after which the process is taken to be stopped
_log = logging.getLogger(__name__)

Answered = tuple[Any, list[bytes]]
"""An answer, and the parts that came before it."""


class Gone(Lost):
    """The process does not have the store, and has done nothing."""


class Link(asyncio.Protocol):
    """One connection, for all stores of the process behind it. Calls may be made from any thread.

    Attributes:
        users: how many use it; counted by who hands it out.
        closed: whether nothing comes any more.
        stuck: whether the process is there and does not even say so: it is stopped, or something keeps its Python
            from running. Whoever waits for it would wait for nobody knows how long.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users = 0
        self.closed = False
        self.stuck = False
        self._silence = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = loop
        self._guard = threading.Lock()
        self._frames = Frames()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Future[Answered], list[bytes]]] = {}
        self._news: dict[int, Callable[[Any], None]] = {}
        self._lost: list[Callable[[], None]] = []
        self._transport: asyncio.Transport | None = None

    def call(self, store_id: str, name: str, *args: Any) -> Future[Answered]:
        """Ask; the answer comes in the link's thread.

        Raises:
            Lost: the connection is closed.
            TooLarge: it is too much.
        """
        body = pack((store_id, name, args))
        answer: Future[Answered] = Future()
        self._send(next(self._numbers), body, answer)
        return answer

    def enter(self, store_id: str, news: Callable[[Any], None]) -> tuple[int, Future[Answered]]:
        """Begin with a store; its news come under the number, until :meth:`leave`. Raises as :meth:`call`."""
        answer: Future[Answered] = Future()
        number = next(self._numbers)
        self._news[number] = news
        self._send(number, pack((store_id, "enter", (number,))), answer)
        return number, answer

    def leave(self, store_id: str, number: int) -> None:
        """End with a store."""
        self._news.pop(number, None)
        with suppress(Lost):
            self.call(store_id, "leave", number)

    def wait(self, answer: Future[Answered], seconds: float) -> Answered:
        """Wait for an answer.

        Raises:
            TimeoutError: it does not come in time, or the process is stuck.
            Exception: what was answered.
        """
        deadline = time.monotonic() + seconds
        while not self.stuck and (left := deadline - time.monotonic()) > 0:
            try:
                return answer.result(min(left, _TICK))
            except TimeoutError:
                if answer.done():
                    break
        return answer.result(0)

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call the listener, in the link's thread, when the connection is closed, after all answers."""
        with self._guard:
            if not self.closed:
                self._lost.append(listener)
                return
        listener()

    def off_lost(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._guard, suppress(ValueError):
            self._lost.remove(listener)

    def close(self) -> None:
        """Hang up. What waits for an answer is told that it is lost."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._hang_up)

    def abort(self) -> None:
        """As :meth:`close`, on the loop, without waiting until what was said is taken."""
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self, number: int, body: bytes, answer: Future[Answered]) -> None:
        data = frame(CALL, number, body)
        with self._guard:
            if self.closed:
                raise Lost
            self._waiting[number] = (answer, [])
            try:
                # Within the guard, so that calls leave in the order of their numbers.
                self._loop.call_soon_threadsafe(self._write, data)
            except RuntimeError:
                del self._waiting[number]
                raise Lost from None

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
            if self._timer is None:
                self._timer = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        """See whether the process is still there, while somebody waits for it."""
        self._timer = None
        if self.closed or not (self._waiting or self.stuck):
            self._silence = 0
            return
        self._silence += 1
        if self._silence == 1 and self._transport is not None:
            self._transport.write(frame(CALL, next(self._numbers), pack(("", "ping", ()))))
        if self._silence == _SILENCE:
            self.stuck = True
        self._timer = self._loop.call_later(_TICK, self._tick)

    # ---- the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._silence, self.stuck = 0, False
        try:
            for kind, number, body in self._frames.feed(data):
                self._take(kind, number, body)
        except BadFrame:
            self._hang_up()

    def connection_lost(self, error: Exception | None) -> None:
        with self._guard:
            self.closed, self.stuck = True, False
            waiting, self._waiting = self._waiting, {}
            listeners, self._lost = self._lost, []
        self._news.clear()
        for answer, _ in waiting.values():
            _settle(answer, Lost())
        for listener in listeners:
            listener()

    def _take(self, kind: int, number: int, body: bytes) -> None:
        if kind == NEWS:
            news = self._news.get(number)
            if news is not None:
                try:
                    news(unpack(body))
                except Exception:
                    _log.exception("News of a store could not be taken.")
            return
        if kind == PART:
            waiting = self._waiting.get(number)
            if waiting is not None:
                waiting[1].append(body)
            return
        with self._guard:
            found = self._waiting.pop(number, None)
        if found is None:
            return
        answer, parts = found
        if kind == DONE:
            _settle(answer, (unpack(body), parts))
        else:
            _settle(answer, unpack_error(body) if kind == FAILED else Gone() if kind == GONE else Lost())


def _settle(answer: Future[Answered], outcome: Answered | Exception) -> None:
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
