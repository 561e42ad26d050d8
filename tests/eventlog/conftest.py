"""Logs of every kind, and what they are attached to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_agentstore.duck import Instance
from jupyter_agentstore.eventlog import DuckDBLog, EventLog, MemoryLog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def instance() -> Iterator[Instance]:
    instance = Instance()
    yield instance
    instance.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def open_log(instance: Instance, folder: Path) -> Callable[[], DuckDBLog]:
    """Opens the log in ``folder``, made if it is not there."""
    return lambda: DuckDBLog.open(instance, folder, "s_log", create=True)


@pytest.fixture(params=["duckdb", "memory"])
def log(request: pytest.FixtureRequest) -> Iterator[EventLog]:
    """A new log of each backend."""
    made = MemoryLog() if request.param == "memory" else request.getfixturevalue("open_log")()
    yield made
    made.close()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a job of ``processes.py`` on ``folder``; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(job: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.eventlog.processes", job, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
