"""Stores by each way: embedded, remote, and remote with tables here too, for tests that hold of all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_agentstore.client import Store, connect
from tests.client.jupyter import TOKEN, Jupyter
from tests.client.proxy import Proxy


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the servers and folders of whoever runs it."""
    for name in ("JUPYTER_AGENTSTORE_SERVER", "JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_USER", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter-data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter-runtime"))


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A server that tests share; each uses a store of its own."""
    server = Jupyter(tmp_path_factory.mktemp("jupyter"), base_url="/x/y/").start()
    yield server
    server.stop()


@pytest.fixture
def name() -> str:
    """Of a store that no other test has."""
    return f"faults-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def proxy(jupyter: Jupyter) -> Iterator[Proxy]:
    """Stands before the shared server."""
    proxy = Proxy(jupyter.port)
    yield proxy
    proxy.close()


@pytest.fixture(params=["embedded", "remote", "synced"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the test's store; every call another client of the same one."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    opened: list[Store] = []

    def open_() -> Store:
        if request.param == "embedded":
            store = connect(name, folder=tmp_path / "stores")
        else:
            server: Jupyter = request.getfixturevalue("jupyter")
            store = connect(name, url=server.url, token=TOKEN, replica=request.param == "synced")
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    """An empty store, by each way in turn."""
    return open_store()
