"""Two Jupyter servers and two notebooks with embedded stores on one folder, and ``kill -9`` of whoever is host.

All four write to one store at once. Each time the host is killed, another one has taken over within two seconds; in
the end nothing that was acknowledged is missing, nothing is there twice, and each message has at most one reply.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from jupyter_agentstore.core.agent_schema import details
from jupyter_agentstore.eventlog.lock import owner_of
from jupyter_agentstore.store import Registry
from tests.neighbours import text_of
from tests.server.servers import Server, ok, until

STORE = "shared"
CONVERSATIONS = 8
KILLS = 10
TAKEOVER = 2.0
"""Seconds."""

ROOT = Path(__file__).parents[1]
_numbers = itertools.count()


class Writer:
    """A process that has the store open and writes to it all the time.

    Attributes:
        acknowledged: the ids of messages that are durable, as it was told.
    """

    process: subprocess.Popen[bytes] | subprocess.Popen[str]

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Let it end in order."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL; what it was told before counts."""
        self.process.kill()
        self.process.wait(60)
        self._thread.join(60)


class Notebook(Writer):
    """A notebook with an embedded store."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.neighbours", str(folder), STORE, str(CONVERSATIONS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        super().__init__()

    def _run(self) -> None:
        for line in self.process.stdout or ():
            if line.endswith("\n"):
                self.acknowledged.append(line.strip())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self._thread.join(60)


class Browser(Writer):
    """Somebody who writes over the REST calls of a Jupyter server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.process = server.process
        self._stop = threading.Event()
        self.client = server.client(params={"storeId": STORE})
        super().__init__()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.say()
                time.sleep(0.005)
        except httpx.TransportError:
            pass  # it was killed
        except AssertionError as error:
            self.wrong.append(str(error))

    def say(self) -> None:
        """One message, durable when it returns."""
        number = next(_numbers)
        id = f"s{number}"
        body = {
            "id": id,
            "commitId": id,
            "conversationId": f"c{number % CONVERSATIONS}",
            "content": text_of(id),
        }
        ok(self.client.post("chat", json=body))
        self.acknowledged.append(id)

    def finish(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join(60)

    def stop(self) -> None:
        self.finish()
        assert self.server.terminate() == 0


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "stores"


@pytest.fixture
def writers(tmp_path: Path, stores: Path) -> Iterator[list[Writer]]:
    """The four; those that are left at the end are killed."""
    writers: list[Writer] = []
    with ThreadPoolExecutor(2) as pool:
        servers = list(pool.map(lambda number: start_server(tmp_path / f"server{number}", stores), range(2)))
    with servers[0].client(params={"storeId": STORE}) as http:
        for number in range(CONVERSATIONS):
            ok(http.post("conversations", json={"id": f"c{number}", "userId": "ada"}))
    writers += [Browser(server) for server in servers]
    writers += [Notebook(stores), Notebook(stores)]
    yield writers
    for writer in writers:
        if writer.process.returncode is None:
            writer.kill()


def start_server(folder: Path, stores: Path) -> Server:
    return Server(folder, f"c.AgentStoreApp.folder = {str(stores)!r}")


def again(writer: Writer, stores: Path) -> Writer:
    """Another one of the same kind."""
    if isinstance(writer, Browser):
        return Browser(start_server(writer.server.folder, stores))
    return Notebook(stores)


def host_of(writers: list[Writer], stores: Path) -> Writer:
    """The one that has the store's files."""

    def look() -> Writer | None:
        pid = owner_of(stores / STORE).get("pid")
        return next((writer for writer in writers if writer.process.pid == pid), None)

    found = until(look)
    assert isinstance(found, Writer)
    return found


def kill_host(writers: list[Writer], stores: Path) -> tuple[Writer, float]:
    """Kill the host while everybody writes; it, and after how many seconds a message by way of another is durable."""
    host = host_of(writers, stores)
    witness = next(writer for writer in writers if isinstance(writer, Browser) and writer is not host)
    before = len(witness.acknowledged)
    until(lambda: len(witness.acknowledged) > before)
    host.process.kill()
    began = time.monotonic()
    witness.say()
    seconds = time.monotonic() - began
    host.kill()
    assert host_of([writer for writer in writers if writer is not host], stores)
    return host, seconds


def test_whoever_is_host_is_killed_and_nothing_is_lost(writers: list[Writer], stores: Path) -> None:
    killed: list[Writer] = []
    took: list[float] = []
    for _ in range(KILLS):
        host, seconds = kill_host(writers, stores)
        killed.append(host)
        took.append(seconds)
        writers[writers.index(host)] = again(host, stores)
    counts = [len(writer.acknowledged) for writer in writers]
    until(lambda: all(len(writer.acknowledged) > n for writer, n in zip(writers, counts, strict=True)))
    browser, *others = writers
    assert isinstance(browser, Browser)
    for writer in others:
        writer.stop()
    browser.finish()
    waiting = {"sql": 'select count(*) as n from "pendingReplies"'}
    until(lambda: ok(browser.client.post("query", json=waiting))["rows"][0]["n"] == 0)
    browser.stop()
    print(f"taken over after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    assert max(took) <= TAKEOVER
    everybody = [*killed, *writers]
    assert [writer.wrong for writer in everybody if writer.wrong] == []
    check(stores, [id for writer in everybody for id in writer.acknowledged])


def check(stores: Path, acknowledged: list[str]) -> None:
    """Nothing acknowledged is missing, nothing is there twice, and no message has two replies."""
    registry = Registry(stores)
    registry.verify(STORE)
    store = registry.get(STORE, create=False)
    said: Counter[str] = Counter()
    texts: dict[str, str] = {}
    replies: Counter[str] = Counter()
    for first in range(0, store.head, 10_000):
        for event in store.read(first, 10_000):
            body = event.decode()
            if body.name != "v1.MessageAdded":
                continue
            said[body.args["id"]] += 1
            texts[body.args["id"]] = body.args["content"]
            if event.actor.startswith("agent:"):
                replies[details(body.args["metadata"])["replyTo"]] += 1
    assert len(acknowledged) > 100
    assert [id for id in acknowledged if said[id] != 1 or texts[id] != text_of(id)] == []
    assert [id for id, times in said.items() if times > 1] == []
    assert replies
    assert [id for id, times in replies.items() if times > 1] == []
    assert store.count("messages") == sum(said.values())
    assert store.query("select count(*) as n from anomalies").table.to_pylist() == [{"n": 0}]
    registry.close()
