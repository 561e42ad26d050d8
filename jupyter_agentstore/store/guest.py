"""A store whose files another process has: the same calls, made over a connection to that process.

What belongs here: one store's side of a ``link``. Who hosts next, when that process is gone, is ``life``'s business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..core.errors import StoreLocked, Unreachable
from ..core.events import Event
from ..core.operations import Row, RowChange
from ..core.schema import Schema
from ..state.query import Limits
from .backing import Answer, Doubtful, Lost, Params
from .commits import Commit, Push
from .frames import (
    pack_batch,
    pack_drafts,
    pack_params,
    table_of,
    unpack_changes,
    unpack_events,
    unpack_receipt,
)
from .link import Answered, Gone, Link
from .snapshots import Snapshot

if TYPE_CHECKING:
    import pyarrow

SECONDS = 60.0
"""How long a call without a limit of its own may take before something is wrong with the other process."""

_LONG_SECONDS = 86_400.0
_PAGE = 500  # events read at once for listeners
_PAGE_BYTES = 8_000_000
_log = logging.getLogger(__name__)


class Hearing(Protocol):
    """Who is told of a guest's news. All of it is called in the link's thread and must return at once."""

    @property
    def told(self) -> int:
        """The last event that listeners have heard of."""

    def heard(self, events: Sequence[Event]) -> None:
        """Events that go on from ``told``, some of which may be known."""

    def heard_of_rows(self, changes: Sequence[RowChange] | None) -> None:
        """Rows that changed, there; None when it is not known which."""

    def heard_agent(self, document: dict[str, Any]) -> None:
        """What the agent is doing."""

    def heard_message(self, message: bytes) -> None:
        """A message that is kept nowhere."""

    def lost(self, guest: Guest, entries: Sequence[Commit | Push], *, ended: bool) -> None:
        """The other process is gone, or has let go of the store.

        Args:
            guest: of no use any more.
            entries: what it was to write and did not, to be put to the next one in this order.
            ended: the store was deleted.
        """


class Guest:
    """A store in another process; see :class:`~jupyter_agentstore.store.backing.Backing`.

    Args:
        link: to that process.
        store_id: which store.
        schema: that it must have, too.
        owner: what the lock file says of that process.
        hearing: who is told of news.

    Raises:
        Lost: that process has the store no longer, or is gone.
        StoreLocked: it has another schema.
        Unreachable: it does not answer.
    """

    own = False

    def __init__(
        self, link: Link, store_id: str, schema: Schema, owner: dict[str, object], hearing: Hearing
    ) -> None:
        self.link = link
        self._id = store_id
        self._schema = schema
        self.owner = owner
        self._hearing = hearing
        self._guard = threading.Lock()
        self._entries: dict[Commit | Push, None] = {}
        self._unsure: list[Commit | Push] = []
        self._listening = self._with_rows = False
        self._wanted = 0  # the last event that listeners are to hear of
        self._filling = False
        self._left = False
        self._free: Callable[[], None] | None = None
        self._check_stuck()
        self._number, answer = link.enter(store_id, self._news)
        try:
            said = self._wait(answer, SECONDS)
            if said["schema"] != schema.hash:
                url = f" ({owner['url']})" if owner.get("url") else ""
                raise StoreLocked(
                    f"The store {store_id!r} is open in process {owner.get('pid')}{url}, for which other events and "
                    "tables are configured (c.AgentStoreApp.schema).",
                    owner,
                )
        except BaseException:
            link.leave(store_id, self._number)
            raise
        self.backend_id: str = said["backendId"]
        self.head: int = said["head"]
        link.on_lost(self._cut)

    @property
    def progress(self) -> tuple[int, int] | None:
        """Not known here; a call that has to do with it says so."""
        return None

    @property
    def idle(self) -> bool:
        return not self._entries

    def leave(self, done: Callable[[], None]) -> None:
        """It is of no use any more; ``done`` is called once when the link is not needed for what was begun."""
        with self._guard:
            if self._left:
                return
            self._left, self._free = True, done
        self.link.off_lost(self._cut)
        self.link.leave(self._id, self._number)
        self._let_go()

    def _let_go(self) -> None:
        with self._guard:
            if self._entries or self._free is None:
                return
            done, self._free = self._free, None
        done()

    def refresh(self) -> None:
        self._ask(SECONDS, "head")

    # ---- in

    def put(self, entry: Commit | Push) -> None:
        if isinstance(entry, Commit):
            plain = ("commit", pack_drafts(self._schema, entry.drafts), entry.actor, entry.commit_id)
        else:
            plain = ("push", pack_batch(entry.batch), entry.actor, entry.backend_id)
        with self._guard:
            if self._left:
                raise Lost
            self._entries[entry] = None
        try:
            answer = self._call(*plain)
        except BaseException:
            with self._guard:
                self._entries.pop(entry, None)
            self._let_go()
            raise
        answer.add_done_callback(lambda done: self._answered(entry, done))

    def _answered(self, entry: Commit | Push, answer: Future[Answered]) -> None:
        with self._guard:
            self._entries.pop(entry, None)
        self._settle(entry, answer)
        self._let_go()

    def _settle(self, entry: Commit | Push, answer: Future[Answered]) -> None:
        error = answer.exception()
        with suppress(InvalidStateError):  # nobody waits any more
            if error is None:
                said = self._said(answer.result())
                if isinstance(entry, Commit):
                    entry.future.set_result(unpack_receipt(said))
                else:
                    entry.future.set_result(said)
            elif isinstance(error, Gone):  # nothing was done
                self._hearing.lost(self, [entry], ended=False)
            elif not isinstance(error, Lost):
                entry.future.set_exception(error)
            elif isinstance(entry, Commit) and entry.commit_id is None:
                entry.future.set_exception(
                    Doubtful(
                        "The process that had the store went away: the events may have been written, or not. "
                        "Look before you repeat this; a commit with an id is repeated by itself."
                    )
                )
            elif self._left:
                self._hearing.lost(self, [entry], ended=False)
            else:
                self._unsure.append(entry)

    def _cut(self) -> None:
        """The connection is gone, and every answer with it."""
        unsure, self._unsure = self._unsure, []
        self._hearing.lost(self, unsure, ended=False)

    def set_agent(self, document: Mapping[str, Any]) -> None:
        self._ask(SECONDS, "set_agent", document["isThinking"], document["currentTask"])

    def tell(self, message: bytes) -> None:
        """Have a message told to all who listen to the store, here as well."""
        if not self.link.stuck:
            with suppress(Lost):
                self.link.call(self._id, "tell", message)

    # ---- out

    def read(self, after: int, limit: int, max_bytes: int | None = None) -> list[Event]:
        return unpack_events(self._ask(SECONDS, "read", after, limit, max_bytes))

    def row(self, table: str, key: str) -> Row | None:
        row: Row | None = self._ask(SECONDS, "row", table, key)
        return row

    def tail(self, table: str, group: str, after: int | None, limit: int) -> list[Row]:
        rows: list[Row] = self._ask(SECONDS, "tail", table, group, after, limit)
        return rows

    def rows(
        self, table: str, where: Mapping[str, Any] | None, order: str | None, limit: int | None
    ) -> list[Row]:
        rows: list[Row] = self._ask(SECONDS, "rows", table, where, order, limit)
        return rows

    def count(self, table: str) -> int:
        return int(self._ask(SECONDS, "count", table))

    def query(self, sql: str, params: Params, limits: Limits, at_least: int | None) -> Answer:
        values = (limits.seconds, limits.rows, limits.bytes, limits.memory)
        call = self._call("query", sql, pack_params(params), values, at_least)
        answer = self._answer(call, limits.seconds + SECONDS)
        seq, stale = self._said(answer)
        return Answer(table_of(answer[1]), seq, stale)

    def table(self, name: str) -> pyarrow.Table:
        answer = self._answer(self._call("table", name), _LONG_SECONDS)
        self._said(answer)
        return table_of(answer[1])

    def status(self, agent: Mapping[str, Any]) -> dict[str, Any]:
        status: dict[str, Any] = self._ask(SECONDS, "status")
        return status

    def snapshot(self) -> Snapshot:
        said = self._wait(self._call("snapshot"), _LONG_SECONDS)
        return Snapshot(**{**said, "path": Path(said["path"])})

    def _ask(self, seconds: float, name: str, *args: Any) -> Any:
        return self._wait(self._call(name, *args), seconds)

    def _call(self, name: str, *args: Any) -> Future[Answered]:
        self._check_stuck()
        return self.link.call(self._id, name, *args)

    def _check_stuck(self) -> None:
        if self.link.stuck:
            raise self._unreachable()

    def _wait(self, answer: Future[Answered], seconds: float) -> Any:
        return self._said(self._answer(answer, seconds))

    def _answer(self, answer: Future[Answered], seconds: float) -> Answered:
        try:
            return self.link.wait(answer, seconds)
        except TimeoutError:
            raise self._unreachable() from None

    def _unreachable(self) -> Unreachable:
        return Unreachable(
            f"Process {self.owner.get('pid')}, which has the store {self._id!r} open, does not answer."
        )

    def _said(self, answer: Answered) -> Any:
        """What was answered; the head that came with it is kept."""
        head, said = answer[0]
        if head is not None and head > getattr(self, "head", 0):
            self.head = head
        return said

    # ---- news

    def listen(self, *, rows: bool) -> None:
        """Have the store's listeners told of news from now on, and of the events that they have missed."""
        with self._guard:
            if self._left or (self._listening and (self._with_rows or not rows)):
                return
            self._listening, self._with_rows = True, rows
        try:
            answer = self.link.call(self._id, "listen", self._number, rows)
        except Lost:
            return  # which is heard of by another way
        answer.add_done_callback(lambda done: self._begun(done, rows))

    def ignore(self) -> None:
        """No more news: nobody listens."""
        with self._guard:
            if not self._listening:
                return
            self._listening = self._with_rows = False
        with suppress(Lost):
            self.link.call(self._id, "ignore", self._number)

    def _begun(self, answer: Future[Answered], rows: bool) -> None:
        if (error := answer.exception()) is not None:
            self._listening = self._with_rows = False
            if isinstance(error, Gone):
                self._hearing.lost(self, [], ended=False)
            elif not isinstance(error, Lost):
                _log.error("The store %r cannot be listened to: %s", self._id, error)
            return
        agent = self._said(answer.result())
        if agent is not None:
            self._hearing.heard_agent(agent)
        if rows:
            self._hearing.heard_of_rows(None)  # since they were asked for, some may have changed
        self._fill(self.head)

    def _news(self, news: Any) -> None:
        what, said = news
        if what == "events":
            events = unpack_events(said)
            self.head = max(self.head, events[-1].seq)
            if self._filling or events[0].seq > self._hearing.told + 1:
                self._fill(events[-1].seq)
            else:
                self._hearing.heard(events)
        elif what == "rows":
            self._hearing.heard_of_rows(None if said is None else unpack_changes(said))
        elif what == "agent":
            self._hearing.heard_agent(said)
        elif what == "told":
            for message in said:
                self._hearing.heard_message(message)
        else:
            self._hearing.lost(self, [], ended=what == "ended")

    def _fill(self, head: int) -> None:
        """Read what is missing up to an event, page by page."""
        self._wanted = max(self._wanted, head)
        if self._filling or self._hearing.told >= self._wanted:
            return
        self._filling = True
        try:
            page = self.link.call(self._id, "read", self._hearing.told, _PAGE, _PAGE_BYTES)
        except Lost:
            return
        page.add_done_callback(self._filled)

    def _filled(self, answer: Future[Answered]) -> None:
        self._filling = False
        if (error := answer.exception()) is not None:
            if not isinstance(error, Lost):
                _log.error("Events of the store %r could not be read for its listeners: %s", self._id, error)
            return
        events = unpack_events(self._said(answer.result()))
        if events:
            self._hearing.heard(events)
            self._fill(self._wanted)


def plain_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as it travels; the file itself is on the same machine."""
    return {**msgspec.structs.asdict(snapshot), "path": str(snapshot.path)}
