"""LiveStore apps, a Jupyter server for them, and a store of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.jupyter import Jupyter
from tests.livestore.apps import App, built

Launch = Callable[[], App]


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A server with a token, whose agent answers after a moment."""
    server = Jupyter(tmp_path_factory.mktemp("jupyter"), base_url="/x/y/").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def app_file() -> Path:
    """The app; without its packages the tests fail."""
    return built()


@pytest.fixture
def launch(app_file: Path) -> Iterator[Launch]:
    """Start an app; it ends with the test."""
    started: list[App] = []

    def start() -> App:
        started.append(App(app_file))
        return started[-1]

    yield start
    for app in started:
        app.end()


@pytest.fixture
def store_id() -> str:
    """The id of the test's own store."""
    return f"s-{uuid.uuid4().hex[:12]}"
