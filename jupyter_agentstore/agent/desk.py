"""The agent's desk in one store: what waits there is taken up, answered, and handed in.

What belongs here: which conversation is served when, on the event loop, and what the store's agent state says about
it. What is read and written for an answer is in ``exchange``; which stores there are is the runtime's.

Row changes only say that a conversation may be worth a look. What is true is read from the store, before an answer
is begun and again before it is handed in, so a change that comes late, twice or out of order does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core.errors import InvalidEvent, Rebuilding, StoreClosed, TooLarge
from ..core.operations import RowChange
from ..store import Store
from .exchange import gather, hand_in
from .responder import Reply, Request, Responder

_log = logging.getLogger(__name__)


class Call(Protocol):
    """Runs a blocking function in another thread."""

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Service:
    """What the desks of a runtime share.

    Attributes:
        responder: writes the replies.
        actor: whose replies they are, ``agent:<name>``.
        slots: limits how many conversations are served at once.
        call: runs blocking calls off the loop.
        loop: the event loop that everything runs on.
        retry: the shortest and the longest wait after a failure, in seconds; it doubles in between.
        patience: how long a responder may take, in seconds.
    """

    responder: Responder
    actor: str
    slots: asyncio.Semaphore
    call: Call
    loop: asyncio.AbstractEventLoop
    retry: tuple[float, float]
    patience: float


@dataclass(eq=False)
class Visit:
    """A conversation that is being looked after."""

    conversation: str
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # since it was last read
    request: Request | None = None  # what is being answered
    thinking: asyncio.Task[Reply] | None = None
    reply: Reply | None = None  # written for ``request`` and not handed in yet
    answered: str | None = None  # the last message answered
    unwanted: bool = False  # the responder was stopped because nobody wants its answer


@dataclass(frozen=True)
class Change:
    """What a row change means for a conversation.

    Attributes:
        conversation: its id.
        look: there may be something to answer.
        settled: the message that needs no answer any more.
        halted: the conversation is no longer active.
    """

    conversation: str
    look: bool = False
    settled: str | None = None
    halted: bool = False


class Desk:
    """Serves one open store. All of it runs on the service's loop but :meth:`_rows`."""

    def __init__(self, store: Store, service: Service) -> None:
        self.store = store
        self._service = service
        self._visits: dict[str, Visit] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # What is shown of each conversation: whether a reply runs, and a text; the latest last.
        self._doing: dict[str, tuple[bool, str]] = {}
        self._shown: tuple[bool, str | None] = (False, None)
        self._nudge = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._scanning = self._rescan = self._closed = False
        self._unsubscribe = store.on_own_rows(self._rows)

    def scan(self) -> None:
        """Take up everything that waits in the store."""
        self._rescan = True
        if not self._scanning and not self._closed:
            self._scanning = True
            self._start(self._scan())

    async def close(self) -> None:
        """Stop: replies being written are dropped, those being committed are committed."""
        self._closed = True
        self._unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._visits.clear()  # a task that was cancelled before it began has not taken its visit back
        self._nudge.set()
        if self._keeper is not None:
            await self._keeper

    # --- what the store says

    def _rows(self, changes: Sequence[RowChange]) -> None:
        """In a thread of the store's: hand what matters to the loop."""
        news = _meaning(changes)
        if news:
            try:
                self._service.loop.call_soon_threadsafe(self._changed, news)
            except RuntimeError:  # the loop is closed; whoever opens the store next finds what waits
                self._unsubscribe()

    def _changed(self, news: Sequence[Change]) -> None:
        for change in news:
            visit = self._visits.get(change.conversation)
            if visit is None:
                if change.look:
                    self._look(change.conversation)
                continue
            visit.changed.set()
            about = visit.request.message["id"] if visit.request else None
            if visit.thinking and (change.halted or change.settled == about):
                visit.unwanted = True
                visit.thinking.cancel()

    async def _scan(self) -> None:
        try:
            while self._rescan:
                self._rescan = False
                try:
                    rows = await self._service.call(self.store.rows, "pendingReplies")
                except (Rebuilding, OSError) as error:
                    if isinstance(error, OSError):
                        _log.warning("%s: what waits for a reply cannot be read: %s", self.store.id, error)
                    self._rescan = True
                    await asyncio.sleep(self._service.retry[0])
                    continue
                for row in sorted(rows, key=lambda row: int(row["seq"])):
                    self._look(row["conversationId"])
        except StoreClosed:
            pass
        except Exception:
            _log.exception("%s: what waits for a reply could not be read.", self.store.id)
        finally:
            self._scanning = False

    # --- one conversation

    def _look(self, conversation: str) -> None:
        visit = self._visits.get(conversation)
        if visit is not None:
            visit.changed.set()
        elif not self._closed:
            visit = self._visits[conversation] = Visit(conversation)
            self._start(self._serve(visit))

    async def _serve(self, visit: Visit) -> None:
        """Answer until nothing waits."""
        failures = 0
        try:
            while True:
                visit.changed.clear()
                answered = visit.answered
                try:
                    async with self._service.slots:
                        more = await self._attend(visit)
                    if visit.answered != answered:
                        failures = 0
                    if not more and not visit.changed.is_set():
                        return
                except StoreClosed:
                    # Or the process went away that had it; if this one has it now, there was a scan.
                    if not visit.changed.is_set() or self._closed:
                        return
                except Rebuilding:
                    self.scan()
                    return
                except Exception as error:
                    failures += 1
                    await self._wait_to_retry(visit, error, failures)
        finally:
            self._visits.pop(visit.conversation, None)
            self._show(visit.conversation)
            self._nudge.set()

    async def _attend(self, visit: Visit) -> bool:
        """Answer what waits now; whether to look again."""
        request: Request | None = await self._service.call(gather, self.store, visit.conversation)
        if request is None:
            return False
        message_id = request.message["id"]
        if message_id == visit.answered:
            _log.error("%s: message %s is answered and waits all the same.", self.store.id, message_id)
            return False
        if visit.request is None or visit.request.message["id"] != message_id:
            visit.reply = None
        visit.request, visit.unwanted = request, False
        if visit.changed.is_set():
            return True  # there is news already
        self._show(visit.conversation, True, f"Responding to: {_short(request.message['content'])}")
        try:
            if visit.reply is None:
                visit.reply = await self._think(visit, request)
            if visit.reply is not None:
                done = await self._service.call(
                    hand_in, self.store, request, visit.reply, self._service.actor
                )
                visit.reply = None
                visit.answered = message_id if done else None
        except (InvalidEvent, TooLarge):
            visit.reply = None  # a reply that no store takes: let another one be written
            raise
        self._show(visit.conversation)
        return True

    async def _think(self, visit: Visit, request: Request) -> Reply | None:
        """The responder's reply, or None when it is no longer wanted."""

        async def think() -> Reply:
            async with asyncio.timeout(self._service.patience):
                reply: object = await self._service.responder.reply(request)
            if not isinstance(reply, Reply):
                raise TypeError(f"The responder gave no Reply but {type(reply).__name__}.")
            return reply

        visit.thinking = self._service.loop.create_task(think())
        try:
            await asyncio.wait({visit.thinking})
            if visit.unwanted:
                return None
            if visit.thinking.cancelled():
                raise RuntimeError("The responder cancelled itself.")
            return visit.thinking.result()
        finally:
            thinking, visit.thinking = visit.thinking, None
            if not thinking.done():  # the desk is closed
                thinking.cancel()
                await asyncio.gather(thinking, return_exceptions=True)
            elif not thinking.cancelled():
                thinking.exception()

    async def _wait_to_retry(self, visit: Visit, error: Exception, failures: int) -> None:
        """Say what is the matter, and wait: longer each time, but no longer than until something changes."""
        shortest, longest = self._service.retry
        seconds = min(shortest * 2.0 ** min(failures - 1, 60), longest)
        _log.warning(
            "%s: no reply in conversation %s (failure %d, next try in %g s): %r",
            *(self.store.id, visit.conversation, failures, seconds, error),
            exc_info=error if failures == 1 else None,
        )
        message = _short(visit.request.message["content"]) if visit.request else visit.conversation
        kind = type(error).__name__
        self._show(visit.conversation, False, f"No reply yet, trying again ({kind}): {message}")
        try:
            async with asyncio.timeout(seconds):
                await visit.changed.wait()
        except TimeoutError:
            pass

    # --- what the agent state says, and the store kept awake

    def _show(self, conversation: str, running: bool = False, text: str | None = None) -> None:
        """Set what is shown of a conversation; no text, nothing."""
        self._doing.pop(conversation, None)
        if text is not None:
            self._doing[conversation] = (running, text)
        self._keep()
        self._nudge.set()

    def _state(self) -> tuple[bool, str | None]:
        doing = list(self._doing.values())
        running = [text for runs, text in doing if runs]
        texts = running or [text for _, text in doing]
        return bool(running), texts[-1] if texts else None

    def _keep(self) -> None:
        if self._keeper is None and (self._visits or self._state() != self._shown):
            self._keeper = self._service.loop.create_task(self._keep_awake())

    async def _keep_awake(self) -> None:
        """Hold the store and publish the agent state for as long as there is work."""
        hold = self.store.hold()
        try:
            await self._service.call(hold.__enter__)
            try:
                while self._visits or self._state() != self._shown:
                    self._nudge.clear()
                    await self._publish()
                    if self._visits and self._state() == self._shown:
                        await self._nudge.wait()
            finally:
                await self._service.call(hold.__exit__, None, None, None)
        except StoreClosed:
            self._shown = (False, None)
        except Exception:
            _log.exception("%s: what the agent does could not be shown.", self.store.id)
            self._shown = self._state()
        finally:
            self._keeper = None
        if self._visits:  # one began while the hold was let go
            self._keep()

    async def _publish(self) -> None:
        state = self._state()
        if state != self._shown:
            running, text = self._shown = state
            await self._service.call(lambda: self.store.set_agent(isThinking=running, currentTask=text))

    def _start(self, work: Any) -> None:
        task = self._service.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _meaning(changes: Sequence[RowChange]) -> list[Change]:
    """What row changes mean; whether something waits in a conversation, the last of them says."""
    news = []
    waiting: dict[str, Change] = {}
    for change in changes:
        before, after = change.before, change.after
        if change.table == "pendingReplies":
            if after is not None:
                waiting[change.key] = Change(change.key, look=True)
            elif before is not None:
                news.append(Change(change.key, settled=before["lastMessageId"]))
                waiting.pop(change.key, None)
        elif change.table == "conversations":
            was = before["status"] if before else None
            now = after["status"] if after else None
            if was != now:
                news.append(Change(change.key, look=now == "active", halted=now != "active"))
    return [*news, *waiting.values()]


def _short(text: str) -> str:
    line = " ".join(text[:200].split())
    return line if len(line) <= 50 else line[:50].rstrip() + "…"
