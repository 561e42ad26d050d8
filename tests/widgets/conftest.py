"""A server and a store for the panes' tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_agentstore.client import Store, connect
from tests.client.jupyter import TOKEN, Jupyter


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter")).start()
    yield server
    server.stop()


@pytest.fixture(params=["embedded", "remote", "synced"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    name = f"pane-{uuid.uuid4().hex[:8]}"
    if request.param == "embedded":
        store = connect(name, folder=tmp_path / "stores")
    else:
        store = connect(
            name, url=request.getfixturevalue("jupyter").url, token=TOKEN, replica=request.param == "synced"
        )
    with store:
        yield store
