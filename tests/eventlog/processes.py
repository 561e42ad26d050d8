"""What runs in a process of its own, for tests that kill it or take its disk away.

``python -m tests.eventlog.processes JOB FOLDER``: a job says on standard output, line by line, what it has done.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

from jupyter_agentstore.core.errors import StoreLocked
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.eventlog import DuckDBLog, Lock
from tests.eventlog.made import events


def say(*words: object) -> None:
    print(*words, flush=True)


def append(folder: Path) -> None:
    """Append for ever, in groups of all sizes, with checkpoints all the time; say each head when it is durable."""
    log = DuckDBLog.open(Instance(settings={"checkpoint_threshold": "100KB"}), folder, "s_log", create=True)
    say(log.head)
    while True:
        count = 2_500 if log.head % 13 == 5 else log.head % 7 + 1
        log.append(events(log.head + 1, log.head + count, size=200))
        say(log.head)


def hold(folder: Path) -> None:
    """Hold the log and its lock until standard input ends."""
    with Lock.take(folder, {"url": "http://localhost:8888/hub/"}):
        log = DuckDBLog.open(Instance(), folder, "s_log", create=True)
        say("held")
        sys.stdin.read()
        log.close()


def take(folder: Path) -> None:
    """Say whether the lock can be had."""
    try:
        with Lock.take(folder):
            say("taken")
    except StoreLocked as error:
        say(error.message)


def fill(folder: Path) -> None:
    """Append to a disk that is soon full; say what was acknowledged, refused, and read meanwhile."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = DuckDBLog.open(Instance(settings={"checkpoint_threshold": "300KB"}), folder, "s_log", create=True)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
    refused = 0
    while refused < 3:
        try:
            log.append(events(log.head + 1, log.head + 200, size=1_000))
        except OSError:
            refused += 1
        assert log.verify() == log.head
    try:
        log.checkpoint()
    except OSError:
        refused += 1
    assert log.read(0, 10**6) == events(1, log.head, size=1_000)
    say("full at", log.head, "refused", refused)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    log.append(events(log.head + 1, log.head + 200, size=1_000))
    log.checkpoint()
    say("room at", log.head)
    log.close()


if __name__ == "__main__":
    {"append": append, "hold": hold, "take": take, "fill": fill}[sys.argv[1]](Path(sys.argv[2]))
