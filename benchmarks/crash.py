"""``kill -9`` of a real server while clients commit and the agent replies.

Nothing acknowledged is lost, nothing is there twice. The test suite runs the same with fewer rounds.

What is checked after each kill, on a copy of the files as they were left: the log is whole; every acknowledged
message is there, once, with its text; a commit of several events is there as a whole or not at all; no message has
two replies; the tables are those that a rebuild from the log gives. At the end, with the agent done: no message
without a reply.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_agentstore.core.agent_schema import agent_schema, details
from jupyter_agentstore.store import Registry, Store

from .report import Figure, Table, Target
from .server import Client, Refused, Server
from .setting import Setting, progress
from .texts import utterances

CLIENTS = 4
STORE = "crash"
CONVERSATIONS = 12


@dataclass
class Commit:
    """What a client sent, perhaps more than once: messages, ``(id, conversation, text)``."""

    id: str
    messages: list[tuple[str, str, str]]


@dataclass
class Book:
    """What one client knows: what was acknowledged, and what it sent last without hearing of it."""

    acknowledged: list[Commit] = field(default_factory=list)
    unheard: Commit | None = None


@dataclass
class Tally:
    """What came out, over all rounds."""

    rounds: int = 0
    acknowledged: int = 0
    unheard: int = 0
    unheard_kept: int = 0
    resent: int = 0
    replies: int = 0
    faults: list[str] = field(default_factory=list)


class Crash:
    """Rounds of start, traffic, kill and check on the same store.

    Args:
        home: an empty folder.
        seed: of the moments of the kills and of what is sent.
    """

    def __init__(self, home: Path, seed: int = 1) -> None:
        self.home = home
        self.tally = Tally()
        self._random = random.Random(seed)
        self._books = [Book() for _ in range(CLIENTS)]
        self._server = Server(
            home / "server", {"AgentStoreApp.reply_delay": [0.0, 0.05], "AgentStoreApp.idle_seconds": 3600.0}
        )
        self._numbers = itertools.count()
        self._texts = itertools.cycle([text for _, text in utterances()])
        self._guard = threading.Lock()
        self._heard = threading.Event()
        self._known: set[str] = set()

    def round(self, longest: float = 1.0) -> None:
        """Start, let everybody commit for a random while of at most ``longest`` seconds, kill, check."""
        server = self._server.start()
        try:
            if self.tally.rounds == 0:
                with server.client() as client:
                    self._begin(client)
            self._heard.clear()
            threads = [threading.Thread(target=self._commit, args=(number,)) for number in range(CLIENTS)]
            for thread in threads:
                thread.start()
            if not self._heard.wait(60):
                self._fault("nothing was acknowledged for a minute")
            time.sleep(self._random.uniform(0.0, longest))
        finally:
            server.kill()
        for thread in threads:
            thread.join()
        self.tally.rounds += 1
        copy = self.home / "copy"
        shutil.copytree(server.stores, copy)
        self._check(copy)
        shutil.rmtree(copy)

    def finish(self) -> Tally:
        """Let the agent answer what waits, end the server in order, and check once more."""
        with self._server as server, server.client() as client:
            for number, book in enumerate(self._books):
                while book.unheard is not None:
                    self._one(client, book, number)
            deadline = time.monotonic() + 60
            question = {"sql": 'select count(*) as waiting from "pendingReplies"'}
            while (answer := client.post("query", question, STORE)) and _number(answer):
                if time.monotonic() > deadline:
                    self._fault(f"{_number(answer)} conversations still wait for a reply")
                    break
                time.sleep(0.05)
        self._check(server.stores, done=True)
        self.tally.acknowledged = sum(len(book.acknowledged) for book in self._books)
        return self.tally

    # ---- what clients do

    def _begin(self, client: Client) -> None:
        for number in range(CONVERSATIONS):
            body = {"id": f"c{number}", "userId": "ann", "title": f"Order {number}"}
            client.post("conversations", body, STORE)

    def _commit(self, number: int) -> None:
        """Commit until the server is gone: every other client single messages, the others three at a time."""
        book = self._books[number]
        try:
            with self._server.client() as client:
                while True:
                    self._one(client, book, number)
        except (OSError, http.client.HTTPException):
            pass

    def _one(self, client: Client, book: Book, number: int) -> None:
        """One commit. What was sent last and not heard of is sent again, as a client would."""
        again = book.unheard is not None
        commit = book.unheard = book.unheard or self._new(number)
        try:
            self._send(client, commit)
        except Refused as error:
            if error.status == 503:  # the server is up and has not opened its stores yet
                time.sleep(0.01)
            else:
                self._fault(f"commit {commit.id}, sent {'again' if again else 'once'}, was refused: {error}")
                book.unheard = None
            return
        book.acknowledged.append(commit)
        book.unheard = None
        self.tally.resent += again
        self._heard.set()

    def _new(self, number: int) -> Commit:
        with self._guard:
            sequence = next(self._numbers)
            texts = [next(self._texts) for _ in range(1 if number % 2 else 3)]
            conversation = f"c{self._random.randrange(CONVERSATIONS)}"
        name = f"k{number}-{sequence}"
        return Commit(name, [(f"{name}-{place}", conversation, text) for place, text in enumerate(texts)])

    def _send(self, client: Client, commit: Commit) -> None:
        if len(commit.messages) == 1:
            [(message, conversation, text)] = commit.messages
            body = {"conversationId": conversation, "content": text, "id": message, "commitId": commit.id}
            client.post("chat", body, STORE)
        else:
            events = [
                {
                    "name": "v1.MessageAdded",
                    "args": {
                        "id": message,
                        "conversationId": conversation,
                        "role": "user",
                        "content": text,
                        "metadata": None,
                    },
                }
                for message, conversation, text in commit.messages
            ]
            client.post("events", {"events": events, "commitId": commit.id}, STORE)

    # ---- what must hold

    def _check(self, stores: Path, done: bool = False) -> None:
        """Check the files of a store that nobody has open."""
        beside = self.home / "rebuilt"
        shutil.rmtree(beside, ignore_errors=True)
        if not (stores / STORE).exists():
            if any(book.acknowledged for book in self._books):
                self._fault("the store is gone")
            return
        shutil.copytree(stores, beside)
        for path in beside.rglob("state*.duckdb*"):
            path.unlink()
        registry, rebuilt = Registry(stores, agent_schema), Registry(beside, agent_schema)
        try:
            store = registry.get(STORE, create=False)
            self._check_log(store, done)
            self._check_tables(store, rebuilt.get(STORE, create=False))
        finally:
            registry.close()
            rebuilt.close()
            shutil.rmtree(beside)

    def _check_log(self, store: Store, done: bool) -> None:
        with store._use() as awake:
            awake.log.verify()
        said: dict[str, list[tuple[int, str, str]]] = {}
        replies: Counter[str] = Counter()
        for first in range(0, store.head, 10_000):
            for event in store.read(first, 10_000):
                body = event.decode()
                if body.name != "v1.MessageAdded":
                    continue
                args = body.args
                said.setdefault(args["id"], []).append((event.seq, args["conversationId"], args["content"]))
                if event.actor.startswith("agent:"):
                    replies[details(args["metadata"])["replyTo"]] += 1
        for message, places in said.items():
            if len(places) > 1:
                self._fault(f"message {message} is in the log {len(places)} times")
        for message, times in replies.items():
            if times > 1:
                self._fault(f"message {message} has {times} replies")
        for book in self._books:
            for commit in book.acknowledged:
                self._check_commit(commit, said, acknowledged=True)
            if book.unheard is not None:
                self.tally.unheard += 1
                self.tally.unheard_kept += self._check_commit(book.unheard, said, acknowledged=False)
        self.tally.replies = sum(replies.values())
        if done:
            self._check_replies(store)

    def _check_commit(
        self, commit: Commit, said: dict[str, list[tuple[int, str, str]]], acknowledged: bool
    ) -> bool:
        found = [said[message][0] for message, _, _ in commit.messages if message in said]
        if len(found) not in ((len(commit.messages),) if acknowledged else (0, len(commit.messages))):
            self._fault(f"of commit {commit.id} {len(found)} of {len(commit.messages)} messages are there")
            return False
        if not found:
            return False
        for (message, conversation, text), place in zip(commit.messages, found, strict=True):
            if place[1:] != (conversation, text):
                self._fault(f"message {message} is not what was sent")
        if [place[0] for place in found] != list(range(found[0][0], found[0][0] + len(found))):
            self._fault(f"commit {commit.id} is not in one piece")
        return True

    def _check_replies(self, store: Store) -> None:
        for number in range(CONVERSATIONS):
            messages = store.tail("messages", f"c{number}", limit=1_000_000)
            numbers = {message["id"]: message["seq"] for message in messages}
            answers = [
                numbers[details(message["metadata"])["replyTo"]]
                for message in messages
                if message["actor"].startswith("agent:")
            ]
            asked = [message["seq"] for message in messages if message["role"] == "user"]
            if asked and (not answers or max(answers) < max(asked)):
                self._fault(f"conversation c{number} has messages without a reply")

    def _check_tables(self, store: Store, rebuilt: Store) -> None:
        from pyarrow import compute

        for name in sorted([*agent_schema.tables, "events", "anomalies"]):
            mine, other = (each.table(name) for each in (store, rebuilt))
            keys = [(column, "ascending") for column in mine.column_names]
            if not mine.take(compute.sort_indices(mine, sort_keys=keys)).equals(
                other.take(compute.sort_indices(other, sort_keys=keys))
            ):
                self._fault(
                    f"the table {name} is not what a rebuild gives ({len(mine)} and {len(other)} rows)"
                )
        for key in ("messageCount", "conversationCount", "activeConversations", "memoryUsage"):
            if store.status()[key] != rebuilt.status()[key]:
                self._fault(f"{key} is {store.status()[key]}, after a rebuild {rebuilt.status()[key]}")

    def _fault(self, what: str) -> None:
        if what not in self._known:  # a fault is found again in each later round
            self._known.add(what)
            self.tally.faults.append(f"round {self.tally.rounds}: {what}")


def _number(answer: Any) -> int:
    """The one number in the answer to a query."""
    rows = answer["rows"] if isinstance(answer, dict) else answer
    row = rows[0]
    return int(next(iter(row.values())) if isinstance(row, dict) else row[0])


def run(setting: Setting) -> Iterator[Table]:
    rounds = setting.rounds or setting.scale(200, 5)
    table = Table(
        f"kill -9 of a server, {rounds} rounds, {CLIENTS} clients over REST",
        ["agentstore"],
        "see benchmarks/crash.py",
    )
    total = Tally()
    share = 20  # a store's log grows; what is checked each time should not
    for first in progress(range(0, rounds, share), "kill -9", -(-rounds // share)):
        crash = Crash(setting.new_folder("crash"), seed=first)
        for _ in progress(range(min(share, rounds - first)), "rounds"):
            crash.round()
        tally = crash.finish()
        for name in ("rounds", "acknowledged", "unheard", "unheard_kept", "resent", "replies"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.faults += tally.faults
    table.add("rounds", Figure(total.rounds))
    table.add("commits acknowledged", Figure(total.acknowledged))
    table.add("replies", Figure(total.replies))
    table.add("commits under way at a kill", Figure(total.unheard))
    table.add("of which were kept", Figure(total.unheard_kept))
    table.add("commits sent again", Figure(total.resent))
    table.add("faults", Figure(len(total.faults)), target=Target(0))
    for fault in total.faults[:20]:
        print(json.dumps(fault))
    yield table
