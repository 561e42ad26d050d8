"""A log in a file and one in memory, put through the same random calls, never differ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jupyter_agentstore.core.events import Event, encode_args, wire
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.eventlog import DuckDBLog, EventLog, MemoryLog

text = st.text(st.characters(exclude_categories=[]), max_size=30)
steps = st.lists(st.tuples(st.integers(0, 5), text, text), min_size=1, max_size=12)


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.instance = Instance()
        self.memory = MemoryLog()
        self.file = self.open()

    def open(self) -> DuckDBLog:
        return DuckDBLog.open(self.instance, Path(self.place.name), "s_log", create=True)

    def both(self, call: Callable[[EventLog], Any]) -> Any:
        """What the call gives on either log, or how it fails: the same."""
        outcomes = []
        for log in (self.memory, self.file):
            try:
                outcomes.append(call(log))
            except Exception as error:
                outcomes.append((type(error), str(error)))
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    @rule(steps=steps, off=st.integers(-3, 3) | st.just(0), back=st.sampled_from([0, 0, 0, 1, 4]))
    def append(self, steps: list[tuple[int, str, str]], off: int, back: int) -> None:
        seq, time = self.memory.head + off, self.memory.last_recorded_at - back
        group = []
        for later, actor, content in steps:
            seq, time = seq + 1, time + later
            body = wire("v1.Any", encode_args({"content": content}), seq, "c", "s")
            group.append(Event(seq, time, actor, body))
        self.both(lambda log: log.append(group))

    @rule(count=st.integers(1990, 2010))
    def append_many(self, count: int) -> None:
        seq, time = self.memory.head, self.memory.last_recorded_at
        group = [
            Event(n, time, "ada", wire("v1.Any", "{}", n, "c", "s")) for n in range(seq + 1, seq + count + 1)
        ]
        assert self.both(lambda log: log.append(group)) is None

    @rule(after=st.integers(-2, 60), limit=st.integers(-1, 40), most=st.none() | st.integers(0, 2000))
    def read(self, after: int, limit: int, most: int | None) -> None:
        self.both(lambda log: log.read(after, limit, most))

    @rule(after=st.integers(-1, 60), size=st.integers(0, 3000), end=st.none() | st.integers(0, 5000))
    def scan(self, after: int, size: int, end: int | None) -> None:
        self.both(lambda log: list(log.scan(after, max(size, 20), end)))

    @rule()
    def checkpoint(self) -> None:
        self.file.checkpoint()

    @rule()
    def reopen(self) -> None:
        backend_id = self.file.backend_id
        self.file.close()
        self.file = self.open()
        assert self.file.backend_id == backend_id

    @rule()
    def verify(self) -> None:
        assert self.both(lambda log: log.verify()) == self.memory.head

    @invariant()
    def alike(self) -> None:
        if hasattr(self, "file"):
            assert (self.file.head, self.file.last_recorded_at) == (
                self.memory.head,
                self.memory.last_recorded_at,
            )

    def teardown(self) -> None:
        if hasattr(self, "file"):
            assert list(self.file.scan()) == list(self.memory.scan())
            self.file.close()
            self.instance.close()
            self.place.cleanup()


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestLogsAgree = Machine.TestCase
