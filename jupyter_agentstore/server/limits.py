"""How much a connection may send in a time, and how many connections there may be. Kept on the loop.

What belongs here: counting. What is done about it is said where it is counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..core.errors import RateLimited, TooManyConnections


class Bucket:
    """A token bucket.

    Args:
        rate: what may be taken in a second, on the whole; 0: everything.
        burst: what may be taken at once.
        what: of it, for people.
        clock: seconds.
    """

    def __init__(
        self, rate: float, burst: float, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._what = what
        self._clock = clock
        self._level = burst
        self._then = clock()

    def take(self, amount: int = 1) -> None:
        """Take some; more than ``burst`` counts as ``burst``.

        Raises:
            RateLimited: it is not there yet.
        """
        if not self._rate:
            return
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._then) * self._rate)
        self._then = now
        wanted = min(float(amount), self._burst)
        if wanted > self._level:
            wait = round((wanted - self._level) / self._rate, 3)
            raise RateLimited(f"More than {self._rate:,.0f} {self._what} a second; try again later.", wait)
        self._level -= wanted


class Connections:
    """The connections of a server.

    Args:
        total: how many there may be.
        each: how many one user may have.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._users: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._users.total()

    @contextmanager
    def one(self, user: str) -> Iterator[None]:
        """Count one more meanwhile.

        Raises:
            TooManyConnections: there are as many as may be.
        """
        if self._users.total() >= self._total:
            raise TooManyConnections(
                f"The server has {self._total:,} connections, as many as it may have "
                "(c.AgentStoreApp.max_connections).",
                status=503,
            )
        if self._users[user] >= self._each:
            raise TooManyConnections(
                f"{user!r} has {self._each:,} connections, as many as a user may have "
                "(c.AgentStoreApp.max_user_connections)."
            )
        self._users[user] += 1
        try:
            yield
        finally:
            self._users[user] -= 1
            if not self._users[user]:
                del self._users[user]
